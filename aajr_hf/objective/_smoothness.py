"""Stability of the inner ascent: effective smoothness and the step size it allows (Theorems 2 and 3)."""

from __future__ import annotations

import torch
from torch import Tensor

from ._ascent import AscentTrajectory


def effective_smoothness(
    loss_smoothness: float | Tensor, amplification: float | Tensor, residual: float | Tensor
) -> float | Tensor:
    """
    Theorem 2: `L_eff = L_loss * max_t ||J v||^2 + C`, a bound on the curvature `|v' H v|` of `g` along the ascent.

    Args:
        loss_smoothness: L_loss, the smoothness of the loss in the policy's output. The Hessian of one token's negative
            log-likelihood in its logits is the covariance of a softmax, whose norm is at most 1/2: use 1/2 for a sum
            over tokens, 1/(2n) for a mean over n tokens.
        amplification: `max_t ||J v||` along the segments.
        residual: C, what the policy's own curvature adds.
    """
    return loss_smoothness * amplification**2 + residual


def step_size_bound(effective_smoothness: float | Tensor) -> float | Tensor:
    """Theorem 3: with `eta <= 1 / L_eff` every step of the ascent satisfies inequality 25."""
    return 1 / effective_smoothness


def segment_curvature(trajectory: AscentTrajectory) -> Tensor:
    """
    `kappa_t = <v, grad g(delta_{t+1}) - grad g(delta_t)> / ||d||` with `d = delta_{t+1} - delta_t` and `v = d/||d||`: the
    mean curvature of g on each segment between two gradients of the trajectory, shape (K-1, B), free of further
    evaluations. Zero where the ascent did not move. Theorem 3 needs the two-sided bound: use its absolute value.
    """
    move = (trajectory.deltas[1:-1] - trajectory.deltas[:-2]).flatten(2)
    change = trajectory.gradients().diff(dim=0).flatten(2)
    squared = move.square().sum(dim=-1)
    safe = torch.where(squared > 0, squared, torch.ones_like(squared))
    return torch.where(squared > 0, (move * change).sum(dim=-1) / safe, torch.zeros_like(squared))
