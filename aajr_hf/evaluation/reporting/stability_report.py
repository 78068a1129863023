"""The stability of the inner ascent as a table and sentences."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from ...training.sharing.results import RobustnessResults, RobustnessRun, StabilityNumbers
from .results import number_text, percent_text
from .tables import plain_table

# Maps a header of two lines to a number of each example; the table shows its median.
_MEDIANS = {
    ("max", "|κ|"): "largest_absolute_curvature",
    ("max", "|Jv|"): "largest_amplification",
    ("", "L_loss"): "loss_smoothness",
    ("", "C"): "residual",
    ("", "L_eff"): "effective_smoothness",
    ("1 /", "L_eff"): "step_size_bound",
    ("max", "η"): "largest_step_size",
}
# Maps a header of two lines to a share by step; the table shows its mean over the steps.
_SHARES = {
    ("η≤1/", "L_eff"): "within_bound",
    ("η≤1/", "|κ|"): "within_curvature",
    ("mono-", "tone"): "monotone",
    ("boun-", "dary"): "at_boundary",
}


def stability_cells(results: RobustnessResults) -> tuple[list[tuple[str, str]], list[list[str]]]:
    """Return headers of two lines, and one row of text cells for each run whose stability was measured."""
    rows = []
    for name, run in runs_with_stability(results).items():
        numbers = run["stability"]
        medians = [_short(numbers["per_example"][field][1]) for field in _MEDIANS.values()]
        rows.append([name, *medians, *(percent_text(mean_share(numbers, field)) for field in _SHARES.values())])
    return [("run", ""), *_MEDIANS, *_SHARES], rows


def stability_tables(results: RobustnessResults) -> list[Table]:
    """Return a rich table, or nothing if no run has its stability measured."""
    headers, rows = stability_cells(results)
    if not rows:
        return []
    caption = (
        "Medians over examples; then shares of all steps, in percent. L_eff is\n"
        "L_loss max |Jv|² + C as measured: an estimate, not a bound between points."
    )
    table = plain_table("Stability of the inner ascent", caption, gap=0)
    for first, second in headers:
        is_name = first == "run"
        table.add_column(
            f"{first}\n{second}", justify="left" if is_name else "right", no_wrap=not is_name, overflow="fold"
        )
    for row in rows:
        table.add_row(*map(Text, row))
    return [table]


def stability_sentences(results: RobustnessResults) -> list[str]:
    """Return one sentence per run: how often the condition of Theorem 3 held, and how often the loss did not fall."""
    return [
        f"{name}: {_condition(run['stability'], 'within_bound', 'η ≤ 1/L_eff')}, "
        f"{_condition(run['stability'], 'within_curvature', 'η ≤ 1/max |κ|')}; the loss did not fall in "
        f"{percent_text(mean_share(run['stability'], 'monotone'))}% of all steps."
        for name, run in runs_with_stability(results).items()
    ]


def _condition(numbers: StabilityNumbers, field: str, words: str) -> str:
    monotone = numbers.get(f"monotone_{field}")
    rose = "" if monotone is None else f" (the loss did not fall in {percent_text(monotone)}% of these)"
    return f"{percent_text(mean_share(numbers, field))}% of the steps have {words}{rose}"


def _short(number: float) -> str:
    """Return a number with two or three significant digits, in at most eight characters."""
    if number == 0 or 1e-2 <= abs(number) < 1e4:
        return number_text(number)
    mantissa, exponent = f"{number:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def runs_with_stability(results: RobustnessResults) -> dict[str, RobustnessRun]:
    """Return the runs whose stability was measured, by name."""
    return {name: run for name, run in results["runs"].items() if run.get("stability")}


def mean_share(numbers: StabilityNumbers, field: str) -> float:
    """Return the mean of a share over all steps, in percent."""
    shares = numbers["shares"][field]
    return sum(shares) / len(shares)
