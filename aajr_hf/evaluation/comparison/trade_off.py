"""
The trade-off between nominal and worst-case success, from plain numbers: what the runs of a method reach, and at which
price. A run is a point (nominal, worst case), in percent; nothing is interpolated between runs, because nobody has trained there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Point = tuple[float, float]


@dataclass(frozen=True)
class Matched:
    """
    Two methods at equal robustness, and at equal nominal success.

    Attributes:
        worst: The highest worst-case success that both reach.
        nominal_at_worst: The nominal success of each, there or beyond.
        nominal: The highest nominal success that both reach.
        worst_at_nominal: The worst-case success of each, there or beyond.
    """

    worst: float
    nominal_at_worst: tuple[float, float]
    nominal: float
    worst_at_nominal: tuple[float, float]


def nominal_at(points: Sequence[Point], worst: float) -> float | None:
    """The highest nominal success among the points whose worst-case success is at least `worst`; None if none is."""
    return max((nominal for nominal, reached in points if reached >= worst), default=None)


def worst_at(points: Sequence[Point], nominal: float) -> float | None:
    """The highest worst-case success among the points whose nominal success is at least `nominal`; None if none is."""
    return max((worst for reached, worst in points if reached >= nominal), default=None)


def matched(points_a: Sequence[Point], points_b: Sequence[Point]) -> Matched:
    """
    Compare two methods by their runs.

    Raises:
        ValueError: if one of them has no runs.
    """
    if not points_a or not points_b:
        raise ValueError("Each of the two methods needs at least one point.")
    nominal, worst = (min(max(point[i] for point in points_a), max(point[i] for point in points_b)) for i in (0, 1))
    return Matched(
        worst=worst,
        nominal_at_worst=(nominal_at(points_a, worst), nominal_at(points_b, worst)),
        nominal=nominal,
        worst_at_nominal=(worst_at(points_a, nominal), worst_at(points_b, nominal)),
    )


def price_of_robustness(best_unregularised_nominal: float, nominal: float) -> float:
    """Points of nominal success that a run gives up against the best one without a penalty; negative if it gains."""
    return best_unregularised_nominal - nominal
