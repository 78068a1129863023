"""Results of agents in a world: `results.json` of `aajr evaluate`."""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict

from .parts import AttackTally, ByRadius, ClassShares, Evaluation, Settings, SharedDirections, TextTally, TrustRule


class SuccessShares(TypedDict):
    """
    Greedy and sampled success, without attack and under it; `all_attacks_success`: greedy, also under attacks in
    words.

    Attributes:
        nominal_success, sampled_success: Success without attack: the expert's answer by greedy decoding, and the
            mean of its probability at the agent's temperature, 1 unless `--own_temperature` is given.
        worst_case_success, sampled_worst_case_success: The same under all attacks within a radius or a smaller one.
        all_attacks_success: `worst_case_success`, also under attacks in words.
    """

    nominal_success: float
    sampled_success: float
    worst_case_success: ByRadius[float]
    sampled_worst_case_success: ByRadius[float]
    all_attacks_success: NotRequired[ByRadius[float]]


class SuccessLists(TypedDict):
    """
    For each field of [`SuccessShares`], the two ends of its interval, or the outcomes of all examples.

    Attributes:
        nominal_success, sampled_success: Without attack.
        worst_case_success, sampled_worst_case_success: Under all attacks within a radius or a smaller one.
        all_attacks_success: Also under attacks in words.
    """

    nominal_success: list[float]
    sampled_success: list[float]
    worst_case_success: ByRadius[list[float]]
    sampled_worst_case_success: ByRadius[list[float]]
    all_attacks_success: NotRequired[ByRadius[list[float]]]


class SuccessTally(AttackTally):
    """
    `success`: the success after this attack and all attacks before it.

    Attributes:
        success: The success after this attack and all attacks before it.
    """

    success: ByRadius[float]


class Ray(TypedDict):
    """
    Success and loss at each of the `multiples` along the worst direction.

    Attributes:
        multiples: Lengths, in multiples of epsilon.
        success, sampled_success: Success at each length.
        nll: Negative log-likelihood of the expert's answer at each length, in nats per answer.
    """

    multiples: list[float]
    success: list[float]
    sampled_success: list[float]
    nll: list[float]


class TokenOutcome(TypedDict):
    """
    Attributes:
        success, sampled_success: Success under the attack.
        cost: Expected system cost under the attack.
        radius: Mean l2 norm of the change of the embeddings, in multiples of their mean norm.
    """

    success: float
    sampled_success: float
    cost: float
    radius: float


class TokenNumbers(TokenOutcome):
    """
    Results of the attack `token`; `pga` has the results of gradient ascent within the same radii.

    Attributes:
        pga: Results of gradient ascent within the same radii.
    """

    pga: TokenOutcome


class Membership(TypedDict):
    """
    Shares of the `examples` that keep the budget along the ascent (F_ad) and in every direction (F_gamma).

    Attributes:
        along_ascent: Percent of the examples within the budget at every point of the ascent, along its directions
            (F_ad).
        everywhere: Percent of the examples within the budget at every point of the ascent, in every direction
            (F_gamma).
        budget: gamma.
        examples: Number of examples for which this is measured.
    """

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
        subspaces: By what it was estimated from.
    """

    rank: int
    dimensions: int
    variants: int
    changed: float
    shift: float
    subspaces: dict[str, NuisanceSubspace]


class StabilitySteps(TypedDict):
    """
    The three quartiles over examples, at each step of the ascent.

    Attributes:
        curvature, absolute_curvature: kappa_t, and its absolute value.
        amplification: `||J v||` along the step.
        step_size: eta.
    """

    curvature: list[list[float]]
    absolute_curvature: list[list[float]]
    amplification: list[list[float]]
    step_size: list[list[float]]


class StabilityExamples(TypedDict):
    """
    The three quartiles over examples, for the whole ascent.

    Attributes:
        largest_absolute_curvature, largest_amplification, largest_step_size: Largest value along the ascent.
        loss_smoothness: L_loss, the smoothness of the loss in the logits.
        residual: C, the part of the curvature that the logits' amplification does not explain.
        effective_smoothness: L_eff.
        step_size_bound: 1 / L_eff.
    """

    largest_absolute_curvature: list[float]
    largest_amplification: list[float]
    largest_step_size: list[float]
    loss_smoothness: list[float]
    residual: list[float]
    effective_smoothness: list[float]
    step_size_bound: list[float]


class StabilityShares(TypedDict):
    """
    Shares of the examples, at each step of the ascent.

    Attributes:
        within_bound: Percent of the examples whose step is at most 1 / L_eff.
        within_curvature: Percent of the examples whose step is at most `1 / max_t |kappa_t|`.
        monotone: Percent of the examples whose loss the step does not lower.
        at_boundary: Percent of the examples whose step ends at the boundary of the ball.
    """

    within_bound: list[float]
    within_curvature: list[float]
    monotone: list[float]
    at_boundary: list[float]


class StabilityNumbers(TypedDict):
    """
    Attributes:
        monotone_within_bound, monotone_within_curvature: Percent of the steps within the bound, or within the
            curvature, that do not lower the loss; missing if there are no such steps.
    """

    per_step: StabilitySteps
    per_example: StabilityExamples
    shares: StabilityShares
    monotone_within_bound: NotRequired[float]
    monotone_within_curvature: NotRequired[float]


class RobustnessNumbers(SuccessShares):
    """
    The measurements of one agent by `evaluate_agents`, which describes each field.

    Attributes:
        examples: Number of observations.
        nominal_cost: Expected system cost without attack.
        worst_case_cost: Mean of the highest expected system cost that the attacks found.
        outcomes: The success values of each example, in the order of the rows.
        attacks: For each attack, in the order in which they ran, what it broke.
        gradients: Number of gradients that the attacks computed per example.
        transferred_from: The models whose perturbations were tried.
        trust: The checks of whether to trust the numbers.
        amplification: Mean `||J u_t||` of the logits along the directions of the ascent.
        amplification_profile: The same, for each point t of the ascent.
        random_amplification: The same at the unperturbed prompt, along random directions.
        spectral_norm: Largest value along any direction at the unperturbed prompt.
        embedding_norm: Mean norm of the perturbed embeddings.
        stability: The conditions of Theorems 2 and 3 along an inner ascent.
        text_attacks: By attack, then by its kind: attacks in words, which have no radius.
        by_words: By attack in words, the share that it leaves by itself.
        by_class: By class of the examples.
    """

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
    """
    The same numbers with the intervals of the shares and, if known, the training time.

    Attributes:
        intervals: 95 % intervals of the shares (Wilson).
        train_seconds: Duration of the training, in seconds; None if it is not known.
    """

    intervals: SuccessLists
    train_seconds: float | None


class WorldSettings(Settings):
    """
    `system_prompt`: the text before every observation, if there was one.

    Attributes:
        environment: The world.
        system_prompt: The text before every observation, if there was one.
        ascent_steps: Steps of the ascent along which amplification and stability are measured.
        spectral_examples: Number of examples of each batch whose spectral norm is measured.
        power_iterations: Number of power iterations of the spectral norm.
        token_trials: Number of texts that the attack `token` tries for each example.
        triggers: Triggers that the attack `trigger` tried beside those that it found.
        budget: gamma, if one was given.
        class_column: Column with the class of an example.
        nuisance_rank: The largest number of directions of a subspace of `nuisance`.
        temperatures: Temperature by agent at which answers were sampled; absent if it was 1.
        transfer_from: Further models whose perturbations were tried.
    """

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
    temperatures: NotRequired[dict[str, float]]
    transfer_from: NotRequired[list[str]]


class RobustnessResults(Evaluation):
    """
    `results.json` of `aajr evaluate` in a world, and of `aajr compare`.

    Attributes:
        kind: `robustness`.
        runs: By name of the agent.
        settings: What was run.
    """

    kind: Literal["robustness"]
    runs: dict[str, RobustnessRun]
    settings: WorldSettings
