"""TRL's own loss of logits that are known: its code, normalisation and metrics, without a forward of the model."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from transformers import ProcessorMixin, Trainer

from ..._compat.trl import recorded_apart
from ..policy.system_losses import SystemLoss
from .base import AAJRMixin


def fused_head(
    logits: Tensor, labels: Tensor, mask: Tensor, columns: Tensor, width: int
) -> Callable[..., SimpleNamespace]:
    """
    A function that TRL's losses can call in place of a model with their fused LM head (`trl.trainer.utils.add_fused_lm_head`).

    Args:
        logits: (B, A, V), of the action tokens.
        labels, mask: (B, A), the tokens that they predict, and which of them are there.
        columns: (B, A), the place of each in what the head returns.
        width: How many places there are.

    Returns:
        From any arguments to `log_probs` (B, width), with its graph, and `entropy`, `mean_logits` and `is_top1`, without.
    """

    def placed(values: Tensor) -> Tensor:
        values = values.masked_fill(~mask, 0)
        return values.new_zeros(len(values), width).scatter_add(1, columns.masked_fill(~mask, 0), values)

    log_probs = logits.log_softmax(dim=-1)
    with torch.no_grad():
        output = SimpleNamespace(
            entropy=placed(-(log_probs.exp() * log_probs).sum(dim=-1)),
            mean_logits=placed(logits.mean(dim=-1)),
            is_top1=placed((logits.argmax(dim=-1) == labels).long()).bool(),
            aux_loss=None,
        )
    output.log_probs = placed(log_probs.gather(2, labels[..., None]).squeeze(2))
    return lambda *args, **kwargs: output


def trl_loss(trainer: AAJRMixin, parent: type[Trainer], head: Callable, inputs: dict[str, Any]) -> tuple[Tensor, dict]:
    """
    The loss of TRL's trainer `parent` with `head` in place of the model, and the metrics that it records of it: returned, not
    kept, since the same micro-batch is evaluated more than once.
    """
    with recorded_apart(trainer) as found:
        loss = parent.compute_loss(trainer, head, inputs)
    found.pop("num_tokens", None)
    return loss, {name: sum(values) / len(values) for name, values in found.items()}


class TRLSystemLoss(SystemLoss):
    """
    A system loss whose mean TRL computes: a subclass says with which head ([`_head`]).

    Args:
        evaluate: From a head to TRL's loss and metrics.
    """

    def __init__(self, evaluate: Callable[[Callable], tuple[Tensor, dict[str, float]]]):
        self._evaluate = evaluate

    def _head(self, logits: Tensor) -> Callable:
        raise NotImplementedError

    def mean(self, logits: Tensor, losses: Tensor) -> Tensor:
        return self._evaluate(self._head(logits))[0]

    @torch.no_grad()
    def metrics(self, clean: Tensor) -> dict[str, Tensor]:
        _, found = self._evaluate(self._head(clean))
        return {name: torch.tensor(value, device=clean.device) for name, value in found.items()}


def check_trl_loss(trainer: AAJRMixin) -> None:
    """Raise ValueError for what no trainer whose loss is TRL's is tested with."""
    if isinstance(trainer.processing_class, ProcessorMixin):
        raise ValueError(
            "AAJR perturbs text embeddings alone: give a tokenizer as `processing_class`, and a text model."
        )
    if trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
        name = type(trainer).__name__
        raise ValueError(f"{name} is not tried with DeepSpeed and FSDP: leave `deepspeed` and `fsdp` unset.")
    if trainer.aux_loss_enabled:
        raise ValueError("`router_aux_loss_coef` must be 0 while AAJR is active.")
