"""The radii of the attacks, as multiples of the training radius."""

from __future__ import annotations

from collections.abc import Iterable


def nearest_to_one(multiples: Iterable[float]) -> float:
    """Return the multiple of epsilon that is nearest to 1; the smaller one if two are equally near."""
    return min(multiples, key=lambda multiple: (abs(multiple - 1), multiple))
