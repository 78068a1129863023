"""Whether the conditions of Theorems 2 and 3 hold along an ascent, from what the ascent has computed anyway."""

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

# A projection ends a little inside.
_ON_BOUNDARY = 1 - 1e-3


@dataclass(frozen=True)
class Smoothness:
    """
    The terms of Theorem 2, `L_eff = L_loss * max_t ||J v||^2 + C`, with `||J v||` and C as they were measured: all (B,). So
    L_eff is an estimate, and no bound.

    Attributes:
        loss: L_loss, a bound: the smoothness of g in the logits.
        residual: C: what the largest absolute curvature of a segment has beyond the first term.
        effective: L_eff: the larger one of the first term and that curvature.
    """

    loss: Tensor
    residual: Tensor
    effective: Tensor

    @property
    def step_size_bound(self) -> Tensor:
        """`1 / L_eff`. A loss that is flat to rounding allows any step; the largest number stands for that."""
        return step_size_bound(self.effective.clamp_min(torch.finfo(torch.float32).tiny))


@dataclass(frozen=True)
class Stability:
    """
    What Theorems 2 and 3 speak of, along the K steps of an ascent of B examples. A number of a segment is a mean over it:
    nothing is known of the points between.

    Attributes:
        curvature: kappa_t of the segments between two known gradients: (K-1, B), or (K, B) where that at delta_K is known.
        amplification: (K, B), the secants `||z_{t+1} - z_t|| / ||d||` of the logits: at most the largest `||J v||` on the segment.
        step_sizes: (K, B), eta ([`gradient_step_sizes`]).
        monotone: (K, B), whether the step did not lower g.
        at_boundary: (K, B), whether the step ends at the boundary; with one ball per token, the share of the tokens that do.
        smoothness: None where the loss has no bound in the logits.
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
        """(K, B), whether `eta <= 1 / max_t |kappa_t|`: what Theorem 3 needs, with the curvature measured, not bounded."""
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
    Without an evaluation, and without waiting for the device.

    Args:
        trajectory: Of K steps, its losses with `g(delta_K)`.
        amplification: (K, B), the secants of the logits along its steps.
        ball: What the ascent stayed in.
        perturbable: (B, L), true where perturbing is allowed.
        loss_smoothness: L_loss (B,); None where it has no bound.
        step_rule: That of the ascent.
        curvature: (K, B), where more is known than the trajectory's own [`segment_curvature`].
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
    """Of perturbations (K, B, L, d), whether they are on the boundary, (K, B); of one ball per token, the share that is."""
    norms = ball.norms(deltas.flatten(0, 1)).unflatten(0, deltas.shape[:2])
    radius = torch.as_tensor(ball.epsilon, device=norms.device).reshape(-1, *[1] * (norms.ndim - 2))
    reached = (norms >= _ON_BOUNDARY * radius).to(deltas.dtype)
    if ball.scope == "token":
        return (reached * perturbable).sum(dim=2) / perturbable.sum(dim=1)
    return reached
