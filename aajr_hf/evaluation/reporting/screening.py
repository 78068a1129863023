"""The result of a screening as a table and sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from rich.table import Table

from .results import interval_text, number_text, percent_text
from .shared_directions import LEAST_COSINE, LEAST_SIGNS
from .statistics import wilson
from .tables import text_table


class _Screened(Protocol):
    outcomes: list[float]
    success: float
    seconds: float


class _Agreement(Protocol):
    cosine: float
    signs: float
    examples: int


def screening_table(found: Mapping[str, _Screened], epsilon: float) -> Table:
    """Return a table of the success that each attack leaves, with its interval, and of its seconds."""
    rows = []
    for name, attack in found.items():
        interval = interval_text(wilson(attack.success, len(attack.outcomes)))
        success = f"{percent_text(attack.success)} {interval}"
        rows.append([name, success, number_text(attack.seconds)])
    caption = "Each attack on its own.\nrandom, predicted: forward passes.\none step, PGA: gradients."
    return text_table(["attack", "success\n% [95 %]", "seconds"], rows, f"Success within {epsilon:g}", caption)


def agreement_sentences(agreed: _Agreement | None) -> list[str]:
    """Return how predicted gradients agree with true ones, and a warning if it is too little or unknown."""
    if agreed is None:
        return ["WARNING: without gradients, it is unknown how well they are predicted: success may be far too high."]
    sentences = [
        f"Predicted and true gradients of {agreed.examples} held-out observations: cosine {agreed.cosine:.2f}, "
        f"{percent_text(100 * agreed.signs)}% equal signs."
    ]
    if agreed.cosine < LEAST_COSINE or 100 * agreed.signs < LEAST_SIGNS:
        sentences.append(
            f"WARNING: below a cosine of {LEAST_COSINE:g} or {LEAST_SIGNS:g}% equal signs, do not trust the success under the "
            "attack `predicted`."
        )
    return sentences
