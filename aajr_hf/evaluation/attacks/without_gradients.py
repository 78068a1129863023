"""Attacks that evaluate perturbations without a gradient."""

from __future__ import annotations

from dataclasses import dataclass

from .search import Search

# Number of the first random point. It is larger than any number of restarts, so that the points differ from the
# starts.
_FIRST_POINT = 1000


@dataclass(frozen=True)
class RandomPoints:
    """Try `points` random points on the boundary of the ball. If they beat gradient attacks, gradients are masked."""

    points: int = 4
    name: str = "random"
    from_others = False
    every_example = False

    def __call__(self, search: Search) -> None:
        for number in range(self.points):
            search.visit(search.to_boundary(search.random_points(_FIRST_POINT + number)), search.all_rows)


@dataclass(frozen=True)
class Transferred:
    """Try the perturbations found on the other models, unchanged."""

    name: str = "transferred"
    from_others = True
    every_example = False

    def __call__(self, search: Search) -> None:
        for delta in search.handed:
            search.visit(delta, search.all_rows)
