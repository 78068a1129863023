"""
Projected gradient ascent on any of the losses, with adaptive step sizes: APGD of Croce and Hein (arXiv 2003.01690,
section 3).
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ...objective import step_direction
from .search import Search

_MOMENTUM = 0.75
# A step size is halved at a checkpoint unless this share of the steps since the last checkpoint raised the loss.
_RISING = 0.75


@dataclass
class _Climbers:
    """The ascents of n examples: the fields are tensors with n rows."""

    rows: Tensor
    delta: Tensor
    last: Tensor  # the previous point
    value: Tensor
    gradient: Tensor
    best: Tensor
    best_value: Tensor
    best_gradient: Tensor
    size: Tensor  # step size
    rises: Tensor  # number of steps since the last checkpoint that raised the loss
    value_then: Tensor  # best value at the last checkpoint
    halved_then: Tensor  # whether the step size was halved at the last checkpoint

    def select(self, kept: Tensor) -> _Climbers:
        return self if bool(kept.all()) else _Climbers(**{f.name: getattr(self, f.name)[kept] for f in fields(self)})


@dataclass(frozen=True)
class Ascent:
    """
    An attack that maximises a loss by gradient ascent.

    Attributes:
        name: Name of the attack.
        loss: One of `LOSSES`.
        restart: Number of the first start: 0 is the unperturbed prompt, any other number is the random point with that
            number. If the search asks for restarts, the following numbers are used, too.
        every_example: Whether to finish the ascent also on examples whose answer is already wrong, because the value
            of the loss is itself a result.
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
    Run the ascent from the perturbations `start` (B, L, d) of all examples of the search. Unless `to_the_end` is set,
    an example is dropped when it is settled ([`Search.unsettled`]): further points would not change the greedy result,
    and would hardly change the sampled one.
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
        # Start with the ball's diameter, so that the first steps cross the ball.
        size=(2 * search.ball.epsilon * _extent(search))[rows],
        rises=torch.zeros_like(value),
        value_then=value,
        halved_then=torch.zeros_like(value, dtype=torch.bool),
    )


def _extent(search: Search) -> Tensor:
    """Return the factor that scales a step direction to the ball's l2 radius; 1 for sign directions."""
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
    """Halve the step size and return to the best point if it stalled in the `steps` since the last checkpoint."""
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
    """Return the checkpoints: after 22 % of the steps, then at intervals that shrink by 3 % each time, down to 6 %."""
    # Integer percent avoids rounding errors of fractions, which would make a checkpoint one step late.
    found, share, interval = [], 22, 22
    while share <= 100:
        found.append(-(-share * steps // 100))
        interval = max(interval - 3, 6)
        share += interval
    return found


def _where(chosen: Tensor, these: Tensor, others: Tensor) -> Tensor:
    return torch.where(chosen[:, None, None], these, others)
