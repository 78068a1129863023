"""Parts of every evaluation: its threat model, its settings, the rules of trust, the tallies of its attacks."""

from __future__ import annotations

from typing import NotRequired, TypedDict, TypeVar

_T = TypeVar("_T")
# Values by the radius of the attack, in multiples of the training radius: "0.5", "1".
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
    """
    Numbers of examples that one attack attacked and broke; `alone` is the share that this attack alone does not break,
    if it attacked all examples.
    """

    attacked: ByRadius[int]
    broken: ByRadius[int]
    alone: NotRequired[ByRadius[float]]


class Settings(TypedDict):
    """The settings of an evaluation; `models` are folders or Hub names, `weights` the digests of local weights."""

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
    """Fields of every evaluation."""

    version: int
    train_epsilon: float
    threat_model: ThreatModelFields
