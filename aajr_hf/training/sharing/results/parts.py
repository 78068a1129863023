"""What every evaluation writes: its threat model, its settings, the rules of trust, the tallies of its attacks."""

from __future__ import annotations

from typing import NotRequired, TypedDict, TypeVar

_T = TypeVar("_T")
# By the radius of the attack, in multiples of the training radius as people write them: "0.5", "1".
ByRadius = dict[str, _T]


class ThreatModelFields(TypedDict):
    """The fields of `ThreatModel`."""

    epsilon: float
    epsilon_mode: str
    perturbation_norm: str
    perturbation_scope: str
    perturbed_tokens: str


class TrustRule(TypedDict):
    """A check of the attack."""

    rule: str
    passed: bool
    detail: str


class AttackTally(TypedDict):
    """Examples that one attack attacked and broke, and the share that it leaves alone, where it attacked all."""

    attacked: ByRadius[int]
    broken: ByRadius[int]
    alone: NotRequired[ByRadius[float]]


class Settings(TypedDict):
    """How an evaluation was made; `models` are folders or Hub names, `weights` their digests, where they are files."""

    models: dict[str, str]
    weights: dict[str, str | None]
    examples: int
    multiples: list[float]
    attacks: list[str]
    attack_steps: int
    attack_restarts: int
    exhaustive: bool
    batch_size: int
    seed: int


class Evaluation(TypedDict):
    """Of every evaluation."""

    version: int
    train_epsilon: float
    threat_model: ThreatModelFields
