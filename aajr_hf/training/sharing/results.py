"""
The results that commands write, as their JSON stands: one type for each `kind`, and one for each part. Whoever prints, plots or compares
results decides by `kind`, and finds the fields here. Shares are in percent, but for single outcomes, which are from 0 to 1.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict, TypeVar

_T = TypeVar("_T")
# By the radius of the attack, in multiples of the training radius as people write them: "0.5", "1".
ByRadius = dict[str, _T]


# Of every evaluation.


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


class _Evaluation(TypedDict):
    version: int
    train_epsilon: float
    threat_model: ThreatModelFields


# Of agents in a world.


class SuccessShares(TypedDict):
    """Greedy and sampled success, without attack and under it."""

    nominal_success: float
    sampled_success: float
    worst_case_success: ByRadius[float]
    sampled_worst_case_success: ByRadius[float]


class SuccessLists(TypedDict):
    """For each of [`SuccessShares`] the two ends of its interval, or the outcomes of all examples."""

    nominal_success: list[float]
    sampled_success: list[float]
    worst_case_success: ByRadius[list[float]]
    sampled_worst_case_success: ByRadius[list[float]]


class SuccessTally(AttackTally):
    """`success`: what the attack and those before it leave."""

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
    """Of the attack `token`, and of gradients within the same radii."""

    pga: TokenOutcome


class Membership(TypedDict):
    """Shares of so many examples that keep the budget along the ascent (F_ad) and in every direction (F_gamma)."""

    along_ascent: float
    everywhere: float
    budget: float
    examples: int


class StabilitySteps(TypedDict):
    """At each step of the ascent, the three quartiles over examples."""

    curvature: list[list[float]]
    absolute_curvature: list[list[float]]
    amplification: list[list[float]]
    step_size: list[list[float]]


class StabilityExamples(TypedDict):
    """Of the whole ascent, the three quartiles over examples."""

    largest_absolute_curvature: list[float]
    largest_amplification: list[float]
    largest_step_size: list[float]
    loss_smoothness: list[float]
    residual: list[float]
    effective_smoothness: list[float]
    step_size_bound: list[float]


class StabilityShares(TypedDict):
    """Of the examples, at each step."""

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
    """What `evaluate_agents` measures of an agent, and says of each field."""

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
    stability: StabilityNumbers
    token_attack: NotRequired[TokenNumbers]


class RobustnessRun(RobustnessNumbers):
    """The same in results, with the intervals of its shares, and how long it was trained, where that is known."""

    intervals: SuccessLists
    train_seconds: float | None


class WorldSettings(Settings):
    environment: str
    ascent_steps: int
    spectral_examples: int
    power_iterations: int
    token_trials: int
    budget: NotRequired[float]
    transfer_from: NotRequired[list[str]]


class RobustnessResults(_Evaluation):
    """`results.json` of `aajr evaluate` in a world, and of `aajr compare`."""

    kind: Literal["robustness"]
    runs: dict[str, RobustnessRun]
    settings: WorldSettings


# Of tool calls.


class CallShares(TypedDict):
    """Valid and exact calls, without attack and under it."""

    nominal_valid: float
    nominal_exact: float
    worst_case_valid: ByRadius[float]
    worst_case_exact: ByRadius[float]


class CallLists(TypedDict):
    """For each of [`CallShares`] the two ends of its interval, or the outcomes of all rows."""

    nominal_valid: list[float]
    nominal_exact: list[float]
    worst_case_valid: ByRadius[list[float]]
    worst_case_exact: ByRadius[list[float]]


class CallTally(AttackTally):
    """`exact`: the calls that the attack and those before it leave."""

    exact: ByRadius[float]


class ToolCallNumbers(CallShares):
    """What `evaluate_tool_calls` measures of an agent, and says of each field; `failures` by reason, at each radius and `nominal`."""

    examples: int
    nominal_nll: float
    worst_case_nll: ByRadius[float]
    failures: dict[str, dict[str, int]]
    reference_valid: float
    reference_exact: float
    outcomes: CallLists
    attacks: dict[str, CallTally]
    trust: list[TrustRule]
    embedding_norm: float


class ToolCallRun(ToolCallNumbers):
    """The same in results, with the intervals of its shares, and how long it was trained, where that is known."""

    intervals: CallLists
    train_seconds: float | None


class CallSettings(Settings):
    dataset_name: str
    dataset_config: str | None
    dataset_format: str
    dataset_split: str | None
    max_new_tokens: int | None


class ToolCallResults(_Evaluation):
    """`results.json` of `aajr evaluate --dataset_name`."""

    kind: Literal["tool_calls"]
    runs: dict[str, ToolCallRun]
    settings: CallSettings


# Of a comparison.


class GradientNorms(TypedDict):
    """See `gradient_norms`; `curve` is of step, mean and standard deviation."""

    mean: float
    variance: float
    coefficient_of_variation: float | None
    values: int
    every_step: bool
    left_out: int
    curve: list[list[float | None]]


class Training(TypedDict):
    """How a run was trained, see `read_run`."""

    method: str
    regularizer_lambda: float | None
    epsilon: float | None
    seed: int | None
    recipe: dict[str, Any] | None
    gradient_norm: GradientNorms | None


class Price(TypedDict):
    """Of robustness, in points of nominal success; None where no run is without a penalty."""

    greedy: float | None
    sampled: float | None


class ComparedRun(Training, RobustnessRun):
    price: Price


class Configuration(SuccessShares):
    """Means over the runs that differ in their seed alone."""

    label: str
    runs: list[str]
    examples: int
    method: str
    regularizer_lambda: float | None
    epsilon: float | None
    outcomes: SuccessLists
    price: Price


class Unregularised(TypedDict):
    """The configuration without a penalty that does best without attack."""

    label: str
    nominal: float


class BestUnregularised(TypedDict):
    greedy: Unregularised | None
    sampled: Unregularised | None


class Difference(TypedDict):
    """The fields of `PairedDifference`."""

    points: float
    lo: float
    hi: float
    p: float | None


class _AtLevel(TypedDict):
    """Two methods at a level that both reach; in every list the focus of the comparison stands first."""

    level: float
    runs: list[str]
    difference: Difference


class AtWorstCase(_AtLevel):
    nominal: list[float]
    price: list[float | None]


class AtNominal(_AtLevel):
    worst_case: list[float]


class MatchedPair(TypedDict):
    """One method against another at one radius, by one way of decoding."""

    methods: list[str]
    multiple: str
    decoding: str
    at_worst_case: AtWorstCase
    at_nominal: AtNominal


class ComparisonResults(_Evaluation):
    """`comparison.json`, where `sentences` are added."""

    kind: Literal["comparison"]
    runs: dict[str, ComparedRun]
    settings: WorldSettings
    configurations: list[Configuration]
    best_unregularised: BestUnregularised
    matched: list[MatchedPair]
    differing_settings: dict[str, list[Any]]
    sentences: NotRequired[list[str]]


# Of episodes.


class Said(TypedDict):
    sees: str
    says: str


class Side(TypedDict):
    """How many answers a player gave, and how many of them were malformed and how many the expert's."""

    answers: int
    malformed: int
    expert: int


class EpisodeNumbers(TypedDict):
    """What `play` records of an episode, and says of each field."""

    seed: int
    steps: int
    metrics: dict[str, float]
    sides: dict[str, Side]
    rewards: dict[str, float]
    transcript: NotRequired[list[dict[str, Said]]]


class EpisodeSettings(TypedDict):
    """What was asked for; how the attack was made, where there is one."""

    kind: Literal["episodes"]
    world: str
    model: str
    opponent: str | None
    agents: int
    shock: str | None
    magnitude: int | None
    temperature: float
    attack: str | None
    attack_steps: NotRequired[int]
    attack_restarts: NotRequired[int]
    epsilon: NotRequired[float]
    epsilon_mode: NotRequired[str]
    perturbation_norm: NotRequired[str]
    perturbation_scope: NotRequired[str]
    perturbed_tokens: NotRequired[str]


class EpisodeResults(EpisodeSettings, EpisodeNumbers):
    """A line of `episodes.jsonl`."""


# Of the rank that an adapter needs.


class Spectrum(TypedDict):
    """See `measure_rank`; `directions` by share and `coverage` by rank."""

    size: int
    stable_rank: float
    directions: dict[str, int | None]
    coverage: dict[str, float]
    singular_values: list[float]


class RankRecommendation(TypedDict):
    """Without a rank, no module either; without a smaller rank, no share of it."""

    share: float
    rank: int | None
    module: NotRequired[str]
    smaller: NotRequired[int | None]
    smaller_share: NotRequired[float]
    sentence: str


class RankNumbers(TypedDict):
    """What `measure_rank` returns; `penalty_gradient` and `update` by module."""

    directions: Spectrum
    images: Spectrum
    penalty_gradient: dict[str, Spectrum]
    update: dict[str, Spectrum]
    recommendation: RankRecommendation


class RankResults(RankNumbers):
    """`rank.json`."""

    kind: Literal["adapter_rank"]
    model: str
    base: str | None
    examples: int
    epsilon: float
    ascent_steps: int


Run = RobustnessRun | ToolCallRun
EvaluationResults = RobustnessResults | ToolCallResults
# What has runs under attack.
Results = EvaluationResults | ComparisonResults
