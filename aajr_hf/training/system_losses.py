"""System losses `g`: what the adversary raises and training lowers."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cross_entropy

from .batch import AgentBatch


def token_nll(logits: Tensor, batch: AgentBatch) -> Tensor:
    """Negative log-likelihood of each action token, (B, A), zero on padding; logits (B, A, V)."""
    nll = cross_entropy(logits.transpose(1, 2), batch.action_labels, reduction="none")
    return nll.masked_fill(~batch.action_mask, 0)


def nll(logits: Tensor, batch: AgentBatch) -> Tensor:
    """Mean negative log-likelihood over each example's action tokens, (B,), in nats per token."""
    return token_nll(logits, batch).sum(dim=1) / batch.action_mask.sum(dim=1)


def expected_cost(logits: Tensor, batch: AgentBatch) -> Tensor:
    """
    Expected system cost of the action, (B,), in the units of the dataset's `action_costs`: `sum_i p_i cost_i`, with p the
    softmax over the candidates' tokens at the first position where the candidates differ.
    """
    columns = batch.candidate_column[:, None, None].expand(-1, 1, logits.shape[-1])
    scores = logits.gather(1, columns).squeeze(1).gather(1, batch.candidate_tokens)
    probabilities = scores.masked_fill(~batch.candidate_mask, float("-inf")).softmax(dim=-1)
    return (probabilities * batch.candidate_costs.to(probabilities.dtype)).sum(dim=1)


def system_loss(name: str, logits: Tensor, batch: AgentBatch) -> Tensor:
    """The per-example system loss `nll` or `expected_cost`, (B,)."""
    return nll(logits, batch) if name == "nll" else expected_cost(logits, batch)
