"""The stability of the inner ascent as a table and sentences."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from .results import number_text

# Header -> of the numbers of each example, whose median is shown.
_MEDIANS = {
    "max |κ|": "largest_absolute_curvature",
    "max ||Jv||": "largest_amplification",
    "L_loss": "loss_smoothness",
    "C": "residual",
    "L_eff": "effective_smoothness",
    "1/L_eff": "step_size_bound",
    "max η": "largest_step_size",
}
# Header -> of the shares of steps, whose mean over the steps is shown.
_SHARES = {"η ≤ 1/L_eff": "within_bound", "monotone": "monotone", "at boundary": "at_boundary"}


def stability_cells(results: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Headers, and one row of texts a run; no rows where no run has its stability measured."""
    rows = []
    for name, run in runs_with_stability(results).items():
        numbers = run["stability"]
        medians = [number_text(numbers["per_example"][field][1]) for field in _MEDIANS.values()]
        shares = [f"{mean_share(numbers, field):.1f}" for field in _SHARES.values()]
        rows.append([name, *medians, *shares])
    return ["run", *_MEDIANS, *(f"{header} %" for header in _SHARES)], rows


def stability_tables(results: dict[str, Any]) -> list[Table]:
    """A rich table, where there is something to show."""
    headers, rows = stability_cells(results)
    if not rows:
        return []
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.title, table.title_justify, table.caption_justify = "Stability of the inner ascent", "left", "left"
    table.caption = (
        "Medians over examples, the largest of the steps; shares of all steps. Measured on the segments of the ascent:\n"
        "L_eff = L_loss max ||Jv||² + C is an estimate, no bound between its points."
    )
    for i, header in enumerate(headers):
        table.add_column(header, justify="right" if i else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return [table]


def stability_sentences(results: dict[str, Any]) -> list[str]:
    """One sentence a run: how often the condition of Theorem 3 held, and whether the loss rose where it did."""
    sentences = []
    for name, run in runs_with_stability(results).items():
        numbers = run["stability"]
        share, monotone = (f"{mean_share(numbers, field):.1f}" for field in ("within_bound", "monotone"))
        held = numbers.get("monotone_within_bound")
        rose = "" if held is None else f" ({held:.1f}% of these)"
        sentences.append(
            f"{name}: {share}% of the steps have η ≤ 1/L_eff; the loss did not fall in {monotone}% of all steps{rose}."
        )
    return sentences


def runs_with_stability(results: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Runs whose stability was measured, by name."""
    return {name: run for name, run in results["runs"].items() if run.get("stability")}


def mean_share(numbers: dict[str, Any], field: str) -> float:
    """Of all steps, in percent."""
    shares = numbers["shares"][field]
    return sum(shares) / len(shares)
