"""Policies whose worst case is known in closed form, as attacks see them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from aajr_hf.evaluation.attacks.search import Search
from aajr_hf.evaluation.attacks.target import outcome
from aajr_hf.evaluation.attacks.threat_model import ThreatModel
from aajr_hf.objective import PerturbationSet
from aajr_hf.training.data.batch import AgentBatch

EXAMPLES, LENGTH, WIDTH, VOCABULARY = 16, 5, 6, 4
RIGHT, WRONG = 2, 1
# From the lowest logits to the right one's.
DEPTH = 2000.0


def make_batch(examples: int = EXAMPLES) -> AgentBatch:
    """
    The first and the last position cannot be moved, of every second example another one. Of two tokens of the answer the first decides;
    every third example has that one alone, and padding in the other's place.
    """
    perturbable = torch.ones(examples, LENGTH, dtype=torch.bool)
    perturbable[:, [0, -1]] = False
    perturbable[::2, 1] = False
    action_mask = torch.ones(examples, 2, dtype=torch.bool)
    action_mask[::3, 1] = False
    return AgentBatch(
        input_ids=torch.zeros(examples, LENGTH, dtype=torch.long),
        attention_mask=torch.ones(examples, LENGTH, dtype=torch.long),
        perturbable=perturbable,
        action_positions=torch.tensor([[LENGTH - 2, LENGTH - 1]]).expand(examples, 2),
        action_mask=action_mask,
        action_labels=torch.full((examples, 2), RIGHT) * action_mask,
        candidate_column=torch.zeros(examples, dtype=torch.long),
        candidate_tokens=torch.arange(VOCABULARY).expand(examples, VOCABULARY),
        candidate_costs=(torch.arange(VOCABULARY) == WRONG).double().expand(examples, VOCABULARY),
        candidate_mask=torch.ones(examples, VOCABULARY, dtype=torch.bool),
    )


@dataclass
class KnownPolicy:
    """
    Perturbations (n, L, d) of some examples to logits (n, 2, V): those of the first token are 0 for the right answer, `height(delta,
    numbers)` (n,) for a wrong one, and far below for the others. With the other token, nothing is ever wrong.
    """

    height: Callable[[Tensor, Tensor], Tensor]
    batch: AgentBatch
    numbers: Tensor
    sharpness: float = 1.0

    def select(self, rows: Tensor) -> KnownPolicy:
        return KnownPolicy(self.height, self.batch.select(rows), self.numbers[rows], self.sharpness)

    def __call__(self, delta: Tensor) -> Tensor:
        logits = delta.new_full((len(delta), 2, VOCABULARY), -DEPTH)
        logits[..., RIGHT] = 0.0
        heights = self.height(delta, self.numbers)
        logits = torch.cat([logits[:, :1, :WRONG], heights[:, None, None], logits[:, :1, WRONG + 1 :]], dim=-1)
        other = torch.full_like(logits, -DEPTH)
        other[..., RIGHT] = 0.0
        logits = self.sharpness * torch.cat([logits, other], dim=1)
        return logits.masked_fill(~self.batch.action_mask[..., None], 0)


@dataclass
class KnownTarget:
    """What attacks ask of a target."""

    policy: KnownPolicy
    scale: Tensor
    threat: ThreatModel = field(default_factory=lambda: ThreatModel(epsilon=1.0))
    temperature: float = 1.0

    @property
    def batch(self) -> AgentBatch:
        return self.policy.batch

    @property
    def origin(self) -> Tensor:
        return torch.zeros(len(self.batch), LENGTH, WIDTH, dtype=self.scale.dtype)

    @property
    def state(self) -> Tensor:
        """Embeddings with these mean norms."""
        state = torch.zeros_like(self.origin)
        state[..., 0] = self.scale[:, None]
        return state

    def select(self, rows: Tensor) -> KnownTarget:
        return KnownTarget(self.policy.select(rows), self.scale[rows], self.threat)

    def ball(self, multiple: float) -> PerturbationSet:
        return self.threat.ball(self.scale, multiple)

    def outcome(self, delta: Tensor):
        return outcome(self.policy(delta), self.batch)


def make_target(height, *, scale: Tensor | None = None, dtype=torch.float64, sharpness=1.0, **threat) -> KnownTarget:
    policy = KnownPolicy(height, make_batch(), torch.arange(EXAMPLES), sharpness)
    scale = torch.ones(EXAMPLES, dtype=dtype) if scale is None else scale
    return KnownTarget(policy, scale, ThreatModel(**({"epsilon": 1.0} | threat)))


def directions(seed: int = 0, dtype=torch.float64) -> Tensor:
    """Of each example the gradient of the wrong answer's logit, (B, L, d): also where nothing can be moved."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(EXAMPLES, LENGTH, WIDTH, dtype=torch.float64, generator=generator).to(dtype)


def margins(dtype=torch.float64) -> Tensor:
    """How far each example's answer is from a wrong one, in logits, (B,)."""
    return torch.linspace(0.5, 4.0, EXAMPLES, dtype=torch.float64).to(dtype)


def along(delta: Tensor, numbers: Tensor, normals: Tensor) -> Tensor:
    return (delta * normals[numbers]).flatten(1).sum(dim=1)


def linear(normals: Tensor, margin: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda delta, numbers: along(delta, numbers, normals) - margin[numbers]


def reach(normals: Tensor, batch: AgentBatch, norm: str, scope: str) -> Tensor:
    """How far the wrong logit rises at most within a ball of radius 1, (B,): the dual norm of what can be moved."""
    free = normals * batch.perturbable[..., None]
    if norm == "linf":
        return free.abs().flatten(1).sum(dim=1)
    return free.norm(dim=-1).sum(dim=1) if scope == "token" else free.flatten(1).norm(dim=1)


def make_search(target: KnownTarget, radius: Tensor, **how) -> Search:
    ball = PerturbationSet(radius, target.threat.perturbation_norm, target.threat.perturbation_scope)
    return Search(target, ball, list(range(EXAMPLES)), **({"steps": 10} | how))


class Visited:
    """Every point at which a search evaluates, with its examples."""

    def __init__(self, monkeypatch):
        self.points: list[tuple[Search, Tensor, Tensor]] = []
        record = Search._record

        def recorded(search, delta, rows, logits, batch):
            self.points.append((search, delta.clone(), rows.clone()))
            return record(search, delta, rows, logits, batch)

        monkeypatch.setattr(Search, "_record", recorded)
