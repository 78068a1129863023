"""How many examples keep a budget gamma along the adversary's directions, and how many along all: Theorem 1 on a trained agent."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from ..objective import AscentTrajectory, spectral_norm
from ..training.policy import fixed_seed, forward_ad_ready
from ..training.recipe import RECIPE, recipe_in
from .attacks.target import Target
from .means import Means
from .settings import RobustnessSettings
from .tables import text_table

HEADERS = ("run", "budget", "in F_ad", "in F_gamma", "examples")


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


def membership_cells(results: dict[str, Any]) -> list[list[str]]:
    """A row of [`HEADERS`] for each run with a budget."""
    return [
        [
            name,
            f"{member['budget']:g}",
            f"{member['along_ascent']:.1f} %",
            f"{member['everywhere']:.1f} %",
            str(member["examples"]),
        ]
        for name, member in _members(results)
    ]


def membership_tables(results: dict[str, Any]) -> list[Table]:
    """The same as a rich table; none without a budget."""
    rows = membership_cells(results)
    if not rows:
        return []
    caption = (
        "F_ad: at most the budget along the adversary's directions, at every point of the ascent.\n"
        "F_gamma: at most the budget in every direction there (spectral norm, a lower bound)."
    )
    return [text_table(HEADERS, rows, "Amplification budget", caption)]


def membership_sentences(results: dict[str, Any]) -> list[str]:
    """What the shares show, for each run with a budget, and what they do not."""
    sentences = []
    for name, member in _members(results):
        inside, strictly = member["along_ascent"], member["along_ascent"] - member["everywhere"]
        theorem = (
            f"{strictly:.1f}% are in F_ad and not in F_gamma, so that Theorem 1's inclusion is strict there"
            if strictly > 0
            else "no example tells F_ad from F_gamma"
        )
        sentences.append(
            f"{name}: {inside:.1f}% of {member['examples']} examples keep the budget {member['budget']:g} along the adversary's "
            f"directions, {member['everywhere']:.1f}% in every direction; {theorem}."
        )
    if sentences:
        sentences.append(
            "Budgets are checked for examples at the points of the evaluation's own ascent, which need not be that of training, "
            "and not for all states; the spectral norm is a lower bound, so that fewer may be in F_gamma."
        )
    return sentences


def _members(results: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [(name, run["membership"]) for name, run in results["runs"].items() if "membership" in run]
