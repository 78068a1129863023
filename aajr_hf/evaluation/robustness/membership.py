"""Shares of examples within the budget gamma, along the adversary's directions and along all (Theorem 1)."""

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
    Return the amplification budget in the recipe of an agent. Return None without a budget, or if the budget is not
    for the sum over plain logits, which is what evaluations measure.

    Raises:
        ValueError: if the recipe is invalid, or its budget is not a finite number above 0.
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
    Add the percentages of the first `spectral_examples` of a batch that are in F_ad(gamma) and in F_gamma.

    An example is in F_ad if `max_t ||J(s + delta_t) u_t|| <= gamma` along the ascent, and in F_gamma if `max_t ||J(s +
    delta_t)|| <= gamma` with the spectral norm. The spectral norm is estimated from below, as the maximum of the power
    iteration and the amplification itself. Every example in F_gamma is therefore also in F_ad.

    Args:
        amplification: `||J(s + delta_t) u_t||` along the trajectory, (K, B).
    """
    few = torch.arange(min(settings.spectral_examples, len(target.batch)), device=target.origin.device)
    policy, mask = target.policy.select(few), target.batch.perturbable[few]
    largest = []
    # A seed of its own keeps the other numbers the same with and without a budget.
    with forward_ad_ready(target.model), fixed_seed(target.origin.device, settings.seed):
        for t in range(trajectory.steps):
            state = target.origin[few] + trajectory.deltas[t][few]
            norms = spectral_norm(policy, state, iterations=settings.power_iterations, mask=mask).detach()
            largest.append(torch.maximum(norms, amplification[t][few]))
    for name, values in (("along_ascent", amplification[:, few]), ("everywhere", torch.stack(largest))):
        within = (values <= settings.budget).all(dim=0)
        totals.add(100 * within.float(), "membership", name)


def examples_of(settings: RobustnessSettings, examples: int) -> int:
    """Return the number of examples for which membership is measured."""
    batches, rest = divmod(examples, settings.batch_size)
    return batches * min(settings.spectral_examples, settings.batch_size) + min(settings.spectral_examples, rest)
