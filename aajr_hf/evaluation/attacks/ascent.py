"""
Projected gradient ascent with step sizes that adapt, for any of the losses: APGD of Croce and Hein (arXiv 2003.01690, section 3).
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ...objective import step_direction
from .search import Search

_MOMENTUM = 0.75
# A step size is halved at a checkpoint unless this share of the steps since the last one has raised the loss.
_RISING = 0.75


@dataclass
class _Climbers:
    """The ascents of n examples: the fields are tensors with n rows."""

    rows: Tensor
    delta: Tensor
    last: Tensor  # the point before
    value: Tensor
    gradient: Tensor
    best: Tensor
    best_value: Tensor
    best_gradient: Tensor
    size: Tensor  # of a step
    rises: Tensor  # steps since the checkpoint that have raised the loss
    value_then: Tensor  # the best value at the checkpoint
    halved_then: Tensor  # whether the size was halved there

    def select(self, kept: Tensor) -> _Climbers:
        return self if bool(kept.all()) else _Climbers(**{f.name: getattr(self, f.name)[kept] for f in fields(self)})


@dataclass(frozen=True)
class Ascent:
    """
    An attack that raises a loss.

    Attributes:
        name: Of the attack.
        loss: One of `LOSSES`.
        restart: 0 starts without perturbation (and goes on from random points, where the search asks for restarts), any other number
            at the random point of that number.
        every_example: Whether to climb to the end on examples whose answer is wrong already, too, because the loss itself is a result.
    """

    name: str
    loss: str
    restart: int = 0
    every_example: bool = False
    from_others = False

    def __call__(self, search: Search) -> None:
        for number in range(self.restart, self.restart + search.restarts):
            start = search.random_points(number) if number else torch.zeros_like(search.target.origin)
            ascend(search, self.loss, start, to_the_end=self.every_example)


def ascend(search: Search, loss: str, start: Tensor, to_the_end: bool = False) -> None:
    """
    Climb from perturbations (B, L, d) of all examples of the search. Unless it is to go `to_the_end`, an example is left when it is
    settled, see [`Search.unsettled`]: its further points would change no greedy answer, and hardly a sampled one.
    """
    rows = search.all_rows if to_the_end else search.unsettled().nonzero().flatten()
    if not len(rows):
        return
    climbers = _start(search, loss, start, rows)
    checkpoints, last_checkpoint = _checkpoints(search.steps), 0
    for step in range(1, search.steps + 1):
        if not to_the_end:
            climbers = climbers.select(search.unsettled()[climbers.rows])
            if not len(climbers.rows):
                return
        _step(climbers, search, loss, momentum=_MOMENTUM if step > 1 else 1.0)
        if step in checkpoints:
            _adapt(climbers, step - last_checkpoint)
            last_checkpoint = step


def _start(search: Search, loss: str, start: Tensor, rows: Tensor) -> _Climbers:
    delta = search.project(start[rows], rows)
    value, gradient = search.climb(delta, rows, loss)
    return _Climbers(
        rows=rows,
        delta=delta,
        last=delta,
        value=value,
        gradient=gradient,
        best=delta,
        best_value=value,
        best_gradient=gradient,
        # The ball's diameter, so that the first steps cross it.
        size=(2 * search.ball.epsilon * _extent(search))[rows],
        rises=torch.zeros_like(value),
        value_then=value,
        halved_then=torch.zeros_like(value, dtype=torch.bool),
    )


def _extent(search: Search) -> Tensor:
    """From the length of a step's direction to the ball's: the sign's direction already has it."""
    if search.ball.norm == "linf":
        return torch.ones_like(search.ball.epsilon)
    return search.ball.extent(search.target.origin, search.target.batch.perturbable)


def _step(climbers: _Climbers, search: Search, loss: str, momentum: float) -> None:
    direction = step_direction(climbers.gradient, "sign" if search.ball.norm == "linf" else "normalized")
    ahead = search.project(climbers.delta + climbers.size[:, None, None] * direction, climbers.rows)
    moved = climbers.delta + momentum * (ahead - climbers.delta) + (1 - momentum) * (climbers.delta - climbers.last)
    before = climbers.value
    climbers.last, climbers.delta = climbers.delta, search.project(moved, climbers.rows)
    climbers.value, climbers.gradient = search.climb(climbers.delta, climbers.rows, loss)
    climbers.rises = climbers.rises + (climbers.value > before)
    better = climbers.value > climbers.best_value
    climbers.best = _where(better, climbers.delta, climbers.best)
    climbers.best_gradient = _where(better, climbers.gradient, climbers.best_gradient)
    climbers.best_value = torch.where(better, climbers.value, climbers.best_value)


def _adapt(climbers: _Climbers, steps: int) -> None:
    """At a checkpoint: where the ascent has stalled for these steps, halve the size and go back to the best point."""
    stalled = climbers.rises < _RISING * steps
    stalled |= ~climbers.halved_then & (climbers.best_value <= climbers.value_then)
    climbers.size = torch.where(stalled, climbers.size / 2, climbers.size)
    climbers.delta = _where(stalled, climbers.best, climbers.delta)
    climbers.last = _where(stalled, climbers.best, climbers.last)
    climbers.gradient = _where(stalled, climbers.best_gradient, climbers.gradient)
    climbers.value = torch.where(stalled, climbers.best_value, climbers.value)
    climbers.rises = torch.zeros_like(climbers.rises)
    climbers.value_then, climbers.halved_then = climbers.best_value, stalled


def _checkpoints(steps: int) -> list[int]:
    """After 22 % of the steps, and at intervals that shrink by 3 % of them each, to 6 %."""
    # In percent: sums of fractions would be a hair too large, and a checkpoint one step late.
    found, share, interval = [], 22, 22
    while share <= 100:
        found.append(-(-share * steps // 100))
        interval = max(interval - 3, 6)
        share += interval
    return found


def _where(chosen: Tensor, these: Tensor, others: Tensor) -> Tensor:
    return torch.where(chosen[:, None, None], these, others)
