"""Report success by the class of the examples: cells and a table."""

from __future__ import annotations

from rich.table import Table

from ...training.sharing.results import EvaluationResults
from .results import interval_text, multiples, percent_text, times
from .statistics import wilson
from .tables import text_table

TITLE = "Success by class"


def class_note(results: EvaluationResults) -> str:
    """Return what the columns of the table mean."""
    right = "right answers" if results["kind"] == "robustness" else "exact calls"
    return f"{right} in percent [95 % interval], by class (--class_column); largest classes first."


def class_cells(results: EvaluationResults) -> tuple[list[str], list[list[str]]]:
    """Return headers, and a row of text cells for each class of each run that was measured by class."""
    radii, rows = multiples(results), []
    for name, run in results["runs"].items():
        for number, (label, shares) in enumerate(run.get("by_class", {}).items()):
            values = [shares["nominal"], *(shares["worst_case"][m] for m in radii)]
            cells = [f"{percent_text(v)} {interval_text(list(wilson(v, shares['examples'])))}" for v in values]
            rows.append(["" if number else name, label, str(shares["examples"]), *cells])
    return ["run", "class", "examples", "nominal", *(f"worst {times(m)}" for m in radii)], rows


def class_tables(results: EvaluationResults) -> list[Table]:
    """Return the table for the terminal; none without classes."""
    headers, rows = class_cells(results)
    return [text_table(headers, rows, TITLE, class_note(results))] if rows else []
