"""The output whose Jacobian is penalised, as set by `penalty_output` and `penalty_reduction`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..config.base import AAJRConfigMixin
from ..data.batch import AgentBatch
from .policy import AgentPolicy


@dataclass(frozen=True)
class PenalisedOutput:
    """
    A function of the logits at the action positions of one batch, and the weights of its Jacobian.

    Attributes:
        batch: The micro-batch.
        name: One of the choices of `penalty_output`.
        reduction: One of the choices of `penalty_reduction`.
    """

    batch: AgentBatch
    name: str
    reduction: str

    @classmethod
    def of(cls, config: AAJRConfigMixin, batch: AgentBatch) -> PenalisedOutput:
        return cls(batch, config.penalty_output, config.penalty_reduction)

    def __call__(self, logits: Tensor) -> Tensor:
        """
        Map logits (B, A, V) to the output, which has the same shape, or (B, A, 1) for `margin`. It is zero on padding.
        For the reduction `token_mean`, it is scaled by `1/sqrt(number of action tokens)`, so that squared norms become
        means over tokens.
        """
        if self.name == "centered_logits":
            values = logits - logits.mean(dim=-1, keepdim=True)
        elif self.name in ("log_probs", "fisher"):
            values = logits.log_softmax(dim=-1)
        elif self.name == "probs":
            values = logits.softmax(dim=-1)
        elif self.name == "margin":
            values = self._margin(logits)
        else:
            values = logits
        values = values.masked_fill(~self.batch.action_mask[..., None], 0)
        return values if self._scale is None else values / self._scale

    def after(self, policy: AgentPolicy) -> Callable[[Tensor], Tensor]:
        """The policy whose Jacobian is penalised: it maps delta (B, L, d) to the output at the policy's logits."""
        return lambda delta: self(policy(delta))

    def weigh(self, output: Tensor, tangent: Tensor) -> Tensor:
        """
        Return the penalised tangent, from the output at a point and a product `J u` of its Jacobian at this point. For
        `fisher`, it is `J u` of the log-probabilities times the square root of the probabilities; for other outputs,
        `J u` itself.

        The weights are applied after differentiation, and not inside the function. So the probabilities belong to one
        point, even if `J u` is a difference between two points, and neither tangents nor gradients flow through them.
        """
        if self.name != "fisher":
            return tangent
        log_probs = output.detach() if self._scale is None else output.detach() * self._scale
        return log_probs.softmax(dim=-1).sqrt() * tangent

    @property
    def _scale(self) -> Tensor | None:
        if self.reduction != "token_mean":
            return None
        return self.batch.action_mask.sum(dim=1).sqrt()[:, None, None]

    def _margin(self, logits: Tensor) -> Tensor:
        label = self.batch.action_labels[..., None]
        # The choice of the closest token counts as a constant: where the choice changes, the margin has a kink, and
        # one of its two slopes is used.
        rival = logits.detach().scatter(-1, label, -torch.inf).argmax(dim=-1, keepdim=True)
        return logits.gather(-1, rival) - logits.gather(-1, label)
