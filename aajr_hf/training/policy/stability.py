"""Whether the conditions of Theorems 2 and 3 hold along an ascent, from values that the ascent computes anyway."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...objective import (
    AscentTrajectory,
    PerturbationSet,
    effective_smoothness,
    gradient_step_sizes,
    segment_curvature,
    step_size_bound,
)

# A projected point lies slightly inside the boundary.
_ON_BOUNDARY = 1 - 1e-3


@dataclass(frozen=True)
class Smoothness:
    """
    The terms of Theorem 2, `L_eff = L_loss * max_t ||J v||^2 + C`, each (B,). `||J v||` and C are measured, so L_eff
    is an estimate, not a bound.

    Attributes:
        loss: L_loss, a bound on the smoothness of g in the logits.
        residual: C: the excess of the largest absolute curvature of a segment over the first term, at least 0.
        effective: L_eff: the maximum of the first term and this curvature.
    """

    loss: Tensor
    residual: Tensor
    effective: Tensor

    @property
    def step_size_bound(self) -> Tensor:
        """
        `1 / L_eff`. If the loss is flat up to rounding, any step is allowed, and the result is a very large number.
        """
        return step_size_bound(self.effective.clamp_min(torch.finfo(torch.float32).tiny))


@dataclass(frozen=True)
class Stability:
    """
    The quantities of Theorems 2 and 3 along the K steps of an ascent on B examples. A value of a segment is a mean
    over it; the points between its ends are not evaluated.

    Attributes:
        curvature: kappa_t of the segments between two known gradients: (K-1, B), or (K, B) if the gradient at delta_K
            is known.
        amplification: (K, B), the secants `||z_{t+1} - z_t|| / ||d||` of the logits: at most the largest `||J v||` on
            the segment.
        step_sizes: (K, B), eta ([`gradient_step_sizes`]).
        monotone: (K, B), whether the step did not lower g.
        at_boundary: (K, B), whether the step ends at the boundary; with one ball per token, the fraction of tokens at
            the boundary.
        smoothness: The terms of Theorem 2; None if the smoothness of the loss in the logits has no bound.
    """

    curvature: Tensor
    amplification: Tensor
    step_sizes: Tensor
    monotone: Tensor
    at_boundary: Tensor
    smoothness: Smoothness | None

    @property
    def largest_curvature(self) -> Tensor:
        """`max_t |kappa_t|`, (B,): two-sided, as the proof of Theorem 3 needs it. Zero without segments."""
        absolute = self.curvature.abs()
        return absolute.amax(dim=0) if len(absolute) else absolute.sum(dim=0)

    @property
    def within_bound(self) -> Tensor | None:
        """(K, B), whether `eta <= 1 / L_eff`."""
        return None if self.smoothness is None else self.step_sizes * self.smoothness.effective <= 1

    @property
    def within_curvature(self) -> Tensor:
        """(K, B), whether `eta <= 1 / max_t |kappa_t|`: the condition of Theorem 3 for the measured curvature."""
        return self.step_sizes * self.largest_curvature <= 1


def measure_stability(
    trajectory: AscentTrajectory,
    amplification: Tensor,
    ball: PerturbationSet,
    perturbable: Tensor,
    loss_smoothness: Tensor | None,
    step_rule: str,
    curvature: Tensor | None = None,
) -> Stability:
    """
    Measure the stability of an ascent, without further evaluations and without waiting for the device.

    Args:
        trajectory: The trajectory, of K steps, with the loss `g(delta_K)`.
        amplification: (K, B), the secants of the logits along its steps.
        ball: The ball of the ascent.
        perturbable: (B, L), true where perturbing is allowed.
        loss_smoothness: L_loss (B,); None if it has no bound.
        step_rule: The step rule of the ascent.
        curvature: Optional, (K, B): the curvature of all K segments, instead of the trajectory's own
            [`segment_curvature`].
    """
    curvature = segment_curvature(trajectory) if curvature is None else curvature
    found = Stability(
        curvature=curvature,
        amplification=amplification,
        step_sizes=gradient_step_sizes(trajectory, step_rule),
        monotone=trajectory.losses.diff(dim=0) >= 0,
        at_boundary=_at_boundary(trajectory.deltas[1:], ball, perturbable),
        smoothness=None,
    )
    if loss_smoothness is None:
        return found
    gauss_newton = effective_smoothness(loss_smoothness, amplification.amax(dim=0), 0.0)
    residual = (found.largest_curvature - gauss_newton).clamp_min(0)
    return replace(found, smoothness=Smoothness(loss_smoothness, residual, gauss_newton + residual))


def _at_boundary(deltas: Tensor, ball: PerturbationSet, perturbable: Tensor) -> Tensor:
    """
    Whether perturbations (K, B, L, d) are on the boundary, (K, B); with one ball per token, the fraction of
    perturbable tokens on it.
    """
    norms = ball.norms(deltas.flatten(0, 1)).unflatten(0, deltas.shape[:2])
    radius = torch.as_tensor(ball.epsilon, device=norms.device).reshape(-1, *[1] * (norms.ndim - 2))
    reached = (norms >= _ON_BOUNDARY * radius).to(deltas.dtype)
    if ball.scope == "token":
        return (reached * perturbable).sum(dim=2) / perturbable.sum(dim=1)
    return reached
