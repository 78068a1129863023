"""Methods of the study set against each other: differences by seed, with their 95 % confidence intervals."""

from __future__ import annotations

import statistics
from collections.abc import Callable

from study_settings import EPSILON

from aajr_hf.evaluation.comparison.runs import UNPENALISED
from aajr_hf.evaluation.comparison.trade_off import matched
from aajr_hf.evaluation.reporting.statistics import mean_interval

AAJR = ("aajr", "aajr_amortised")
# The radii at which methods are compared, in multiples of the training radius of 0.25: relative epsilons of 0.3 and 0.5.
RADII = ("1.2", "2")
# A world's runs of one phase, by method.
Methods = dict[str, list[dict]]


def interval(values: list[float], digits: int = 1, sign: bool = False) -> str:
    if not values:
        return "-"
    mean, half = mean_interval(values)
    return f"{mean:{'+' if sign else ''}.{digits}f}" + ("" if half is None else f" ± {half:.{digits}f}")


def paired(ours: list[dict], theirs: list[dict], number: Callable[[dict], float]) -> list[float]:
    """Differences of a number between the runs of equal seeds."""
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
    """A multiple of the training radius as a relative epsilon."""
    return f"{EPSILON * float(radius):g}"


def rows_of(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def prices(final: Methods) -> str:
    """Nominal success that each method gives up against the best one without a penalty, and each penalty against its lambda of 0."""
    numbers = {"greedy": nominal, "sampled": sampled}
    free = [name for name in UNPENALISED if name in final]
    if not free:
        return "No run without a penalty is there yet."
    best = {label: max(free, key=lambda name: statistics.mean(map(numbers[label], final[name]))) for label in numbers}
    rows = []
    for name, runs in final.items():
        of_best = [interval(paired(final[best[label]], runs, numbers[label]), sign=True) for label in numbers]
        zero = final.get("adversarial", []) if name not in UNPENALISED else []
        rows.append(
            [name, *of_best, *(interval(paired(zero, runs, number), sign=True) for number in numbers.values())]
        )
    text = (
        f"Points of nominal success below the best method without a penalty (greedy: {best['greedy']}, sampled: {best['sampled']}); and "
        "below adversarial training alone, all else equal, which is what the penalty itself costs. Paired by seed."
    )
    header = ["method", *numbers, *(f"{label}, of the penalty" for label in numbers)]
    return f"{text}\n\n{rows_of(header, rows)}"


def against(ours: str, worlds: list[Methods]) -> str:
    """Differences to each baseline at the chosen settings, over the seeds of some worlds."""
    numbers = {"nominal": nominal, "sampled": sampled}
    for radius in RADII:
        at = f"worst case at {epsilon(radius)}"
        numbers |= {at: worst(radius), f"sampled {at}": sampled_worst(radius)}
    return ahead(ours, worlds, numbers)


def ahead(ours: str, worlds: list[Methods], numbers: dict[str, Callable[[dict], float]]) -> str:
    """Differences to each baseline in some numbers of a run, by their headings."""
    rows = [
        [name, *(interval(_pooled(ours, name, worlds, number), sign=True) for number in numbers.values())]
        for name in _baselines(ours, worlds)
    ]
    title = f"Points that `{ours}` is ahead of each baseline, at the chosen settings, paired by seed:"
    return f"{title}\n\n{rows_of(['baseline', *numbers], rows)}"


def _pooled(ours: str, name: str, worlds: list[Methods], number: Callable[[dict], float]) -> list[float]:
    return [d for runs in worlds for d in paired(runs.get(ours, []), runs.get(name, []), number)]


def _baselines(ours: str, worlds: list[Methods]) -> list[str]:
    return [n for n in dict.fromkeys(n for runs in worlds if ours in runs for n in runs) if n not in AAJR]


def at_matched(ours: str, worlds: list[Methods]) -> str:
    """At equal robustness and at equal nominal success, over the settings that were tried on the tuning seeds of some worlds."""
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
        f"Points that `{ours}` is ahead in nominal success at matched worst-case success, and in worst-case success at matched nominal "
        "success, by tuning seed: among the settings of each method that are at or above the highest level that both "
        "reach, the best one. Nothing is interpolated, so one of the two can be well above the level; and the best is chosen by the very "
        "observations that it is measured on, which flatters all methods alike. Exact `aajr` has no settings of its own."
    )
    return f"{title}\n\n{rows_of(header, list(rows.values()))}"


def _few(values: list[float]) -> str:
    """Two values themselves: an interval of them would be chance."""
    return interval(values, sign=True) if len(values) > 2 else ", ".join(f"{value:+.1f}" for value in values) or "-"


def matched_differences(ours: list[dict], theirs: list[dict], a, b) -> tuple[list[float], list[float]]:
    """For each seed, by how much `ours` is ahead in `a` where `b` is matched, and in `b` where `a` is."""
    at_worst, at_nominal = [], []
    for seed in sorted({run["seed"] for run in ours} & {run["seed"] for run in theirs}):
        points = [[(a(run), b(run)) for run in runs if run["seed"] == seed] for runs in (ours, theirs)]
        found = matched(*points)
        at_worst.append(found.nominal_at_worst[0] - found.nominal_at_worst[1])
        at_nominal.append(found.worst_at_nominal[0] - found.worst_at_nominal[1])
    return at_worst, at_nominal
