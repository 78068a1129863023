"""Report how many examples are within the amplification budget: cells, tables and sentences."""

from __future__ import annotations

from rich.table import Table

from ...training.sharing.results import Membership, RobustnessResults
from .tables import text_table

HEADERS = ("run", "budget", "in F_ad", "in F_gamma", "examples")


def membership_cells(results: RobustnessResults) -> list[list[str]]:
    """Return a row for each run with a budget, under [`HEADERS`]."""
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
    """Return [`membership_cells`] as a rich table, or nothing without a budget."""
    rows = membership_cells(results)
    if not rows:
        return []
    caption = (
        "F_ad: at most the budget along the adversary's directions, at every point of the ascent.\n"
        "F_gamma: at most the budget in every direction there (spectral norm, a lower bound)."
    )
    return [text_table(HEADERS, rows, "Amplification budget", caption)]


def membership_sentences(results: RobustnessResults) -> list[str]:
    """Return a sentence on the shares for each run with a budget, and one on their limits."""
    sentences = []
    for name, member in _members(results):
        inside, strictly = member["along_ascent"], member["along_ascent"] - member["everywhere"]
        theorem = (
            f"{strictly:.1f}% are in F_ad but not in F_gamma, so the inclusion of Theorem 1 is strict there"
            if strictly > 0
            else "no example is in F_ad but not in F_gamma"
        )
        sentences.append(
            f"{name}: {inside:.1f}% of {member['examples']} examples are within the budget {member['budget']:g} along the "
            f"adversary's directions, {member['everywhere']:.1f}% in every direction; {theorem}."
        )
    if sentences:
        sentences.append(
            "Budgets are checked only at the points of the evaluation's own ascent, which may differ from the ascent in "
            "training. The spectral norm is a lower bound, so fewer examples may be in F_gamma."
        )
    return sentences


def _members(results: RobustnessResults) -> list[tuple[str, Membership]]:
    return [(name, run["membership"]) for name, run in results["runs"].items() if "membership" in run]
