"""Comparisons of the study's methods: differences by seed, with their 95 % confidence intervals."""

from __future__ import annotations

import statistics
from collections.abc import Callable

from study_settings import EPSILON

from aajr_hf.evaluation.comparison.runs import UNPENALISED
from aajr_hf.evaluation.comparison.trade_off import matched
from aajr_hf.evaluation.reporting.statistics import mean_interval

AAJR = ("aajr", "aajr_amortised")
# The radii at which methods are compared, in multiples of the training radius of 0.25: relative epsilons of 0.3 and
# 0.5.
RADII = ("1.2", "2")
# A world's runs of one phase, by method.
Methods = dict[str, list[dict]]


def interval(values: list[float], digits: int = 1, sign: bool = False) -> str:
    if not values:
        return "-"
    mean, half = mean_interval(values)
    return f"{mean:{'+' if sign else ''}.{digits}f}" + ("" if half is None else f" ± {half:.{digits}f}")


def paired(ours: list[dict], theirs: list[dict], number: Callable[[dict], float]) -> list[float]:
    """Return the differences of a number between runs with the same seed."""
    others = {run["seed"]: run for run in theirs}
    return [number(run) - number(others[run["seed"]]) for run in ours if run["seed"] in others]


def nominal(run: dict) -> float:
    return run["nominal_success"]


def sampled(run: dict) -> float:
    return run["sampled_success"]


def worst(radius: str) -> Callable[[dict], float]:
    return lambda run: run["worst_case_success"][radius]


def sampled_worst(radius: str) -> Callable[[dict], float]:
    return lambda run: run["sampled_worst_case_success"][radius]


def epsilon(radius: str) -> str:
    """Format a multiple of the training radius as a relative epsilon."""
    return f"{EPSILON * float(radius):g}"


def rows_of(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def prices(final: Methods) -> str:
    """
    Return a table of the nominal success that each method gives up against the best method without a penalty, and that
    each penalty gives up against the same training with a lambda of 0.
    """
    numbers = {"greedy": nominal, "sampled": sampled}
    free = [name for name in UNPENALISED if name in final]
    if not free:
        return "There is no run without a penalty yet."
    best = {label: max(free, key=lambda name: statistics.mean(map(numbers[label], final[name]))) for label in numbers}
    rows = []
    for name, runs in final.items():
        of_best = [interval(paired(final[best[label]], runs, numbers[label]), sign=True) for label in numbers]
        zero = final.get("adversarial", []) if name not in UNPENALISED else []
        rows.append(
            [name, *of_best, *(interval(paired(zero, runs, number), sign=True) for number in numbers.values())]
        )
    text = (
        "The table shows how many points of nominal success each method loses against the best method without a "
        f"penalty (greedy: {best['greedy']}, sampled: {best['sampled']}), and against adversarial training alone with "
        "everything else equal, which is the cost of the penalty itself. Differences are paired by seed."
    )
    header = ["method", *numbers, *(f"{label}, of the penalty" for label in numbers)]
    return f"{text}\n\n{rows_of(header, rows)}"


def against(ours: str, worlds: list[Methods]) -> str:
    """Return a table of differences from each baseline at the chosen settings, over the seeds of some worlds."""
    numbers = {"nominal": nominal, "sampled": sampled}
    for radius in RADII:
        at = f"worst case at {epsilon(radius)}"
        numbers |= {at: worst(radius), f"sampled {at}": sampled_worst(radius)}
    return ahead(ours, worlds, numbers)


def ahead(ours: str, worlds: list[Methods], numbers: dict[str, Callable[[dict], float]]) -> str:
    """Return a table of differences from each baseline; `numbers` gives the number of a run for each heading."""
    rows = [
        [name, *(interval(_pooled(ours, name, worlds, number), sign=True) for number in numbers.values())]
        for name in _baselines(ours, worlds)
    ]
    title = (
        f"Difference between `{ours}` and each baseline in points, at the chosen settings, paired by seed (positive: "
        f"`{ours}` is ahead):"
    )
    return f"{title}\n\n{rows_of(['baseline', *numbers], rows)}"


def _pooled(ours: str, name: str, worlds: list[Methods], number: Callable[[dict], float]) -> list[float]:
    return [d for runs in worlds for d in paired(runs.get(ours, []), runs.get(name, []), number)]


def _baselines(ours: str, worlds: list[Methods]) -> list[str]:
    return [n for n in dict.fromkeys(n for runs in worlds if ours in runs for n in runs) if n not in AAJR]


def at_matched(ours: str, worlds: list[Methods]) -> str:
    """
    Return a table of differences at equal robustness and at equal nominal success, over the settings that were tried on
    the tuning seeds of some worlds.
    """
    header, rows = ["baseline"], {name: [name] for name in _baselines(ours, worlds)}
    for radius in RADII:
        for prefix, a, b in (("", nominal, worst(radius)), ("sampled ", sampled, sampled_worst(radius))):
            header += [
                f"{prefix}nominal, {epsilon(radius)} matched",
                f"{prefix}worst case at {epsilon(radius)}, nominal matched",
            ]
            for name, row in rows.items():
                found = [matched_differences(runs.get(ours, []), runs.get(name, []), a, b) for runs in worlds]
                for values in zip(*found, strict=True):
                    row.append(_few([value for of_world in values for value in of_world]))
    title = (
        f"Points by which `{ours}` is ahead in nominal success at matched worst-case success, and in worst-case "
        "success at matched nominal success, by tuning seed. The matched level is the highest level that both "
        "methods reach; each method takes its best setting at or above this level. Nothing is interpolated, so one "
        "of the two settings can be well above the level. The best setting is chosen on the same observations that "
        "it is measured on, which favours all methods equally. Exact `aajr` has no settings of its own."
    )
    return f"{title}\n\n{rows_of(header, list(rows.values()))}"


def _few(values: list[float]) -> str:
    """Format an interval, or the values themselves if there are at most two, because their interval would be chance."""
    return interval(values, sign=True) if len(values) > 2 else ", ".join(f"{value:+.1f}" for value in values) or "-"


def matched_differences(ours: list[dict], theirs: list[dict], a, b) -> tuple[list[float], list[float]]:
    """Return for each seed by how much `ours` is ahead in `a` with `b` matched, and in `b` with `a` matched."""
    at_worst, at_nominal = [], []
    for seed in sorted({run["seed"] for run in ours} & {run["seed"] for run in theirs}):
        points = [[(a(run), b(run)) for run in runs if run["seed"] == seed] for runs in (ours, theirs)]
        found = matched(*points)
        at_worst.append(found.nominal_at_worst[0] - found.nominal_at_worst[1])
        at_nominal.append(found.worst_at_nominal[0] - found.worst_at_nominal[1])
    return at_worst, at_nominal
