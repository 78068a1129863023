"""Check that results are complete, and read and format their numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from ...training.sharing.reading import RESULTS_VERSION, interval_text, version_problem
from ...training.sharing.results import (
    Configuration,
    EvaluationResults,
    Results,
    RobustnessNumbers,
    RobustnessResults,
    Run,
    Settings,
    ThreatModelFields,
    ToolCallNumbers,
)
from ..radii import nearest_to_one
from .statistics import PairedDifference, paired_difference, with_intervals

# Fields of nominal and worst-case success for each way of decoding. A model can reduce a penalty on logits by making
# all logits smaller. Greedy answers then stay the same, and only sampled answers show the change.
DECODINGS = {
    "greedy": ("nominal_success", "worst_case_success"),
    "sampled": ("sampled_success", "sampled_worst_case_success"),
}
# For each kind of results, a field of every run that has a number for each radius.
_BY_RADIUS = {
    "robustness": "worst_case_success",
    "comparison": "worst_case_success",
    "tool_calls": "worst_case_valid",
}
SUCCESS, SUCCESS_UNDER_ATTACK = zip(*DECODINGS.values(), strict=True)
_NUMBERS = (
    *(*SUCCESS, "nominal_cost", "amplification", "random_amplification"),
    *("spectral_norm", "embedding_norm", "examples"),
)
_THREAT_MODEL = ("epsilon", "epsilon_mode", "perturbation_norm", "perturbation_scope", "perturbed_tokens")


def new_results(
    kind: Literal["robustness", "tool_calls"],
    runs: dict[str, RobustnessNumbers | ToolCallNumbers],
    threat_model: ThreatModelFields,
    settings: Settings,
) -> EvaluationResults:
    """
    Make results from measured numbers, and add the interval of each share.

    Args:
        kind: Kind of the results.
        runs: Numbers of `evaluate_agents` or `evaluate_tool_calls` by name.
        threat_model: The fields of `ThreatModel`.
        settings: Settings of the measurement.
    """
    return {
        "kind": kind,
        "version": RESULTS_VERSION,
        "runs": {name: with_intervals(run) for name, run in runs.items()},
        "train_epsilon": threat_model["epsilon"],
        "threat_model": threat_model,
        "settings": settings,
    }


def check_results(results: RobustnessResults) -> None:
    """
    Check that a report can show the results. Only `train_seconds` may be missing, because not every agent was trained
    here.

    Raises:
        ValueError: If the version or kind is wrong, there is no run or no radius, or a number is missing or not
            finite; names the run and the field.
    """
    check_common(results, "robustness")
    radii = multiples(results)
    if not radii:
        raise ValueError(f"run {next(iter(results['runs']))!r}, field 'worst_case_success': no attack radius")
    for name, run in results["runs"].items():
        numbers = {field: run.get(field) for field in _NUMBERS}
        fields = (*SUCCESS_UNDER_ATTACK, "worst_case_cost")
        numbers |= {f"{field}.{m}": value(run, field, m) for field in fields for m in radii}
        for measured in ("attacks", "token_attack", "ray", "stability", "shared_directions", "nuisance"):
            numbers |= paths(run.get(measured, {}), measured)
        if run.get("train_seconds") is not None:
            numbers["train_seconds"] = run["train_seconds"]
        check_numbers(name, numbers)
        check_shares(name, run, SUCCESS, SUCCESS_UNDER_ATTACK, radii)


def check_common(results: EvaluationResults, kind: str) -> None:
    """
    Check what results of every kind need: the current version, the kind, runs with checks of the attack, a threat
    model, finite settings.

    Raises:
        ValueError: if one of these is missing or wrong; names the run or the part, and the field.
    """
    if problem := version_problem(results):
        raise ValueError(f"these results are {problem}: evaluate the agents again with `aajr evaluate`")
    if results.get("kind") != kind:
        raise ValueError(
            f"these results are of kind {results.get('kind')!r}, but {kind!r} is needed (`read_results` adds it to old files)"
        )
    if not results["runs"]:
        raise ValueError("the results contain no runs")
    for field in _THREAT_MODEL:
        if (results.get("threat_model") or {}).get(field) is None:
            raise ValueError(f"threat_model, field {field!r}: missing")
    first = next(iter(results["runs"].values())).get("examples")
    for name, run in results["runs"].items():
        if not isinstance(run.get("trust"), list):
            raise ValueError(f"run {name!r}, field 'trust': expected a list of checks of the attack")
        if None not in (first, run.get("examples")) and run["examples"] != first:
            raise ValueError(
                f"run {name!r}, field 'examples': {run['examples']}, but {first} in the first run: use the same ones"
            )
    for field, number in {"train_epsilon": results["train_epsilon"], **results["settings"]}.items():
        if isinstance(number, float) and not math.isfinite(number):
            raise ValueError(f"settings, field {field!r}: expected a finite number, got {number!r}")


def check_numbers(name: str, numbers: dict[str, Any]) -> None:
    """
    Check that all numbers of a run, given by field, are finite.

    Raises:
        ValueError: if a number is missing or not finite; names the run and the field.
    """
    for field, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
            raise ValueError(f"run {name!r}, field {field!r}: expected a finite number, got {number!r}")


def check_shares(name: str, run: Run, single: tuple, by_multiple: tuple, radii: list[str]) -> None:
    """
    Check that each share of a run, single or by multiple, has its interval and the outcomes of all examples.

    Raises:
        ValueError: if one is missing; names the run and the field.
    """
    places = [(field, None) for field in single] + [(field, m) for field in by_multiple for m in radii]
    for kind, length in (("intervals", 2), ("outcomes", run["examples"])):
        for field, m in places:
            numbers = value(run.get(kind) or {}, field, m)
            path = ".".join(filter(None, (kind, field, m)))
            if not isinstance(numbers, list) or len(numbers) != length:
                raise ValueError(f"run {name!r}, field {path!r}: expected {length} numbers")
            check_numbers(name, paths(numbers, path))


def paths(numbers: Any, path: str) -> dict[str, Any]:
    """Return the numbers of nested objects and lists by their path."""
    if not isinstance(numbers, dict | list):
        return {path: numbers}
    inner = numbers.items() if isinstance(numbers, dict) else enumerate(numbers)
    return {place: n for name, value in inner for place, n in paths(value, f"{path}.{name}").items()}


def value(run: Mapping[str, Any], field: str, multiple: str | None = None) -> Any:
    """Return a number of a run, at this multiple of the training radius if one is given; None if it is missing."""
    return run.get(field) if multiple is None else (run.get(field) or {}).get(multiple)


def difference(
    ours: Run | Configuration, theirs: Run | Configuration, field: str, m: str | None = None
) -> PairedDifference:
    """Return how much more often the first run is correct than the second, on the same examples."""
    return paired_difference(value(ours["outcomes"], field, m), value(theirs["outcomes"], field, m))


def share_text(run: Run, field: str, multiple: str | None = None) -> str:
    """Return a share of a run in percent with its 95 % interval: `81.3 [78-84]`."""
    share = percent_text(value(run, field, multiple))
    return f"{share} {interval_text(value(run.get('intervals') or {}, field, multiple))}".rstrip()


def everything_but_outcomes(results: Results) -> dict[str, Any]:
    """Return the results without the outcomes of single examples, because the lists are long."""

    def without(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {field: without(inner) for field, inner in value.items() if field != "outcomes"}

    return results | {"runs": without(results["runs"])}


def multiples(results: Results) -> list[str]:
    """Return the attack radii of all runs, as multiples of the training radius, in ascending order."""
    field = _BY_RADIUS[results["kind"]]
    names = {name for run in results["runs"].values() for name in run.get(field) or ()}
    return sorted(names, key=float)


def headline(results: Results) -> str:
    """Return the radius that the summary sentences use: the multiple nearest to 1."""
    by_size = {float(multiple): multiple for multiple in multiples(results)}
    return by_size[nearest_to_one(by_size)]


def times(multiple: str) -> str:
    """Return a multiple of the training radius as text: `"2.0"` gives "2x"."""
    return f"{float(multiple):g}x"


def number_text(number: float | None) -> str:
    """Return a number with three significant digits."""
    if number is None:
        return "-"
    return f"{number:.0f}" if 100 <= abs(number) < 1e5 else f"{number:#.3g}".rstrip(".")


def percent_text(share: float | None) -> str:
    """Return a share in percent with one decimal place."""
    return "-" if share is None else f"{share:.1f}".replace("100.0", "100")
