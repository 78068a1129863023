"""The system loss `distillation`: the divergence from a teacher's predictions of the action's tokens."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..data.batch import AgentBatch
from .policy import AgentPolicy
from .system_losses import ActionLoss

# Halvings of the interval in which the logarithm of a temperature lies, and this interval.
_HALVINGS, _LOG_TEMPERATURES = 50, (0.0, 20.0)


class Distillation(ActionLoss):
    """
    g(delta) = mean over the action's tokens of `KL(teacher || student(s + delta))`, where the teacher sees the unperturbed
    prompt. As a function of the student's logits, its Hessian is the softmax covariance, as that of the negative
    log-likelihood, so L_loss of Theorem 2 is the same.

    Training lowers the divergence at delta_K. There the teacher sees delta_K, too, if `moved`; and where it is surer than
    `entropy_floor` and the student's most likely token is another one, the teacher's logits are divided by the
    temperature at which its entropy is the floor.

    Args:
        teacher: The teacher, frozen.
        batch: The micro-batch.
        mean: Function from the examples' logits and losses to their mean.
        moved: Whether the teacher sees the perturbation in the outer loss.
        entropy_floor: In nats; 0 leaves the teacher as it is.
    """

    def __init__(
        self,
        teacher: nn.Module,
        batch: AgentBatch,
        mean: Callable[[Tensor, Tensor], Tensor],
        moved: bool = False,
        entropy_floor: float = 0.0,
    ):
        super().__init__("distillation", batch, mean)
        self._seen_by, self._moved, self._floor = AgentPolicy(teacher, batch), moved, entropy_floor
        self._targets = self._taught(None)

    def per_example(self, logits: Tensor, rows: Tensor | None = None) -> Tensor:
        batch = self.batch if rows is None else self.batch.select(rows)
        targets = self._targets if rows is None else self._targets[rows]
        divergence = token_divergence(targets, logits).masked_fill(~batch.action_mask, 0)
        return divergence.sum(dim=1) / batch.action_mask.sum(dim=1)

    def trained_at(self, delta: Tensor | None, logits: Tensor) -> Distillation:
        lowered = copy.copy(self)
        if self._moved and delta is not None:
            lowered._targets = self._taught(delta)
        if self._floor > 0:
            wrong = logits.detach().argmax(dim=-1) != lowered._targets.argmax(dim=-1)
            lowered._targets = tempered(lowered._targets, self._floor, wrong & self.batch.action_mask)
        return lowered

    @torch.no_grad()
    def _taught(self, delta: Tensor | None) -> Tensor:
        """The teacher's logits, (B, A, V)."""
        return self._seen_by(delta)


def token_divergence(targets: Tensor, logits: Tensor) -> Tensor:
    """`KL(softmax(targets) || softmax(logits))` of each token, (B, A) in nats, from logits (B, A, V)."""
    return functional.kl_div(logits.log_softmax(dim=-1), targets.softmax(dim=-1), reduction="none").sum(dim=-1)


def tempered(logits: Tensor, floor: float, where: Tensor) -> Tensor:
    """
    Divide the logits of each token in `where` (B, A) whose entropy is below the floor by the temperature at which its entropy
    is the floor, or at which no higher entropy is possible.
    """
    chosen = where & (_entropy(logits) < floor)
    if not bool(chosen.any()):
        return logits
    sure = logits[chosen]
    low, high = (torch.full((len(sure), 1), end, dtype=sure.dtype, device=sure.device) for end in _LOG_TEMPERATURES)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        hot = _entropy(sure / middle.exp())[:, None] >= floor
        low, high = torch.where(hot, low, middle), torch.where(hot, middle, high)
    return logits.masked_scatter(chosen[..., None].expand_as(logits), sure / high.exp())


def _entropy(logits: Tensor) -> Tensor:
    return torch.special.entr(logits.softmax(dim=-1)).sum(dim=-1)
