"""Parts that the sections of the study's page share: numbers of runs, differences by seed, and verdicts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scipy.stats import ttest_1samp
from shared.tables import ENOUGH_SEEDS, text_of

from aajr_hf.evaluation.reporting.statistics import mean_interval

Number = Callable[[dict], float]


def number_of(name: str) -> Number:
    """
    Return what reads a success of a run, in percent: `nominal`, `sampled` (without attack), `1` (of greedy answers at this
    radius) or `sampled 1`.
    """
    fields = {"nominal": "nominal_success", "sampled": "sampled_success"}
    if name in fields:
        return lambda run: run[fields[name]]
    if name.startswith("sampled "):
        return lambda run: run["sampled_worst_case_success"][name.removeprefix("sampled ")]
    return lambda run: run["worst_case_success"][name]


def cells_of(runs: list[dict], name: str) -> list[Any]:
    """Return the different values of a field, in order."""
    return list(dict.fromkeys(run[name] for run in runs))


def where(runs: list[dict], **facts: Any) -> list[dict]:
    """Return the runs that contain these facts: `where(runs, agent="AAJR", ascent_steps=3)`."""
    return [run for run in runs if all(name in run and run[name] == fact for name, fact in facts.items())]


def by_seed(runs: list[dict], other: list[dict], number: Number) -> list[float]:
    """
    Return the differences of a number between runs with the same seed.

    Raises:
        ValueError: if a seed occurs twice, so that runs of different cells would be mixed.
    """
    theirs = {run["seed"]: run for run in other}
    for some in (runs, other):
        if len({run["seed"] for run in some}) < len(some):
            raise ValueError(f"Runs of different cells have the same seed: {sorted({run['cell'] for run in some})}.")
    return [number(run) - number(theirs[run["seed"]]) for run in runs if run["seed"] in theirs]


def verdict(gains: list[float], digits: int = 1) -> str:
    """Return whether a claim holds that these differences are above 0, by their 95 % interval over seeds."""
    if len(gains) < ENOUGH_SEEDS:
        return f"**cannot be told** ({len(gains)} seed{'s' * (len(gains) != 1)})"
    mean, half = mean_interval(gains)
    if abs(mean) <= half:
        return f"**cannot be told** ({text_of(gains, digits, sign=True)})"
    return f"**{'holds' if mean > 0 else 'does not hold'}** ({text_of(gains, digits, sign=True)})"


def holm(families: dict[str, list[float]]) -> dict[str, float]:
    """
    Return the p-value of each comparison: that of Student's t-test of its differences against 0, times the number of comparisons
    that are not more certain (Holm, 1979), so that one in twenty such *tables* has a p below 0.05 by chance.
    """
    found = {name: float(ttest_1samp(values, 0.0).pvalue) for name, values in families.items()}
    adjusted, largest = {}, 0.0
    for done, name in enumerate(sorted(found, key=found.get)):
        largest = max(largest, min(1.0, found[name] * (len(found) - done)))
        adjusted[name] = largest
    return adjusted
