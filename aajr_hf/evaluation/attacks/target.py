"""One batch of an agent as attacks see it: perturbations of the prompts give logits, and logits give outcomes."""

from __future__ import annotations

import copy
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
    The outcome of each example, all (B,): whether greedy decoding gives the correct answer (1 or 0), the probability
    that sampling gives it, and the expected system cost (0 without candidates).
    """

    greedy: Tensor
    sampled: Tensor
    cost: Tensor


class Target:
    """
    An agent on one batch, under a threat model.

    Attributes:
        policy: Function that maps perturbations (B, L, d) of the embeddings to logits (B, A, V).
        state: The embeddings (B, L, d).
        origin: The zero perturbation, (B, L, d).
        scale: (B,), mean norm of each example's perturbable embeddings.
        temperature: Temperature at which answers are sampled.
    """

    def __init__(
        self, model: PreTrainedModel, batch: AgentBatch, threat: ThreatModel | None = None, temperature: float = 1.0
    ):
        self.model, self.batch, self.temperature = model, batch, temperature
        self.threat = threat or ThreatModel()
        self.policy = AgentPolicy(model, batch).with_cached_prefix()
        self.state = self.policy.embeddings()
        self.origin = torch.zeros_like(self.state)
        self.scale = embedding_norm(self.state, batch)

    def select(self, rows: Tensor) -> Target:
        """Return the target for some of the examples."""
        chosen = copy.copy(self)
        chosen.policy = self.policy.select(rows)
        chosen.batch = chosen.policy.batch
        chosen.state, chosen.origin, chosen.scale = self.state[rows], self.origin[rows], self.scale[rows]
        return chosen

    def ball(self, multiple: float) -> PerturbationSet:
        """Return the ball of perturbations within `multiple` times epsilon."""
        return self.threat.ball(self.scale, multiple)

    def cost(self, delta: Tensor) -> Tensor:
        """Return the expected system cost of the answers, (B,)."""
        return expected_cost(self.policy(delta), self.batch)

    @torch.no_grad()
    def outcome(self, delta: Tensor) -> Outcome:
        return outcome(self.policy(delta), self.batch, self.temperature)


def outcome(logits: Tensor, batch: AgentBatch, temperature: float = 1.0) -> Outcome:
    """Return the outcomes, given the logits (B, A, V) at the tokens of the correct answer."""
    greedy, sampled = success(logits, batch, temperature)
    cost = torch.zeros_like(sampled) if batch.candidate_tokens is None else expected_cost(logits / temperature, batch)
    return Outcome(greedy, sampled, cost)


def success(logits: Tensor, batch: AgentBatch, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """
    Return whether greedy decoding gives the labelled answer, and the probability that sampling at a temperature gives
    it: two tensors (B,), given the logits (B, A, V) at the tokens of the labelled answer.
    """
    labels = batch.action_labels[..., None]
    greedy = (logits.argmax(dim=-1, keepdim=True) == labels).squeeze(-1) | ~batch.action_mask
    log_probs = (
        (logits / temperature).log_softmax(dim=-1).gather(-1, labels).squeeze(-1).masked_fill(~batch.action_mask, 0)
    )
    return greedy.all(dim=1).float(), log_probs.sum(dim=1).exp()
