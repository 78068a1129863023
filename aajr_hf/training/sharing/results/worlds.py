"""Results of agents in a world: `results.json` of `aajr evaluate`."""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict

from .parts import AttackTally, ByRadius, ClassShares, Evaluation, Settings, SharedDirections, TextTally, TrustRule


class SuccessShares(TypedDict):
    """
    Greedy and sampled success, without attack and under it; `all_attacks_success`: greedy, also under attacks in words.
    """

    nominal_success: float
    sampled_success: float
    worst_case_success: ByRadius[float]
    sampled_worst_case_success: ByRadius[float]
    all_attacks_success: NotRequired[ByRadius[float]]


class SuccessLists(TypedDict):
    """For each field of [`SuccessShares`], the two ends of its interval, or the outcomes of all examples."""

    nominal_success: list[float]
    sampled_success: list[float]
    worst_case_success: ByRadius[list[float]]
    sampled_worst_case_success: ByRadius[list[float]]
    all_attacks_success: NotRequired[ByRadius[list[float]]]


class SuccessTally(AttackTally):
    """`success`: the success after this attack and all attacks before it."""

    success: ByRadius[float]


class Ray(TypedDict):
    """Success and loss at each of the `multiples` along the worst direction."""

    multiples: list[float]
    success: list[float]
    sampled_success: list[float]
    nll: list[float]


class TokenOutcome(TypedDict):
    success: float
    sampled_success: float
    cost: float
    radius: float


class TokenNumbers(TokenOutcome):
    """Results of the attack `token`; `pga` has the results of gradient ascent within the same radii."""

    pga: TokenOutcome


class Membership(TypedDict):
    """Shares of the `examples` that keep the budget along the ascent (F_ad) and in every direction (F_gamma)."""

    along_ascent: float
    everywhere: float
    budget: float
    examples: int


class NuisanceSubspace(TypedDict):
    """
    A subspace of a token's embedding.

    Attributes:
        directions: Number of its dimensions.
        of_ascents, of_variants: Percent of the energy of the ascents, and of variants, in it.
        drift: Mean squared change of the logits per squared length of a small change along what it was estimated from.
    """

    directions: float
    of_ascents: float
    of_variants: float
    drift: float


class Nuisance(TypedDict):
    """
    What varies without changing the right answer, each subspace estimated from one half of the rows and measured on the other.

    Attributes:
        rank, dimensions: The largest number of directions of a subspace, and of those of an embedding.
        variants: Number of variants of the observations.
        changed: Percent of the variants that change the agent's answer.
        shift: Mean length of the change of the logits at the right answer, from an observation to its variant.
    """

    rank: int
    dimensions: int
    variants: int
    changed: float
    shift: float
    subspaces: dict[str, NuisanceSubspace]


class StabilitySteps(TypedDict):
    """The three quartiles over examples, at each step of the ascent."""

    curvature: list[list[float]]
    absolute_curvature: list[list[float]]
    amplification: list[list[float]]
    step_size: list[list[float]]


class StabilityExamples(TypedDict):
    """The three quartiles over examples, for the whole ascent."""

    largest_absolute_curvature: list[float]
    largest_amplification: list[float]
    largest_step_size: list[float]
    loss_smoothness: list[float]
    residual: list[float]
    effective_smoothness: list[float]
    step_size_bound: list[float]


class StabilityShares(TypedDict):
    """Shares of the examples, at each step of the ascent."""

    within_bound: list[float]
    within_curvature: list[float]
    monotone: list[float]
    at_boundary: list[float]


class StabilityNumbers(TypedDict):
    per_step: StabilitySteps
    per_example: StabilityExamples
    shares: StabilityShares
    monotone_within_bound: NotRequired[float]
    monotone_within_curvature: NotRequired[float]


class RobustnessNumbers(SuccessShares):
    """The measurements of one agent by `evaluate_agents`, which describes each field."""

    examples: int
    nominal_cost: float
    worst_case_cost: ByRadius[float]
    outcomes: SuccessLists
    attacks: dict[str, SuccessTally]
    gradients: float
    transferred_from: list[str]
    trust: list[TrustRule]
    ray: Ray
    amplification: float
    amplification_profile: list[float]
    random_amplification: float
    spectral_norm: float
    embedding_norm: float
    membership: NotRequired[Membership]
    nuisance: NotRequired[Nuisance]
    stability: StabilityNumbers
    token_attack: NotRequired[TokenNumbers]
    shared_directions: NotRequired[SharedDirections]
    text_attacks: NotRequired[dict[str, dict[str, TextTally]]]
    by_words: NotRequired[dict[str, float]]
    by_class: NotRequired[dict[str, ClassShares]]


class RobustnessRun(RobustnessNumbers):
    """The same numbers with the intervals of the shares and, if known, the training time."""

    intervals: SuccessLists
    train_seconds: float | None


class WorldSettings(Settings):
    """`system_prompt`: the text before every observation, if there was one."""

    environment: str
    system_prompt: NotRequired[str]
    ascent_steps: int
    spectral_examples: int
    power_iterations: int
    token_trials: int
    triggers: list[str]
    budget: NotRequired[float]
    class_column: NotRequired[str]
    nuisance_rank: NotRequired[int]
    transfer_from: NotRequired[list[str]]


class RobustnessResults(Evaluation):
    """`results.json` of `aajr evaluate` in a world, and of `aajr compare`."""

    kind: Literal["robustness"]
    runs: dict[str, RobustnessRun]
    settings: WorldSettings
