"""TRL's own loss for given logits: TRL's code, normalisation and metrics, without a forward pass of the model."""

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
    Return a function that TRL's losses can call instead of a model with their fused LM head
    (`trl.trainer.utils.add_fused_lm_head`).

    Args:
        logits: (B, A, V), of the action tokens.
        labels, mask: (B, A), the tokens to predict, and false on their padding.
        columns: (B, A), the column of each token in the head's output.
        width: Number of columns of the head's output.

    Returns:
        A function that ignores its arguments and returns `log_probs` (B, width), with its graph, and `entropy`,
        `mean_logits` and `is_top1`, without a graph.
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
    Return the loss of TRL's trainer `parent` with `head` instead of the model, and the metrics that it would record.
    The trainer does not keep these metrics, because the same micro-batch is evaluated more than once.
    """
    with recorded_apart(trainer) as found:
        loss = parent.compute_loss(trainer, head, inputs)
    found.pop("num_tokens", None)
    return loss, {name: sum(values) / len(values) for name, values in found.items()}


class TRLSystemLoss(SystemLoss):
    """
    A system loss whose mean TRL computes; a subclass provides the head ([`_head`]).

    Args:
        evaluate: Function from a head to TRL's loss and metrics.
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
    """Raise ValueError for setups in which trainers with TRL's loss are not tested."""
    if isinstance(trainer.processing_class, ProcessorMixin):
        raise ValueError(
            "AAJR perturbs only text embeddings: set `processing_class` to a tokenizer, and use a text model."
        )
    if trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
        name = type(trainer).__name__
        raise ValueError(f"{name} is not tested with DeepSpeed and FSDP: unset `deepspeed` and `fsdp`.")
    if trainer.aux_loss_enabled:
        raise ValueError("`router_aux_loss_coef` must be 0 while AAJR is active.")
