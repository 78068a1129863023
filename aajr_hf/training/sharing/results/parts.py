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


class SharedDirections(TypedDict):
    """
    What the worst cases of different prompts have in common, learnt from one half of the rows and tried on the other.

    Attributes:
        examples: Rows that were learnt from.
        dimensions: Dimensions of a direction: perturbable tokens times the width of the embeddings.
        energy: Percent of the energy of the ascent directions in the first r principal directions, by r.
        worst, explained: Numbers of examples that are right without attack and that some attack breaks, and of these,
            that one perturbation for all prompts breaks.
        cosine, signs: Mean cosine of predicted and true gradients, and the percentage of equal signs; missing with too
            few rows.
    """

    examples: int
    dimensions: int
    energy: dict[str, float]
    worst: ByRadius[int]
    explained: ByRadius[int]
    cosine: NotRequired[float]
    signs: NotRequired[float]


class ClassShares(TypedDict):
    """Of the examples of one class: their number, and the greedy successes, or exact calls, without and under attack."""

    examples: int
    nominal: float
    worst_case: ByRadius[float]


class TextOutcomes(TypedDict):
    """For each row, 1 or 0; None for a row that cannot be attacked."""

    exact: list[float | None]
    made: list[float | None] | None


class TextTally(TypedDict):
    """
    One kind of an attack that rewrites texts; `attack_texts` describes each field. `exact` are the right answers: exact
    calls, or in a world the expert's answers.
    """

    rows: int
    nominal: float
    exact: float
    made: float | None
    outcomes: TextOutcomes


class Settings(TypedDict):
    """The settings of an evaluation; `models` are folders or Hub names, `weights` the digests of local weights."""

    models: dict[str, str]
    dtype: NotRequired[str]
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
