"""The adversary of the evaluation: stronger than that of training, and keeping the best it has seen."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..objective import PerturbationSet, projected_gradient_ascent, random_unit_direction


def worst_case(
    loss_fn: Callable[[Tensor], Tensor],
    state: Tensor,
    ball: PerturbationSet,
    *,
    mask: Tensor,
    steps: int,
    restarts: int,
) -> tuple[Tensor, Tensor]:
    """
    The perturbation with the highest loss among all points that several ascents visit.

    Args:
        loss_fn: Maps `state + delta` (B, ...) to per-example losses (B,).
        state: (B, ...).
        ball: The set of perturbations; its epsilon must be a tensor (B,).
        mask: A prefix of the state's shape, true where perturbing is allowed.
        steps: Steps of each ascent, of size `2.5 epsilon / steps` and unit direction.
        restarts: Ascents: the first from zero, the others from random points of the ball.

    Returns:
        `(delta (B, ...), loss (B,))`, per example the best of all iterates of all ascents.
    """
    best_delta, best_loss = None, None
    examples = torch.arange(state.shape[0], device=state.device)
    for restart in range(restarts):
        trajectory = projected_gradient_ascent(
            loss_fn,
            state,
            ball,
            steps=steps,
            step_size=2.5 * ball.epsilon / steps,
            step_rule="normalized",
            mask=mask,
            start=None if restart == 0 else ball.sample(state, mask),
        )
        loss, step = trajectory.losses.max(dim=0)
        delta = trajectory.deltas[step, examples]
        if best_loss is None:
            best_delta, best_loss = delta, loss
            continue
        better = loss > best_loss
        best_delta = torch.where(better.reshape(-1, *[1] * (delta.ndim - 1)), delta, best_delta)
        best_loss = torch.maximum(loss, best_loss)
    return best_delta, best_loss


@torch.no_grad()
def random_worst_case(
    loss_fn: Callable[[Tensor], Tensor], state: Tensor, ball: PerturbationSet, *, mask: Tensor, points: int
) -> tuple[Tensor, Tensor]:
    """
    The perturbation with the highest loss among random points of the ball's boundary: what can be reached without a
    gradient. Arguments and result as those of [`worst_case`]; `points` is how many are tried.
    """
    best_delta, best_loss = torch.zeros_like(state), state.new_full(state.shape[:1], float("-inf"))
    for _ in range(points):
        radius = ball.epsilon.reshape(-1, *[1] * (state.ndim - 1))
        delta = ball.project(radius * random_unit_direction(state, mask), mask)
        loss = loss_fn(state + delta)
        better = (loss > best_loss).reshape(-1, *[1] * (state.ndim - 1))
        best_delta = torch.where(better, delta, best_delta)
        best_loss = torch.maximum(loss, best_loss)
    return best_delta, best_loss
