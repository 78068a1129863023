"""What all attacks together leave: those that move embeddings within a radius, and those in words."""

from __future__ import annotations

from typing import Any

from ...training.sharing.results import TextTally
from ..attacks.suite import TEXT_ATTACKS

# For a share that all attacks within a radius leave: the name of the share that all attacks leave.
TOGETHER = {"worst_case_success": "all_attacks_success", "worst_case_exact": "all_attacks_exact"}


def in_words(text_attacks: dict[str, dict[str, TextTally]]) -> dict[str, list[float | None]]:
    """
    Return for each attack in words which examples are right under all of its kinds that are no controls; None for an
    example that none of them can attack.
    """
    found = {}
    for attack, kinds in text_attacks.items():
        control = TEXT_ATTACKS[attack].control
        outcomes = [tally["outcomes"]["exact"] for kind, tally in kinds.items() if kind != control]
        found[attack] = [
            min((value for value in values if value is not None), default=None)
            for values in zip(*outcomes, strict=True)
        ]
    return found


def add_together(numbers: dict[str, Any], worst: str, words: dict[str, list[float | None]]) -> None:
    """
    Add the share of examples that no attack breaks, by radius, and its `outcomes`: those that withstand all attacks within
    the radius, and all attacks in words. `by_words` is the share that each attack in words leaves by itself; an example
    that it cannot attack counts as it is without attack. Without an attack in words, nothing is added.

    Args:
        numbers: Numbers of an evaluation.
        worst: Name of the share that all attacks within a radius leave.
        words: Result of [`in_words`].
    """
    if not words:
        return
    outcomes, name = numbers["outcomes"], TOGETHER[worst]
    nominal = outcomes["nominal_success" if worst == "worst_case_success" else "nominal_exact"]
    left = {
        attack: [right if value is None else value for value, right in zip(values, nominal, strict=True)]
        for attack, values in words.items()
    }
    outcomes[name] = {
        multiple: [min(values) for values in zip(within, *left.values(), strict=True)]
        for multiple, within in outcomes[worst].items()
    }
    numbers[name] = {multiple: _percent(values) for multiple, values in outcomes[name].items()}
    numbers["by_words"] = {attack: _percent(values) for attack, values in left.items()}


def _percent(values: list[float]) -> float:
    return 100 * sum(values) / len(values)
