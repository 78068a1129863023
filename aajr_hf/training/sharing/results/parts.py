"""Parts of every evaluation: its threat model, its settings, the rules of trust, the tallies of its attacks."""

from __future__ import annotations

from typing import NotRequired, TypedDict, TypeVar

_T = TypeVar("_T")
# Values by the radius of the attack, in multiples of the training radius: "0.5", "1".
ByRadius = dict[str, _T]


class ThreatModelFields(TypedDict):
    """
    The fields of `ThreatModel`.

    Attributes:
        epsilon: Radius of the ball at 1x.
        epsilon_mode: Unit of epsilon: `relative` to the mean norm of the perturbed embeddings, or `absolute`.
        perturbation_norm: Norm of the ball: `l2` or `linf`.
        perturbation_scope: One ball over the whole `sequence`, or one for each `token`.
        perturbed_tokens: Tokens whose embeddings are moved.
    """

    epsilon: float
    epsilon_mode: str
    perturbation_norm: str
    perturbation_scope: str
    perturbed_tokens: str


class TrustRule(TypedDict):
    """
    A check of the attack.

    Attributes:
        rule: What is checked.
        passed: Whether no reason to distrust the numbers was found.
        detail: What was found.
    """

    rule: str
    passed: bool
    detail: str


class AttackTally(TypedDict):
    """
    Numbers of examples that one attack attacked and broke; `alone` is the share that this attack alone does not break,
    if it attacked all examples.

    Attributes:
        attacked: Number of examples that the attack attacked: those that earlier attacks had left.
        broken: Number of these that it broke.
        alone: Share that this attack alone does not break, if it attacked all examples.
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
    """
    Of the examples of one class: their number, and the greedy successes, or exact calls, without and under attack.

    Attributes:
        examples: Number of examples.
        nominal: Share that is right without attack.
        worst_case: Share that is right under all attacks.
    """

    examples: int
    nominal: float
    worst_case: ByRadius[float]


class TextOutcomes(TypedDict):
    """
    For each row, 1 or 0; None for a row that cannot be attacked.

    Attributes:
        exact: Whether the answer is right under all tries.
        made: Whether a try got the call that it asks for; None where the attack asks for no call.
    """

    exact: list[float | None]
    made: list[float | None] | None


class TextTally(TypedDict):
    """
    One kind of an attack that rewrites texts; `attack_texts` describes each field. `exact` are the right answers:
    exact calls, or in a world the expert's answers.

    Attributes:
        rows: Number of rows that the attack can rewrite.
        nominal: Percent of these that are right without attack.
        exact: Percent that are right under all tries.
        made: Percent for which a try got the call that it asks for; None where the attack asks for no call.
        outcomes: The same row by row.
    """

    rows: int
    nominal: float
    exact: float
    made: float | None
    outcomes: TextOutcomes


class Settings(TypedDict):
    """
    The settings of an evaluation; `models` are folders or Hub names, `weights` the digests of local weights.

    Attributes:
        models: By name, the folder or the Hub name of each agent.
        dtype: Type of the weights, if one was asked for.
        weights: By name, the digest of the weights; None for models on the Hub.
        examples: Number of examples.
        multiples: Radii, in multiples of epsilon.
        attacks: Names of the attacks, in their order.
        attack_steps: Steps of each ascent.
        attack_restarts: Random starts of the attack `restart`.
        exhaustive: Whether each attack saw all examples.
        batch_size: Number of examples that were attacked at once.
        seed: Seed of the observations and of the attacks.
    """

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
    """
    Fields of every evaluation.

    Attributes:
        version: Number of the form of this file.
        train_epsilon: The radius that 1x stands for.
        threat_model: The ball.
    """

    version: int
    train_epsilon: float
    threat_model: ThreatModelFields
