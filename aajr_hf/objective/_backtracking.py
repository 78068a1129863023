"""`step_size="auto"`: backtracking finds, for each example, ascent steps that satisfy inequality 25."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ._perturbation import PerturbationSet, expand_mask, per_example, per_example_norm
from ._steps import LossFn, Point, check_losses

_MAX_TRIALS = 30
# Fraction of the step at which a quadratic satisfies inequality 25 with equality.
_SAFETY = 0.7
# Largest factors by which a step may grow or shrink after a trial: beyond them, the quadratic is not reliable.
_GROWTH, _SHRINKAGE = 2.0, 16.0
_TINY = 1e-12


@dataclass(frozen=True)
class Backtracking:
    """
    Steps of projected gradient ascent that satisfy inequality 25, `g(delta_{t+1}) >= g(delta_t) + ||d||^2 / (2 eta)`
    with `d = delta_{t+1} - delta_t`.

    For each example, the first trial is the eta of the last step, made longer or shorter according to the curvature on
    the last segment. If the inequality fails, the next trial is the eta at which a quadratic through both points
    satisfies it. Only examples that have not accepted a step are tried again. Each trial keeps its graph, so the
    gradient at an accepted point costs only a backward pass.

    Args:
        loss_fn, state, ball, mask: As in [`projected_gradient_ascent`].
        select: Function that maps rows (n,) to the `loss_fn` of only these examples. If `None`, each trial evaluates
            all examples.
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

    def step(self, point: Point, eta: Tensor, last: bool) -> tuple[Point, Tensor]:
        """
        Return the next point and the eta (B,) that led to it, which is at most the given eta. If no eta is found for
        an example, it does not move. If `last` is true, the gradient at the next point is not needed, and the result
        has the gradient of the point before.
        """
        # A step longer than the ball's diameter is useless: after the projection, little more than its direction
        # remains.
        diameter = 2 * self.ball.extent(point.delta, self.mask) * torch.as_tensor(self.ball.epsilon).to(point.delta)
        crossing = diameter / (per_example_norm(point.gradient) + _TINY)
        eta = torch.minimum(eta, crossing)
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
            # The last evaluation of each example must be at its point. Pending examples have not moved: evaluate them
            # there again.
            self._evaluate(pending, delta)
        return Point(delta, loss, gradient), eta

    def next_step_size(self, before: Point, after: Point, eta: Tensor) -> Tensor:
        """
        First eta to try after a step, shape (B,): the largest eta that the curvature on this step's segment allows, at
        most twice the last eta.
        """
        move = (after.delta - before.delta).flatten(1)
        change = (after.gradient - before.gradient).flatten(1)
        concavity = -(move * change).sum(dim=1) / move.square().sum(dim=1).clamp_min(_tiny(move))
        allowed = _SAFETY / concavity.clamp_min(_tiny(move))
        return torch.where(concavity > 0, torch.minimum(allowed, _GROWTH * eta), _GROWTH * eta)

    def _evaluate(self, rows: Tensor, delta: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """
        Return the losses of some rows (n,), and a function that maps a mask (n,) over these rows to the gradients of
        the masked rows.
        """
        select = self.select if len(rows) < len(delta) else None
        apart = select is not None
        with torch.enable_grad():
            leaf = (delta[rows] if apart else delta).detach().requires_grad_(True)
            loss = self.loss_fn(self.state + leaf) if select is None else select(rows)(self.state[rows] + leaf)
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
    """
    Return which of the rows satisfy inequality 25 with the losses `tried`, and the eta to try next for the others;
    both (n,).
    """
    move = (candidate - point.delta)[rows].flatten(1)
    squared, eta = move.square().sum(dim=1), eta[rows]
    gain = tried - point.loss[rows]
    # Loss differences below rounding error carry no information.
    tolerance = 8 * torch.finfo(tried.dtype).eps * point.loss[rows].abs()
    accepted = gain + tolerance >= squared / (2 * eta.clamp_min(torch.finfo(eta.dtype).tiny))
    # Concavity of the quadratic with the gradient at `point` and the loss at `candidate`.
    concavity = 2 * ((point.gradient[rows].flatten(1) * move).sum(dim=1) - gain) / squared.clamp_min(_tiny(squared))
    shorter = (_SAFETY / concavity.clamp_min(_tiny(squared))).nan_to_num(0.0)
    return accepted, torch.minimum(torch.maximum(shorter, eta / _SHRINKAGE), eta / 2)


def _tiny(like: Tensor) -> float:
    return torch.finfo(like.dtype).tiny
