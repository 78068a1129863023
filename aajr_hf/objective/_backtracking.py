"""`step_size="auto"`: for each example, steps of the ascent that satisfy inequality 25, found by backtracking."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ._perturbation import PerturbationSet, expand_mask, per_example, per_example_norm
from ._steps import LossFn, Point, check_losses

_MAX_TRIALS = 30
# Of the step at which a quadratic satisfies inequality 25 with equality.
_SAFETY = 0.7
# By how much a step may differ from the last one that was tried: beyond, a quadratic says little.
_GROWTH, _SHRINKAGE = 2.0, 16.0
_TINY = 1e-12


@dataclass(frozen=True)
class Backtracking:
    """
    Steps of projected gradient ascent that satisfy inequality 25, `g(delta_{t+1}) >= g(delta_t) + ||d||^2 / (2 eta)` with
    `d = delta_{t+1} - delta_t`.

    Of each example, the eta of the last step is tried first, longer or shorter as the curvature on the last segment says;
    where the inequality fails, the eta at which a quadratic through both points satisfies it. Only examples that have not
    accepted are tried again. A trial keeps its graph, so that the gradient at an accepted point costs its backward pass alone.

    Args:
        loss_fn, state, ball, mask: As in [`projected_gradient_ascent`].
        select: From rows (n,) to the `loss_fn` of these examples alone; without it, all are evaluated again with them.
    """

    loss_fn: LossFn
    state: Tensor
    ball: PerturbationSet
    mask: Tensor | None
    select: Callable[[Tensor], LossFn] | None

    def start(self, delta: Tensor) -> Point:
        rows = torch.arange(len(delta), device=delta.device)
        loss, pull = self._evaluate(rows, delta)
        return Point(delta, loss, pull(torch.ones_like(rows, dtype=torch.bool)))

    def step(self, point: Point, eta: Tensor | None, last: bool) -> tuple[Point, Tensor]:
        """
        The next point, and the eta (B,) that led there, at most the given one. An example for which none is found stays. The
        gradient at the `last` point is not needed, and is that of the point before.
        """
        # Longer than the ball is wide, a step leads nowhere that matters: the projection keeps little but its direction.
        diameter = 2 * self.ball.extent(point.delta, self.mask) * torch.as_tensor(self.ball.epsilon).to(point.delta)
        crossing = diameter / (per_example_norm(point.gradient) + _TINY)
        eta = crossing if eta is None else torch.minimum(eta, crossing)
        delta, loss, gradient = point.delta.clone(), point.loss.clone(), point.gradient.clone()
        pending = torch.arange(len(eta), device=eta.device)
        for _ in range(_MAX_TRIALS):
            candidate = self.ball.project(point.delta + per_example(eta, point.delta) * point.gradient, self.mask)
            tried, pull = self._evaluate(pending, candidate)
            accepted, shorter = _judge(point, candidate, tried, eta, pending)
            rows = pending[accepted]
            delta[rows], loss[rows] = candidate[rows], tried[accepted]
            if len(rows) and not last:
                gradient[rows] = pull(accepted)
            pending = pending[~accepted]
            if not len(pending):
                break
            eta = eta.index_copy(0, pending, shorter[~accepted])
        else:
            # So that each example's last evaluation is that of its point: of those still pending, the point before.
            self._evaluate(pending, delta)
        return Point(delta, loss, gradient), eta

    def next_step_size(self, before: Point, after: Point, eta: Tensor) -> Tensor:
        """The eta to try first after a step, (B,): as far as the curvature on its segment allows, at most twice as long."""
        move = (after.delta - before.delta).flatten(1)
        change = (after.gradient - before.gradient).flatten(1)
        concavity = -(move * change).sum(dim=1) / move.square().sum(dim=1).clamp_min(_tiny(move))
        allowed = _SAFETY / concavity.clamp_min(_tiny(move))
        return torch.where(concavity > 0, torch.minimum(allowed, _GROWTH * eta), _GROWTH * eta)

    def _evaluate(self, rows: Tensor, delta: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """The losses of some rows (n,), and what pulls the gradients of those of them that are wanted, a mask (n,)."""
        apart = self.select is not None and len(rows) < len(delta)
        with torch.enable_grad():
            leaf = (delta[rows] if apart else delta).detach().requires_grad_(True)
            loss = self.select(rows)(self.state[rows] + leaf) if apart else self.loss_fn(self.state + leaf)
        check_losses(loss, leaf)

        def pull(wanted: Tensor) -> Tensor:
            places = wanted.nonzero().flatten() if apart else rows[wanted]
            with torch.enable_grad():
                total = loss[places].sum()
            (gradient,) = torch.autograd.grad(total, leaf)
            gradient = gradient[places]
            return gradient if self.mask is None else gradient * expand_mask(self.mask[rows[wanted]], gradient)

        return (loss if apart else loss[rows]).detach(), pull


def _judge(point: Point, candidate: Tensor, tried: Tensor, eta: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Which of the rows satisfy inequality 25 with their losses `tried`, and the eta to try next where they do not; both (n,)."""
    move = (candidate - point.delta)[rows].flatten(1)
    squared, eta = move.square().sum(dim=1), eta[rows]
    gain = tried - point.loss[rows]
    # Differences of losses below rounding say nothing.
    tolerance = 8 * torch.finfo(tried.dtype).eps * point.loss[rows].abs()
    accepted = gain + tolerance >= squared / (2 * eta.clamp_min(torch.finfo(eta.dtype).tiny))
    # Of the quadratic with the gradient here and the loss there.
    concavity = 2 * ((point.gradient[rows].flatten(1) * move).sum(dim=1) - gain) / squared.clamp_min(_tiny(squared))
    shorter = (_SAFETY / concavity.clamp_min(_tiny(squared))).nan_to_num(0.0)
    return accepted, torch.minimum(torch.maximum(shorter, eta / _SHRINKAGE), eta / 2)


def _tiny(like: Tensor) -> float:
    return torch.finfo(like.dtype).tiny
