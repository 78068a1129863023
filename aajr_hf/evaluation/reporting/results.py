"""The numbers of several agents that a report shows: their completeness, and how to read them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from ...training.sharing.measurement import RESULTS_VERSION, interval_text, version_problem
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
from .statistics import PairedDifference, paired_difference, with_intervals

__all__ = ["RESULTS_VERSION"]  # the version that is read and written

# By way of decoding, the fields of nominal and of worst-case success. A penalty on logits can be met by smaller ones, with
# the same greedy answers: the sampled ones show it.
DECODINGS = {
    "greedy": ("nominal_success", "worst_case_success"),
    "sampled": ("sampled_success", "sampled_worst_case_success"),
}
# By kind of results, a field of every run that has a number for each radius.
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
    Numbers that have just been measured as results, each share with its interval.

    Args:
        kind: Of what they are numbers.
        runs: Numbers of `evaluate_agents` or `evaluate_tool_calls` by name.
        threat_model: The fields of `ThreatModel`.
        settings: How they were measured.
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
    Refuse results that a report cannot show. Only `train_seconds` may be absent: not every agent was trained here.

    Raises:
        ValueError: If they are of another version or kind, there is no run or no radius, or a number is absent or not finite;
            names the run and the field.
    """
    check_measurement(results, "robustness")
    radii = multiples(results)
    if not radii:
        raise ValueError(f"run {next(iter(results['runs']))!r}, field 'worst_case_success': no radius of attack")
    for name, run in results["runs"].items():
        numbers = {field: run.get(field) for field in _NUMBERS}
        fields = (*SUCCESS_UNDER_ATTACK, "worst_case_cost")
        numbers |= {f"{field}.{m}": value(run, field, m) for field in fields for m in radii}
        for measured in ("attacks", "token_attack", "ray", "stability"):
            numbers |= paths(run.get(measured, {}), measured)
        if run.get("train_seconds") is not None:
            numbers["train_seconds"] = run["train_seconds"]
        check_numbers(name, numbers)
        check_shares(name, run, SUCCESS, SUCCESS_UNDER_ATTACK, radii)


def check_measurement(results: EvaluationResults, kind: str) -> None:
    """
    What results of every kind have: today's version, the kind, runs with checks of the attack, a threat model, finite settings.

    Raises:
        ValueError: names the run or the part, and the field.
    """
    if problem := version_problem(results):
        raise ValueError(f"these results are {problem}: evaluate the agents anew with `aajr evaluate`")
    if results.get("kind") != kind:
        raise ValueError(
            f"these results are of kind {results.get('kind')!r}, and {kind!r} is asked for (`read_results` adds it to older files)"
        )
    if not results["runs"]:
        raise ValueError("the results hold no runs")
    for field in _THREAT_MODEL:
        if (results.get("threat_model") or {}).get(field) is None:
            raise ValueError(f"threat_model, field {field!r}: absent")
    first = next(iter(results["runs"].values())).get("examples")
    for name, run in results["runs"].items():
        if not isinstance(run.get("trust"), list):
            raise ValueError(f"run {name!r}, field 'trust': expected a list of checks of the attack")
        if None not in (first, run.get("examples")) and run["examples"] != first:
            raise ValueError(
                f"run {name!r}, field 'examples': {run['examples']}, and {first} of the first run: pair them"
            )
    for field, number in {"train_epsilon": results["train_epsilon"], **results["settings"]}.items():
        if isinstance(number, float) and not math.isfinite(number):
            raise ValueError(f"settings, field {field!r}: expected a finite number, got {number!r}")


def check_numbers(name: str, numbers: dict[str, Any]) -> None:
    """
    Raises:
        ValueError: for a number of this run, by field, that is absent or not finite.
    """
    for field, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
            raise ValueError(f"run {name!r}, field {field!r}: expected a finite number, got {number!r}")


def check_shares(name: str, run: Run, single: tuple, by_multiple: tuple, radii: list[str]) -> None:
    """
    Raises:
        ValueError: where a share of this run, alone or by multiple, lacks its interval or the outcome of an example.
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
    """The numbers of nested objects and lists, by their path."""
    if not isinstance(numbers, dict | list):
        return {path: numbers}
    inner = numbers.items() if isinstance(numbers, dict) else enumerate(numbers)
    return {place: n for name, value in inner for place, n in paths(value, f"{path}.{name}").items()}


def value(run: Mapping[str, Any], field: str, multiple: str | None = None) -> Any:
    """A run's number, at this multiple of the training radius where the field has one for each; None if absent."""
    return run.get(field) if multiple is None else (run.get(field) or {}).get(multiple)


def difference(
    ours: Run | Configuration, theirs: Run | Configuration, field: str, m: str | None = None
) -> PairedDifference:
    """How much more often the one run is right than the other, on the same examples."""
    return paired_difference(value(ours["outcomes"], field, m), value(theirs["outcomes"], field, m))


def share_text(run: Run, field: str, multiple: str | None = None) -> str:
    """A share of a run in percent with its 95 % interval: `81.3 [78-84]`."""
    share = percent_text(value(run, field, multiple))
    return f"{share} {interval_text(value(run.get('intervals') or {}, field, multiple))}".rstrip()


def everything_but_outcomes(results: Results) -> dict[str, Any]:
    """Results as people read them, without the outcomes of single examples, which are many."""
    runs = {name: {f: v for f, v in run.items() if f != "outcomes"} for name, run in results["runs"].items()}
    return results | {"runs": runs}


def multiples(results: Results) -> list[str]:
    """The radii of the attack in multiples of the training radius, ascending: every run's, as the objects name them."""
    field = _BY_RADIUS[results["kind"]]
    names = {name for run in results["runs"].values() for name in run.get(field) or ()}
    return sorted(names, key=float)


def headline(results: Results) -> str:
    """The radius that sentences speak of: of the multiples the one nearest to 1."""
    return min(multiples(results), key=lambda multiple: abs(float(multiple) - 1))


def times(multiple: str) -> str:
    """A multiple of the training radius as people read it: `"2.0"` is "2x"."""
    return f"{float(multiple):g}x"


def number_text(number: float | None) -> str:
    """A number to three digits."""
    if number is None:
        return "-"
    return f"{number:.0f}" if 100 <= abs(number) < 1e5 else f"{number:#.3g}".rstrip(".")


def percent_text(share: float | None) -> str:
    """A share in percent, to one decimal place."""
    return "-" if share is None else f"{share:.1f}".replace("100.0", "100")
