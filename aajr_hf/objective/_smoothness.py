"""Stability of the inner ascent: effective smoothness and the step size it allows (Theorems 2 and 3)."""

from __future__ import annotations

import torch
from torch import Tensor

from ._ascent import EPS0, STEP_RULES, AscentTrajectory


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
        residual: C, the contribution of the policy's own curvature.
    """
    return loss_smoothness * amplification**2 + residual


def step_size_bound(effective_smoothness: float | Tensor) -> float | Tensor:
    """Theorem 3: with `eta <= 1 / L_eff` every step of the ascent satisfies inequality 25."""
    return 1 / effective_smoothness


def gradient_step_sizes(trajectory: AscentTrajectory, step_rule: str) -> Tensor:
    """
    Return the eta of each step that Theorem 3 compares with `1 / L_eff`, shape (K, B).

    For a step d, the proof needs `<grad g(delta_t), d> >= ||d||^2 / eta`. The projection of
    `delta_t + eta grad g(delta_t)` onto a convex set satisfies it. So eta depends on the rule:

    - `"gradient"`: the step size;
    - `"normalized"`: `step size / ||grad||`, because a gradient step with this eta reaches the same point;
    - `"sign"`: the step does not follow the gradient, so eta is the smallest number for which the inequality holds,
      `||d||^2 / <grad, d>`. Without a projection, this is `step size * n / ||grad||_1`, where n is the number of
      coordinates with a nonzero gradient. The step's length over `||grad||_2` is smaller (Cauchy-Schwarz), and the
      theorem is wrong for it. Eta is zero if the example did not move, and infinite if its projected step goes against
      the gradient.
    """
    if step_rule == "gradient":
        return trajectory.step_sizes
    if step_rule == "normalized":
        return trajectory.step_sizes / (trajectory.gradient_norms + EPS0)
    if step_rule != "sign":
        raise ValueError(f"`step_rule` must be one of {STEP_RULES}, got {step_rule!r}.")
    lengths = trajectory.lengths
    ascent = _inner_products(trajectory.deltas.diff(dim=0), trajectory.gradients())
    eta = torch.where(ascent > 0, lengths.square() / ascent, float("inf"))
    return torch.where(lengths > 0, eta, 0.0)


def segment_curvature(trajectory: AscentTrajectory) -> Tensor:
    """
    `kappa_t = <v, grad g(delta_{t+1}) - grad g(delta_t)> / ||d||` with `d = delta_{t+1} - delta_t` and `v = d/||d||`:
    the mean curvature of g on each segment between two gradients of the trajectory, shape (K-1, B), without further
    evaluations. It is zero if the ascent did not move (`lengths` of [`AscentTrajectory`]). Theorem 3 needs a bound on
    both sides, so use the absolute value.
    """
    lengths = trajectory.lengths[:-1]
    along = _inner_products(trajectory.deltas[:-1].diff(dim=0), trajectory.gradients().diff(dim=0))
    return torch.where(lengths > 0, along / lengths.square(), 0.0)


def _inner_products(one: Tensor, other: Tensor) -> Tensor:
    """(K, B, ...), (K, B, ...) -> (K, B)."""
    return torch.linalg.vecdot(one.flatten(2), other.flatten(2))
