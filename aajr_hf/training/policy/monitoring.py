"""What one micro-batch of the ascent says about itself, from quantities that training has computed anyway."""

from __future__ import annotations

import torch
from torch import Tensor

from ...objective import AscentTrajectory, PerturbationSet, step_size_bound
from ..data.batch import AgentBatch
from .stability import measure_stability


class LogitRecorder:
    """
    Follows the logits along an ascent: the clean ones, and the secant `||z_{t+1} - z_t|| / ||delta_{t+1} - delta_t||` of
    each segment, to first order the amplification `||J v||` along the step, without further evaluations.
    """

    def __init__(self):
        self.clean: Tensor | None = None
        self._proposed: Tensor | None = None
        self._last: Tensor | None = None
        self._changes: list[Tensor] = []

    def propose(self, logits: Tensor, rows: Tensor | None = None) -> None:
        """Call with all logits (B, A, V) that are evaluated, or with those of some rows (n, A, V)."""
        logits = logits.detach()
        self._proposed = logits if rows is None else self._proposed.index_copy(0, rows, logits)

    def accept(self) -> None:
        """What was proposed last of each example are the logits at delta_0, ..., delta_K, in turn."""
        if self._last is None:
            self.clean = self._proposed
        else:
            self._changes.append((self._proposed - self._last).flatten(1).norm(dim=1))
        self._last = self._proposed

    def secants(self, trajectory: AscentTrajectory) -> Tensor:
        """(K, B); zero where the ascent did not move (`lengths` of [`AscentTrajectory`])."""
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
    Scalars of one micro-batch, means over its examples. `loss_smoothness` (B,) is the smoothness of the system loss in the
    logits; where it is None, nothing is said of the effective smoothness and of what it allows.
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
        # Of the mean, which is finite where some examples allow any step.
        "aajr/step_size_bound": step_size_bound(smoothness.clamp_min(torch.finfo(torch.float32).tiny)),
        "aajr/within_bound_fraction": found.within_bound.float().mean(),
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
    """
    Mean entropy of the predictions of action tokens, in nats, and their top-1 accuracy: TRL's metrics of the same names, but that
    means over processes weigh these alike, as those over accumulated micro-batches do, and not by their tokens.
    """
    log_probs = logits.log_softmax(dim=-1)
    entropy = -(log_probs.exp() * log_probs).sum(dim=-1)
    correct = logits.argmax(dim=-1) == batch.action_labels
    return {
        "entropy": entropy[batch.action_mask].mean(),
        "mean_token_accuracy": correct[batch.action_mask].float().mean(),
    }
