"""Metrics of the ascent on one micro-batch, from quantities that training computes anyway."""

from __future__ import annotations

import torch
from torch import Tensor

from ...objective import AscentTrajectory, PerturbationSet, step_size_bound
from ..data.batch import AgentBatch
from .stability import measure_stability


class LogitRecorder:
    """
    Recorder of the logits along an ascent: the clean logits, and the secant
    `||z_{t+1} - z_t|| / ||delta_{t+1} - delta_t||` of each segment. To first order, the secant is the amplification
    `||J v||` along the step. It needs no further evaluations.
    """

    def __init__(self):
        self.clean: Tensor | None = None
        self._proposed: Tensor | None = None
        self._last: Tensor | None = None
        self._changes: list[Tensor] = []

    def propose(self, logits: Tensor, rows: Tensor | None = None) -> None:
        """Take newly evaluated logits: of all examples (B, A, V), or of some rows (n, A, V)."""
        logits = logits.detach()
        self._proposed = logits if rows is None else self._proposed.index_copy(0, rows, logits)

    def accept(self) -> None:
        """
        Accept the last proposed logits of each example as the logits at the next point; called for delta_0, ...,
        delta_K in this order.
        """
        if self._last is None:
            self.clean = self._proposed
        else:
            self._changes.append((self._proposed - self._last).flatten(1).norm(dim=1))
        self._last = self._proposed

    def secants(self, trajectory: AscentTrajectory) -> Tensor:
        """The secants, (K, B); zero if the ascent did not move (`lengths` of [`AscentTrajectory`])."""
        return torch.where(trajectory.lengths > 0, torch.stack(self._changes) / trajectory.lengths, 0.0)


def ascent_metrics(
    trajectory: AscentTrajectory,
    recorder: LogitRecorder,
    ball: PerturbationSet,
    batch: AgentBatch,
    loss_smoothness: Tensor | None,
    step_rule: str,
) -> dict[str, Tensor]:
    """
    Scalar metrics of one micro-batch, as means over its examples. `loss_smoothness` (B,) is the smoothness of the
    system loss in the logits; if it is None, the metrics of the effective smoothness and of its step size bound are
    left out.
    """
    secants = recorder.secants(trajectory)
    found = measure_stability(trajectory, secants, ball, batch.perturbable, loss_smoothness, step_rule)
    metrics = {
        "aajr/clean_loss": trajectory.losses[0].mean(),
        "aajr/adversarial_loss": trajectory.losses[-1].mean(),
        "aajr/secant_amplification": secants.mean(),
        "aajr/delta_norm": trajectory.deltas[-1].flatten(1).norm(dim=1).mean(),
        "aajr/boundary_fraction": found.at_boundary[-1].mean(),
        "aajr/boundary_step_fraction": found.at_boundary.mean(),
        "aajr/monotone_fraction": found.monotone.float().mean(),
    }
    if trajectory.steps > 1:
        first, second = trajectory.directions[:2].flatten(2)
        metrics["aajr/direction_cosine"] = (first * second).sum(dim=1).mean()
    if len(found.curvature):
        metrics["aajr/curvature"] = found.curvature.mean()
        metrics["aajr/largest_curvature"] = found.largest_curvature.mean()
    if found.smoothness is None:
        return metrics
    smoothness = found.smoothness.effective.mean()
    return metrics | {
        "aajr/loss_smoothness": found.smoothness.loss.mean(),
        "aajr/residual_curvature": found.smoothness.residual.mean(),
        "aajr/effective_smoothness": smoothness,
        # The bound from the mean smoothness is finite even if some examples allow any step.
        "aajr/step_size_bound": step_size_bound(smoothness.clamp_min(torch.finfo(torch.float32).tiny)),
        "aajr/within_bound_fraction": found.within_bound.float().mean(),
    }


def logit_smoothness(system_loss: str, batch: AgentBatch) -> Tensor:
    """
    L_loss of Theorem 2, (B,): the smoothness of the system loss in the logits.

    The variance of v under a distribution is at most `||v||^2 / 2`. The Hessian of the mean negative log-likelihood
    over n tokens is such a variance, divided by n. The Hessian of an expected cost is at most such a variance, times
    the range of the costs.
    """
    if system_loss != "expected_cost":  # a divergence from constant targets has the Hessian of the likelihood
        return 0.5 / batch.action_mask.sum(dim=1)
    costs, valid = batch.candidate_costs, batch.candidate_mask
    highest = costs.masked_fill(~valid, float("-inf")).max(dim=1).values
    lowest = costs.masked_fill(~valid, float("inf")).min(dim=1).values
    return (highest - lowest) / 2


def token_metrics(logits: Tensor, batch: AgentBatch) -> dict[str, Tensor]:
    """
    Mean entropy of the predictions of action tokens, in nats, and their top-1 accuracy. TRL has metrics with the same
    names. Here a mean over processes gives all processes the same weight, like a mean over accumulated micro-batches,
    and does not weight them by their tokens.
    """
    log_probs = logits.log_softmax(dim=-1)
    entropy = -(log_probs.exp() * log_probs).sum(dim=-1)
    correct = logits.argmax(dim=-1) == batch.action_labels
    return {
        "entropy": entropy[batch.action_mask].mean(),
        "mean_token_accuracy": correct[batch.action_mask].float().mean(),
    }
