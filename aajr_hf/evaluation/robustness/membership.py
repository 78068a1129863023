"""How many examples keep a budget gamma along the adversary's directions, and how many along all: Theorem 1 on a trained agent."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from ...objective import AscentTrajectory, spectral_norm
from ...training.config.recipe import RECIPE, recipe_in
from ...training.policy.forward_mode import forward_ad_ready
from ...training.policy.policy import fixed_seed
from ..attacks.settings import RobustnessSettings
from ..attacks.target import Target
from ..means import Means


def budget_of(folder: str | Path) -> float | None:
    """
    The budget that the agent in a folder was trained with, where it is one of plain logits, as evaluations measure them; None
    otherwise.

    Raises:
        ValueError: for a recipe that is none, or whose budget is no finite number above 0.
    """
    file = Path(folder) / RECIPE
    if not file.is_file():
        return None
    recipe = recipe_in(Path(folder))
    budget = recipe.get("amplification_budget")
    measured = {"penalty_output": "logits", "penalty_reduction": "sum"}
    if budget is None or any(recipe.get(name, value) != value for name, value in measured.items()):
        return None
    try:
        number = float(budget)
    except (ValueError, TypeError, OverflowError):
        number = math.nan
    if not 0 < number < math.inf:
        raise ValueError(f"{file}: `amplification_budget` must be a finite number above 0; got {budget!r}.")
    return number


def add_membership(
    target: Target, trajectory: AscentTrajectory, amplification: Tensor, settings: RobustnessSettings, totals: Means
) -> None:
    """
    Percent of the first `spectral_examples` of a batch that lie in F_ad(gamma), `max_t ||J(s + delta_t) u_t|| <= gamma` along
    the ascent, and in F_gamma, `max_t ||J(s + delta_t)|| <= gamma` with the spectral norm. That is bounded from below, by power
    iterations and by the amplification itself: whatever is in F_gamma is in F_ad.

    Args:
        amplification: `||J(s + delta_t) u_t||` of the trajectory, (K, B).
    """
    few = torch.arange(min(settings.spectral_examples, len(target.batch)), device=target.origin.device)
    policy, mask = target.policy.select(few), target.batch.perturbable[few]
    largest = []
    # With random numbers of its own: others are the same whether there is a budget.
    with forward_ad_ready(target.model), fixed_seed(target.origin.device, settings.seed):
        for t in range(trajectory.steps):
            state = target.origin[few] + trajectory.deltas[t][few]
            norms = spectral_norm(policy, state, iterations=settings.power_iterations, mask=mask).detach()
            largest.append(torch.maximum(norms, amplification[t][few]))
    for name, values in (("along_ascent", amplification[:, few]), ("everywhere", torch.stack(largest))):
        within = (values <= settings.budget).all(dim=0)
        totals.add(100 * within.float(), "membership", name)


def examples_of(settings: RobustnessSettings, examples: int) -> int:
    """Of how many examples membership is measured."""
    batches, rest = divmod(examples, settings.batch_size)
    return batches * min(settings.spectral_examples, settings.batch_size) + min(settings.spectral_examples, rest)
