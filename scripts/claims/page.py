"""Parts that the sections of the study's page share: numbers of runs, intervals over seeds, verdicts and tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from recipe_study import ENOUGH_SEEDS

from aajr_hf.evaluation.reporting.statistics import mean_interval

Number = Callable[[dict], float]


def number_of(name: str) -> Number:
    """Return what reads a number of a run: `nominal`, `sampled`, or greedy success at a radius, in percent."""
    fields = {"nominal": "nominal_success", "sampled": "sampled_success"}
    if name in fields:
        return lambda run: run[fields[name]]
    return lambda run: run["worst_case_success"][name]


def cells_of(runs: list[dict], name: str) -> list[Any]:
    """Return the different values of a field, in order."""
    return list(dict.fromkeys(run[name] for run in runs))


def by_seed(runs: list[dict], other: list[dict], number: Number) -> list[float]:
    """Return the differences of a number between runs with the same seed."""
    theirs = {run["seed"]: run for run in other}
    return [number(run) - number(theirs[run["seed"]]) for run in runs if run["seed"] in theirs]


def text_of(values: list[float], digits: int = 1, sign: bool = False) -> str:
    """Return a mean over seeds, with its 95 % interval if there are enough; `-` without values."""
    if not values:
        return "-"
    mean, half = mean_interval(values)
    text = f"{mean:{'+' if sign else ''}.{digits}f}"
    return text if half is None or len(values) < ENOUGH_SEEDS else f"{text} ± {half:.{digits}f}"


def verdict(gains: list[float], digits: int = 1) -> str:
    """Return whether a claim holds that these differences are above 0, by their 95 % interval over seeds."""
    if len(gains) < ENOUGH_SEEDS:
        return f"**cannot be told** ({len(gains)} seed{'s' * (len(gains) != 1)})"
    mean, half = mean_interval(gains)
    if abs(mean) <= half:
        return f"**cannot be told** ({text_of(gains, digits, sign=True)})"
    return f"**{'holds' if mean > 0 else 'does not hold'}** ({text_of(gains, digits, sign=True)})"


def markdown_table(header: list[str], rows: list[list[str]]) -> list[str]:
    """Return the lines of a table."""
    return [f"| {' | '.join(line)} |" for line in (header, ["---"] * len(header), *rows)]
