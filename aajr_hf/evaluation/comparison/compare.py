"""Compare several runs and compute the price of their robustness."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from typing import Any

from trl import SFTConfig

from ...training.config.sft import AAJRConfig
from ...training.sharing.results import (
    AtNominal,
    AtWorstCase,
    BestUnregularised,
    ComparedRun,
    ComparisonResults,
    Configuration,
    MatchedPair,
    RobustnessResults,
    Training,
    Unregularised,
)
from ..reporting.results import DECODINGS, check_results, difference, multiples
from .runs import METHODS, UNPENALISED
from .trade_off import Point, matched, price_of_robustness

_OF_THE_PENALTY = ("regularizer", "penalty_", "power_iterations", "jacobian_estimator", "amplification_budget")
_OF_THE_MODEL = ("adapter", "adapter_rank", "adapter_options", "freeze_embeddings", "system_loss", "on_nonfinite")


def compare(results: RobustnessResults, described: dict[str, Training]) -> ComparisonResults:
    """
    Compare runs, given their measured numbers and how they were trained.

    Args:
        results: Results of `aajr evaluate`, see [`check_results`].
        described: By name of the run, the result of [`read_run`].

    Returns:
        - `runs`: by name, the numbers and the description of each run, and its `price` of robustness for each way of
          decoding (None if every run has a penalty).
        - `configurations`: means over the runs that differ only in their seed.
        - `best_unregularised`: for each way of decoding, the configuration without a penalty that has the highest
          nominal success.
        - `matched`: one method against each other method, at every radius and for each way of decoding.
        - `differing_settings`: fields in which the runs differ although their methods do not require it.
        - `kind`, `version`, `train_epsilon`, `threat_model` and `settings`.

    Raises:
        ValueError: for results of another kind, and if a number is missing or not finite; names the run and the field.
    """
    check_results(results)
    order = sorted(described, key=lambda name: _place(described[name]))
    runs = {name: described[name] | results["runs"][name] for name in order}
    configurations = _configurations(runs, multiples(results))
    best = {decoding: _best_unregularised(configurations, nominal) for decoding, (nominal, _) in DECODINGS.items()}
    for run in (*runs.values(), *configurations):
        run["price"] = {
            decoding: best[decoding] and price_of_robustness(best[decoding]["nominal"], run[DECODINGS[decoding][0]])
            for decoding in DECODINGS
        }
    return {
        "kind": "comparison",
        "version": results["version"],
        "train_epsilon": results["train_epsilon"],
        "threat_model": results["threat_model"],
        "settings": results["settings"],
        "runs": runs,
        "configurations": configurations,
        "best_unregularised": best,
        "matched": _all_matched(configurations, multiples(results), best),
        "differing_settings": _differing_settings(runs),
    }


def _place(run: Training) -> tuple[float, ...]:
    numbers = (run[field] or 0.0 for field in ("regularizer_lambda", "epsilon", "seed"))
    return METHODS.index(run["method"]), *numbers


def _configurations(runs: dict[str, ComparedRun], attacks: list[str]) -> list[Configuration]:
    groups: dict[str, list[str]] = {}
    for name, run in runs.items():
        settings = [run["method"], run["regularizer_lambda"], run["epsilon"], run["recipe"]]
        key = name if run["recipe"] is None else json.dumps(settings, sort_keys=True, default=str)
        groups.setdefault(key, []).append(name)
    found = []
    for names in groups.values():
        members = [runs[name] for name in names]
        means: dict[str, Any] = {"outcomes": {}}
        for nominal, worst in DECODINGS.values():
            means[nominal] = _mean(run[nominal] for run in members)
            means[worst] = {m: _mean(run[worst][m] for run in members) for m in attacks}
            outcomes = [run["outcomes"] for run in members]
            means["outcomes"][nominal] = _means([found[nominal] for found in outcomes])
            means["outcomes"][worst] = {m: _means([found[worst][m] for found in outcomes]) for m in attacks}
        label = names[0] if len(names) == 1 else f"{names[0]} ({len(names)} seeds)"
        fixed = {field: members[0][field] for field in ("method", "regularizer_lambda", "epsilon")}
        examples = min(run["examples"] for run in members)
        found.append({"label": label, "runs": names, "examples": examples} | fixed | means)
    return found


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values)


def _means(seeds: Sequence[Sequence[float]]) -> list[float]:
    """Return the mean outcome of each example over the seeds."""
    return [_mean(values) for values in zip(*seeds, strict=True)]


def _best_unregularised(configurations: list[Configuration], field: str) -> Unregularised | None:
    candidates = [c for c in configurations if c["method"] in UNPENALISED]
    best = max(candidates, key=lambda c: c[field], default=None)
    return best and {"label": best["label"], "nominal": best[field]}


def focus_of(configurations: list[Configuration], attacks: list[str]) -> str:
    """Return the method that the others are compared with: `aajr` or, without it, the most robust method."""
    if any(c["method"] == "aajr" for c in configurations):
        return "aajr"
    return max(configurations, key=lambda c: c["worst_case_success"][attacks[-1]])["method"]


def _all_matched(
    configurations: list[Configuration], attacks: list[str], best: BestUnregularised
) -> list[MatchedPair]:
    by_method: dict[str, list[Configuration]] = {}
    for configuration in configurations:
        by_method.setdefault(configuration["method"], []).append(configuration)
    focus = focus_of(configurations, attacks)
    # Methods that train against an adversary come first, because they are closer to the focus.
    others = sorted(by_method, key=lambda method: (method in ("base", "sft"), METHODS.index(method)))
    return [
        {"methods": [focus, other], "multiple": multiple, "decoding": decoding}
        | _matched(by_method[focus], by_method[other], multiple, decoding, best[decoding])
        for other in others
        if other != focus
        for multiple in attacks
        for decoding in DECODINGS
    ]


def _matched(
    ours: list[Configuration],
    theirs: list[Configuration],
    multiple: str,
    decoding: str,
    best: Unregularised | None,
) -> dict[str, AtWorstCase | AtNominal]:
    nominal, worst = DECODINGS[decoding]

    def points(configurations: list[Configuration]) -> list[Point]:
        return [(c[nominal], c[worst][multiple]) for c in configurations]

    def whose(level: float, values: tuple[float, float], given: int) -> list[Configuration]:
        """Return the first configuration of each method that has this value and at least this level."""
        return [
            next(
                c
                for c, point in zip(side, points(side), strict=True)
                if point[given] >= level and point[1 - given] == value
            )
            for side, value in zip((ours, theirs), values, strict=True)
        ]

    def described(pair: list[Configuration], field: str, m: str | None) -> dict[str, Any]:
        return {"runs": [c["label"] for c in pair], "difference": dataclasses.asdict(difference(*pair, field, m))}

    found = matched(points(ours), points(theirs))
    at_worst, at_nominal = found.nominal_at_worst, found.worst_at_nominal
    robust, able = whose(found.worst, at_worst, 1), whose(found.nominal, at_nominal, 0)
    return {
        "at_worst_case": {
            "level": found.worst,
            "nominal": list(at_worst),
            "price": [best and price_of_robustness(best["nominal"], value) for value in at_worst],
        }
        | described(robust, nominal, None),
        "at_nominal": {"level": found.nominal, "worst_case": list(at_nominal)} | described(able, worst, multiple),
    }


def _differing_settings(runs: dict[str, ComparedRun]) -> dict[str, list[Any]]:
    """Return fields with several values among the trained runs that they apply to; skip fields of the penalty."""
    own = {field.name for field in dataclasses.fields(AAJRConfig)} - {f.name for f in dataclasses.fields(SFTConfig)}
    trained = [run for run in runs.values() if run["recipe"] is not None]
    found = {}
    for name in sorted({name for run in trained for name in run["recipe"]}):
        if name.startswith(_OF_THE_PENALTY):
            continue
        of_the_adversary = name in own and name not in _OF_THE_MODEL
        concerned = [run for run in trained if not (of_the_adversary and run["method"] == "sft")]
        default = AAJRConfig.__dataclass_fields__[name].default if name in AAJRConfig.__dataclass_fields__ else None
        default = None if default is dataclasses.MISSING else default
        values = [run["recipe"].get(name, default) for run in concerned]
        distinct = [value for i, value in enumerate(values) if value not in values[:i]]
        if len(distinct) > 1:
            found[name] = distinct
    return found
