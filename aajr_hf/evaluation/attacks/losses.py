"""Losses that attacks maximise. Each maps an agent's logits (B, A, V) on a batch to one number per example, (B,)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ...training.data.batch import AgentBatch
from ...training.policy.system_losses import expected_cost, token_nll

Loss = Callable[[Tensor, AgentBatch], Tensor]

# The softmax of a very confident agent has a vanishing gradient. Dividing the logits by one of these temperatures
# restores it (Carlini and Wagner, arXiv 1607.04311, section 4).
_WARM, _HOT = 3.0, 10.0


def summed_nll(logits: Tensor, batch: AgentBatch) -> Tensor:
    """Return the negative log-likelihood of the whole correct answer, in nats."""
    return token_nll(logits, batch).sum(dim=1)


def warm_nll(logits: Tensor, batch: AgentBatch) -> Tensor:
    """Return [`summed_nll`] with the logits divided by 3."""
    return summed_nll(logits / _WARM, batch)


def tempered_nll(logits: Tensor, batch: AgentBatch) -> Tensor:
    """Return [`summed_nll`] with the logits divided by 10."""
    return summed_nll(logits / _HOT, batch)


def margin(logits: Tensor, batch: AgentBatch) -> Tensor:
    """
    Return the largest difference between the logit of a wrong token and the logit of the correct one, over the tokens
    of the answer. Above zero, greedy decoding gives another answer.
    """
    return _over_tokens(_token_margins(logits, batch), batch)


def scale_free_margin(logits: Tensor, batch: AgentBatch) -> Tensor:
    """
    Return [`margin`] with each token's difference divided by the difference between its largest and its third largest
    logit, so that the result does not depend on the scale of the logits: the difference of logits ratio of Croce and
    Hein (arXiv 2003.01690, equation 6).
    """
    top = logits.topk(3, dim=-1).values
    spread = (top[..., 0] - top[..., 2]).clamp_min(torch.finfo(logits.dtype).tiny)
    return _over_tokens(_token_margins(logits, batch) / spread, batch)


def soft_failure(logits: Tensor, batch: AgentBatch) -> Tensor:
    """
    Return how surely greedy decoding gives another answer, from 0 to 1: the logistic function of half the [`margin`]. Its
    mean over examples is a smooth share of wrong answers, to which no example contributes more than 1.
    """
    return torch.sigmoid(margin(logits, batch) / 2)


def _token_margins(logits: Tensor, batch: AgentBatch) -> Tensor:
    labels = batch.action_labels[..., None]
    wrong = logits.scatter(-1, labels, float("-inf")).amax(dim=-1)
    return wrong - logits.gather(-1, labels).squeeze(-1)


def _over_tokens(values: Tensor, batch: AgentBatch) -> Tensor:
    return values.masked_fill(~batch.action_mask, float("-inf")).amax(dim=1)


LOSSES: dict[str, Loss] = {
    "nll": summed_nll,
    "warm_nll": warm_nll,
    "tempered_nll": tempered_nll,
    "margin": margin,
    "scale_free_margin": scale_free_margin,
    "cost": expected_cost,
}
