"""Attacks that evaluate perturbations without a gradient."""

from __future__ import annotations

from dataclasses import dataclass

from .search import Search

# Far from the numbers of restarts.
_FIRST_POINT = 1000


@dataclass(frozen=True)
class RandomPoints:
    """Random points of the ball's boundary, as many as `points`. Where they beat gradients, gradients are masked."""

    points: int = 4
    name: str = "random"
    from_others = False
    every_example = False

    def __call__(self, search: Search) -> None:
        for number in range(self.points):
            search.visit(search.to_boundary(search.random_points(_FIRST_POINT + number)), search.all_rows)


@dataclass(frozen=True)
class Transferred:
    """What was found on the other models, as it is."""

    name: str = "transferred"
    from_others = True
    every_example = False

    def __call__(self, search: Search) -> None:
        for delta in search.handed:
            search.visit(delta, search.all_rows)
