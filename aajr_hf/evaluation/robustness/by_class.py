"""Success without and under attack by the class of the examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from ...training.sharing.results import ClassShares

# The outcomes that are divided by class, of a world and of tool calls.
_FIELDS = (("nominal_success", "worst_case_success"), ("nominal_exact", "worst_case_exact"))


def add_by_class(numbers: dict[str, Any], classes: Sequence[str]) -> None:
    """
    Add `by_class`: for each class, the largest first, the number of its examples, and the share that is right without attack
    and under it, in percent.

    Args:
        numbers: Numbers of an evaluation with their `outcomes`.
        classes: The class of each row.
    """
    outcomes = numbers["outcomes"]
    nominal, worst = next((outcomes[n], outcomes[w]) for n, w in _FIELDS if n in outcomes)
    found: dict[str, ClassShares] = {}
    for name, count in Counter(classes).most_common():
        rows = [i for i, other in enumerate(classes) if other == name]
        found[name] = {
            "examples": count,
            "nominal": _percent(nominal, rows),
            "worst_case": {m: _percent(values, rows) for m, values in worst.items()},
        }
    numbers["by_class"] = found


def _percent(values: Sequence[float], rows: Sequence[int]) -> float:
    return 100 * sum(values[row] for row in rows) / len(rows)
