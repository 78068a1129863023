"""One batch of an agent as attacks see it: from perturbations of its prompts to logits, and what has become of the answers."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ...objective import PerturbationSet
from ...training.data.batch import AgentBatch
from ...training.policy.policy import AgentPolicy, embedding_norm
from ...training.policy.system_losses import expected_cost
from .threat_model import ThreatModel


class Outcome(NamedTuple):
    """
    Per example, all (B,): whether greedy decoding gives the right answer (1 or 0), the probability that sampling does, and the expected
    system cost, zero without candidates.
    """

    greedy: Tensor
    sampled: Tensor
    cost: Tensor


class Target:
    """
    Attributes:
        policy: From perturbations (B, L, d) of the embeddings to logits (B, A, V).
        state: The embeddings (B, L, d).
        origin: (B, L, d), no perturbation.
        scale: (B,), mean norm of each example's perturbable embeddings.
    """

    def __init__(self, model: PreTrainedModel, batch: AgentBatch, threat: ThreatModel | None = None):
        self.model, self.batch = model, batch
        self.threat = threat or ThreatModel()
        self.policy = AgentPolicy(model, batch)
        self.state = self.policy.embeddings()
        self.origin = torch.zeros_like(self.state)
        self.scale = embedding_norm(self.state, batch)

    def select(self, rows: Tensor) -> Target:
        """The same of some examples."""
        return Target(self.model, self.batch.select(rows), self.threat)

    def ball(self, multiple: float) -> PerturbationSet:
        """The perturbations within so many times epsilon."""
        return self.threat.ball(self.scale, multiple)

    def cost(self, delta: Tensor) -> Tensor:
        """Expected system cost of the answers, (B,)."""
        return expected_cost(self.policy(delta), self.batch)

    @torch.no_grad()
    def outcome(self, delta: Tensor) -> Outcome:
        return outcome(self.policy(delta), self.batch)


def outcome(logits: Tensor, batch: AgentBatch) -> Outcome:
    """What has become of the answers, from the logits (B, A, V) after the right answer's own tokens."""
    greedy, sampled = success(logits, batch)
    cost = torch.zeros_like(sampled) if batch.candidate_tokens is None else expected_cost(logits, batch)
    return Outcome(greedy, sampled, cost)


def success(logits: Tensor, batch: AgentBatch) -> tuple[Tensor, Tensor]:
    """
    Whether greedy decoding gives the labelled answer, and the probability that sampling at temperature 1 does: two
    tensors (B,), from the logits (B, A, V) after the answer's own tokens.
    """
    labels = batch.action_labels[..., None]
    greedy = (logits.argmax(dim=-1, keepdim=True) == labels).squeeze(-1) | ~batch.action_mask
    log_probs = logits.log_softmax(dim=-1).gather(-1, labels).squeeze(-1).masked_fill(~batch.action_mask, 0)
    return greedy.all(dim=1).float(), log_probs.sum(dim=1).exp()
