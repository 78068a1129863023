"""Points of an ascent, and steps of a given size between them (equation 11)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ._perturbation import PerturbationSet, expand_mask, per_example

LossFn = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Point:
    """A point of the ascent: `delta` (B, ...), the loss `g` at this point (B,) and its gradient (B, ...)."""

    delta: Tensor
    loss: Tensor
    gradient: Tensor


@dataclass(frozen=True)
class FixedSteps:
    """
    Steps of projected gradient ascent with a given eta (B,).

    Args:
        loss_fn, state, ball, mask, final_loss: As in [`projected_gradient_ascent`].
        direction: `step(grad)` of equation 11.
    """

    loss_fn: LossFn
    state: Tensor
    ball: PerturbationSet
    mask: Tensor | None
    direction: Callable[[Tensor], Tensor]
    final_loss: bool

    def start(self, delta: Tensor) -> Point:
        with torch.enable_grad():
            delta = delta.detach().requires_grad_(True)
            loss = self.loss_fn(self.state + delta)
            check_losses(loss, delta)
            (gradient,) = torch.autograd.grad(loss.sum(), delta)
        if self.mask is not None:
            gradient = gradient * expand_mask(self.mask, gradient)
        return Point(delta.detach(), loss.detach(), gradient)

    def step(self, point: Point, eta: Tensor, last: bool) -> tuple[Point, Tensor]:
        """
        Return the next point and the eta (B,) that led to it. If `last` is true, the gradient at the next point is not
        needed, and the result has the gradient of the point before.
        """
        move = per_example(eta, point.delta) * self.direction(point.gradient)
        delta = self.ball.project(point.delta + move, self.mask)
        if not last:
            return self.start(delta), eta
        return Point(delta, loss_at_end(self.loss_fn, self.state, delta, self.final_loss), point.gradient), eta

    def next_step_size(self, before: Point, after: Point, eta: Tensor) -> Tensor:
        """Eta of the step from `after`: the same as before."""
        return eta


def loss_at_end(loss_fn: LossFn, state: Tensor, delta: Tensor, wanted: bool) -> Tensor:
    """`g(delta)`, shape (B,); NaN if it is not `wanted`."""
    return loss_fn(state + delta) if wanted else state.new_full(state.shape[:1], torch.nan)


def check_losses(losses: Tensor, states: Tensor) -> None:
    """Raise ValueError unless there is one loss for each state."""
    if losses.shape != states.shape[:1]:
        raise ValueError(
            f"`loss_fn` must return one loss per example, shape {tuple(states.shape[:1])}, got {tuple(losses.shape)}."
        )
