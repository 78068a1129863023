"""Report what is covered of the directions that must not matter, and how far they move an agent: cells, a note, a table."""

from __future__ import annotations

from rich.table import Table

from ...training.sharing.results import RobustnessResults
from .results import number_text, percent_text
from .tables import text_table

TITLE = "Nuisances"
HEADERS = ("run", "subspace", "dims", "ascents %", "variants %", "drift", "changed %", "shift")


def nuisance_note(results: RobustnessResults) -> str:
    """Return what the columns of the table mean."""
    found = next((run["nuisance"] for run in results["runs"].values() if "nuisance" in run), None)
    if found is None:
        return ""
    return (
        f"Subspaces of at most {found['rank']} of {found['dimensions']} dimensions of a token's embedding, each estimated from "
        "one half of the observations and measured on the other; answers (directions to observations with other right answers) "
        "and random are controls. ascents, variants: energy in the subspace, of the adversary's ascents, and of variants of "
        "observations with the same right answer. drift: mean squared change of the logits per squared length of a small change "
        "along what the subspace was estimated from. changed: variants that change the agent's answer; shift: their mean change "
        "of the logits."
    )


def nuisance_cells(results: RobustnessResults) -> list[list[str]]:
    """Return a row for each subspace of each run that has these numbers, under [`HEADERS`]."""
    rows = []
    for name, run in results["runs"].items():
        for number, (source, numbers) in enumerate(run["nuisance"]["subspaces"].items() if "nuisance" in run else ()):
            whole = [percent_text(run["nuisance"]["changed"]), number_text(run["nuisance"]["shift"])]
            cells = [source, f"{numbers['directions']:g}", percent_text(numbers["of_ascents"])]
            cells += [percent_text(numbers["of_variants"]), number_text(numbers["drift"])]
            rows.append(["" if number else name, *cells, *(["", ""] if number else whole)])
    return rows


def nuisance_tables(results: RobustnessResults) -> list[Table]:
    """Return the table for the terminal; none without these numbers."""
    rows = nuisance_cells(results)
    return [text_table(HEADERS, rows, TITLE, nuisance_note(results), left=2)] if rows else []
