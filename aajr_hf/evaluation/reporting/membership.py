"""What is said of the budgets that examples keep: cells, tables and sentences."""

from __future__ import annotations

from rich.table import Table

from ...training.sharing.results import Membership, RobustnessResults
from .tables import text_table

HEADERS = ("run", "budget", "in F_ad", "in F_gamma", "examples")


def membership_cells(results: RobustnessResults) -> list[list[str]]:
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


def membership_tables(results: RobustnessResults) -> list[Table]:
    """The same as a rich table; none without a budget."""
    rows = membership_cells(results)
    if not rows:
        return []
    caption = (
        "F_ad: at most the budget along the adversary's directions, at every point of the ascent.\n"
        "F_gamma: at most the budget in every direction there (spectral norm, a lower bound)."
    )
    return [text_table(HEADERS, rows, "Amplification budget", caption)]


def membership_sentences(results: RobustnessResults) -> list[str]:
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


def _members(results: RobustnessResults) -> list[tuple[str, Membership]]:
    return [(name, run["membership"]) for name, run in results["runs"].items() if "membership" in run]
