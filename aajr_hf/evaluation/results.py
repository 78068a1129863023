"""The numbers of several agents that a report shows: their completeness, and how to read them."""

from __future__ import annotations

import math
from typing import Any

_BY_MULTIPLE = ("worst_case_success", "sampled_worst_case_success", "worst_case_cost")
_NUMBERS = (
    *("nominal_success", "sampled_success", "nominal_cost", "amplification", "random_amplification"),
    *("spectral_norm", "embedding_norm", "examples"),
)


def check_results(results: dict[str, Any]) -> None:
    """
    Refuse results that a report cannot show. Only `train_seconds` may be absent: not every agent was trained here.

    Args:
        results: `{"runs": {name: numbers}, "train_epsilon": float, "settings": {...}}`.

    Raises:
        ValueError: If there is no run or no radius, or a number is absent or not finite; names the run and the field.
    """
    runs, radii = results["runs"], multiples(results)
    if not runs:
        raise ValueError("the results hold no runs")
    if not radii:
        raise ValueError(f"run {next(iter(runs))!r}, field 'worst_case_success': no radius of attack")
    for name, run in runs.items():
        numbers = {field: run.get(field) for field in _NUMBERS}
        numbers |= {f"{field}.{m}": value(run, field, m) for field in _BY_MULTIPLE for m in radii}
        for measured in ("attacks", "stability"):
            numbers |= _paths(run.get(measured, {}), measured)
        if run.get("train_seconds") is not None:
            numbers["train_seconds"] = run["train_seconds"]
        for field, number in numbers.items():
            if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
                raise ValueError(f"run {name!r}, field {field!r}: expected a finite number, got {number!r}")
    for field, number in {"train_epsilon": results["train_epsilon"], **results["settings"]}.items():
        if isinstance(number, float) and not math.isfinite(number):
            raise ValueError(f"settings, field {field!r}: expected a finite number, got {number!r}")


def _paths(numbers: Any, path: str) -> dict[str, Any]:
    """The numbers of nested objects and lists, by their path."""
    if not isinstance(numbers, dict | list):
        return {path: numbers}
    inner = numbers.items() if isinstance(numbers, dict) else enumerate(numbers)
    return {place: n for name, value in inner for place, n in _paths(value, f"{path}.{name}").items()}


def value(run: dict[str, Any], field: str, multiple: str | None = None) -> float | None:
    """A run's number, at this multiple of the training radius where the field has one for each; None if absent."""
    return run.get(field) if multiple is None else (run.get(field) or {}).get(multiple)


def multiples(results: dict[str, Any]) -> list[str]:
    """The radii of the attack in multiples of the training radius, ascending: every run's, as the objects name them."""
    names = {name for run in results["runs"].values() for name in multiples_of(run)}
    return sorted(names, key=float)


def multiples_of(run: dict[str, Any]) -> list[str]:
    """The same of one run."""
    return sorted(run.get("worst_case_success") or (), key=float)


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
