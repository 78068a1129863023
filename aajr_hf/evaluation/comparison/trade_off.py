"""
The trade-off between nominal and worst-case success. A run is a point (nominal, worst case), in percent. Nothing is
interpolated between runs, because no run was trained there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Point = tuple[float, float]


@dataclass(frozen=True)
class Matched:
    """
    Two methods compared at equal worst-case success, and at equal nominal success.

    Attributes:
        worst: Highest worst-case success that both methods reach.
        nominal_at_worst: Best nominal success of each method among its runs that reach `worst`.
        nominal: Highest nominal success that both methods reach.
        worst_at_nominal: Best worst-case success of each method among its runs that reach `nominal`.
    """

    worst: float
    nominal_at_worst: tuple[float, float]
    nominal: float
    worst_at_nominal: tuple[float, float]


def nominal_at(points: Sequence[Point], worst: float) -> float | None:
    """Return the highest nominal success of the points with worst-case success of at least `worst`, or None."""
    return max((nominal for nominal, reached in points if reached >= worst), default=None)


def worst_at(points: Sequence[Point], nominal: float) -> float | None:
    """Return the highest worst-case success of the points with nominal success of at least `nominal`, or None."""
    return max((worst for reached, worst in points if reached >= nominal), default=None)


def matched(points_a: Sequence[Point], points_b: Sequence[Point]) -> Matched:
    """
    Compare two methods by their runs.

    Raises:
        ValueError: if a method has no runs.
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
    """Return the nominal success, in points, that a run loses against the best run without a penalty."""
    return best_unregularised_nominal - nominal
