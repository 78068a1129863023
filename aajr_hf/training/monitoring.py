"""What one micro-batch of the ascent says about itself, from quantities that training has computed anyway."""

from __future__ import annotations

import torch
from torch import Tensor

from ..objective import (
    AscentTrajectory,
    PerturbationSet,
    effective_smoothness,
    segment_curvature,
    step_size_bound,
)
from .batch import AgentBatch

_ON_BOUNDARY = 1 - 1e-3


class LogitRecorder:
    """
    Follows the logits along an ascent: the clean ones, and the secant `||z_{t+1} - z_t|| / ||delta_{t+1} - delta_t||` of
    each segment, to first order the amplification `||J v||` along the step, without further evaluations.
    """

    def __init__(self):
        self.clean: Tensor | None = None
        self._last: Tensor | None = None
        self._changes: list[Tensor] = []

    def record(self, logits: Tensor) -> None:
        """Call with the logits at delta_0, ..., delta_K in turn, each (B, A, V)."""
        logits = logits.detach()
        if self._last is None:
            self.clean = logits
        else:
            self._changes.append((logits - self._last).flatten(1).norm(dim=1))
        self._last = logits

    def secants(self, trajectory: AscentTrajectory) -> Tensor:
        """(K, B); zero where the ascent did not move."""
        moves = trajectory.deltas.diff(dim=0).flatten(2).norm(dim=2)
        changes = torch.stack(self._changes)
        return torch.where(
            moves > 0, changes / moves.clamp_min(torch.finfo(moves.dtype).tiny), torch.zeros_like(moves)
        )


def ascent_metrics(
    trajectory: AscentTrajectory,
    recorder: LogitRecorder,
    ball: PerturbationSet,
    batch: AgentBatch,
    loss_smoothness: Tensor | None,
) -> dict[str, Tensor]:
    """
    Scalars of one micro-batch. `loss_smoothness` (B,) is the smoothness of the system loss in the logits; where it is None,
    nothing is said of the effective smoothness.

    `effective_smoothness` is Theorem 2's bound with the secants for `||J v||`, and a residual C that is as large as the
    curvature measured on the segments (two-sided) makes it: the larger of the two estimates.
    """
    delta = trajectory.deltas[-1]
    norms = ball.norms(delta)
    inside = batch.perturbable if ball.scope == "token" else torch.ones_like(norms, dtype=torch.bool)
    radius = torch.as_tensor(ball.epsilon).reshape(-1, *[1] * (norms.ndim - 1))
    secants = recorder.secants(trajectory)
    metrics = {
        "aajr/clean_loss": trajectory.losses[0].mean(),
        "aajr/adversarial_loss": trajectory.losses[-1].mean(),
        "aajr/amplification": secants.mean(),
        "aajr/delta_norm": delta.flatten(1).norm(dim=1).mean(),
        "aajr/boundary_fraction": (norms >= _ON_BOUNDARY * radius)[inside].float().mean(),
        "aajr/monotone_fraction": (trajectory.losses.diff(dim=0) >= 0).float().mean(),
    }
    if loss_smoothness is None:
        return metrics
    gauss_newton = effective_smoothness(loss_smoothness, secants.max(dim=0).values, 0.0)
    residual = torch.zeros_like(gauss_newton)
    if trajectory.steps > 1:
        curvature = segment_curvature(trajectory).abs().max(dim=0).values
        residual = (curvature - gauss_newton).clamp_min(0)
    smoothness = (gauss_newton + residual).mean()
    return metrics | {
        "aajr/effective_smoothness": smoothness,
        # A loss that is flat to rounding allows any step; the largest number stands for that.
        "aajr/step_size_bound": step_size_bound(smoothness.clamp_min(torch.finfo(torch.float32).tiny)),
    }


def logit_smoothness(system_loss: str, batch: AgentBatch) -> Tensor:
    """
    L_loss of Theorem 2, (B,): the smoothness of the system loss in the logits. The variance of v under a distribution is
    at most `||v||^2 / 2`; the Hessian of a mean over n tokens of the negative log-likelihood is such a variance over n,
    that of an expected cost at most the range of the costs times one.
    """
    if system_loss == "nll":
        return 0.5 / batch.action_mask.sum(dim=1)
    costs, valid = batch.candidate_costs, batch.candidate_mask
    highest = costs.masked_fill(~valid, float("-inf")).max(dim=1).values
    lowest = costs.masked_fill(~valid, float("inf")).min(dim=1).values
    return (highest - lowest) / 2


def token_metrics(logits: Tensor, batch: AgentBatch) -> dict[str, Tensor]:
    """Mean entropy of the predictions of action tokens, in nats, and their top-1 accuracy: TRL's metrics of the same names."""
    log_probs = logits.log_softmax(dim=-1)
    entropy = -(log_probs.exp() * log_probs).sum(dim=-1)
    correct = logits.argmax(dim=-1) == batch.action_labels
    return {
        "entropy": entropy[batch.action_mask].mean(),
        "mean_token_accuracy": correct[batch.action_mask].float().mean(),
    }
