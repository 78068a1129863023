"""One batch of an agent as attacks see it: what they raise, how far they may go, and what has become of the answers."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..training.batch import AgentBatch
from ..training.policy import AgentPolicy, embedding_norm
from ..training.system_losses import expected_cost, nll


class Outcome(NamedTuple):
    """Per example, all (B,): whether greedy decoding gives the expert's answer, the probability that sampling does, the cost."""

    greedy: Tensor
    sampled: Tensor
    cost: Tensor


class Target:
    """
    Attributes:
        policy: From perturbations (B, L, d) of the embeddings to logits.
        origin: (B, L, d), no perturbation.
        scale: (B,), mean norm of each example's perturbable embeddings: the unit of radii.
    """

    def __init__(self, model: PreTrainedModel, batch: AgentBatch):
        self.model, self.batch = model, batch
        self.policy = AgentPolicy(model, batch)
        self.state = self.policy.embeddings()
        self.origin = torch.zeros_like(self.state)
        self.scale = embedding_norm(self.state, batch)

    def cost(self, delta: Tensor) -> Tensor:
        """Expected system cost of the answers (B,), which attacks raise."""
        return expected_cost(self.policy(delta), self.batch)

    def nll(self, delta: Tensor) -> Tensor:
        """Negative log-likelihood of the labelled answers (B,), in nats per token, which attacks raise without costs."""
        return nll(self.policy(delta), self.batch)

    @torch.no_grad()
    def outcome(self, delta: Tensor) -> Outcome:
        return outcome(self.policy(delta), self.batch)


def outcome(logits: Tensor, batch: AgentBatch) -> Outcome:
    """What has become of the answers, from the logits (B, A, V) after the labelled answer's own tokens."""
    return Outcome(*success(logits, batch), expected_cost(logits, batch))


def success(logits: Tensor, batch: AgentBatch) -> tuple[Tensor, Tensor]:
    """
    Whether greedy decoding gives the labelled answer, and the probability that sampling at temperature 1 does: two
    tensors (B,), from the logits (B, A, V) after the answer's own tokens.
    """
    labels = batch.action_labels[..., None]
    greedy = (logits.argmax(dim=-1, keepdim=True) == labels).squeeze(-1) | ~batch.action_mask
    log_probs = logits.log_softmax(dim=-1).gather(-1, labels).squeeze(-1).masked_fill(~batch.action_mask, 0)
    return greedy.all(dim=1).float(), log_probs.sum(dim=1).exp()
