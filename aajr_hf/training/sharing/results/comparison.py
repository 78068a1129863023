"""Results of a comparison: `comparison.json` of `aajr compare`."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

from .parts import Evaluation
from .worlds import RobustnessRun, SuccessLists, SuccessShares, WorldSettings


class GradientNorms(TypedDict):
    """
    Gradient norms, see `gradient_norms`; each entry of `curve` is step, mean and standard deviation.

    Attributes:
        mean, variance: Over the steps of training.
        coefficient_of_variation: Standard deviation over mean; None if the mean is 0.
        values: Number of norms.
        every_step: Whether every step is covered.
        left_out: Number of norms that were not finite.
        curve: For each log entry: step, mean and, if every step is covered, standard deviation.
    """

    mean: float
    variance: float
    coefficient_of_variation: float | None
    values: int
    every_step: bool
    left_out: int
    curve: list[list[float | None]]


class Training(TypedDict):
    """
    How a run was trained, see `read_run`.

    Attributes:
        method: The regularizer, or `base` for an agent without a recipe.
        regularizer_lambda: None without a penalty or with a budget.
        epsilon, seed: As in the recipe; None without one.
        recipe: All other fields that differ from the defaults.
        gradient_norm: Gradient norms of the training; None if none was logged.
    """

    method: str
    regularizer_lambda: float | None
    epsilon: float | None
    seed: int | None
    recipe: dict[str, Any] | None
    gradient_norm: GradientNorms | None


class Price(TypedDict):
    """
    The price of robustness, in points of nominal success; None if every run has a penalty.

    Attributes:
        greedy, sampled: In success of greedy decoding, and of answers sampled at temperature 1.
    """

    greedy: float | None
    sampled: float | None


class ComparedRun(Training, RobustnessRun):
    """
    Attributes:
        price: Its price of robustness.
    """

    price: Price


class Configuration(SuccessShares):
    """
    Means over the runs that differ only in their seed.

    Attributes:
        label: Its name in tables and plots.
        runs: Names of the runs.
        examples: Number of examples of each run.
        method, regularizer_lambda, epsilon: As in `Training`.
        outcomes: The success values of each example, averaged over the runs.
        price: Its price of robustness.
    """

    label: str
    runs: list[str]
    examples: int
    method: str
    regularizer_lambda: float | None
    epsilon: float | None
    outcomes: SuccessLists
    price: Price


class Unregularised(TypedDict):
    """
    The configuration without a penalty that does best without attack.

    Attributes:
        label: Its name in tables and plots.
        nominal: Its success without attack.
    """

    label: str
    nominal: float


class BestUnregularised(TypedDict):
    """
    Attributes:
        greedy, sampled: By greedy decoding, and with answers sampled at temperature 1; None if every run has a
            penalty.
    """

    greedy: Unregularised | None
    sampled: Unregularised | None


class Difference(TypedDict):
    """
    The fields of `PairedDifference`.

    Attributes:
        points: Mean difference, in percentage points.
        lo, hi: Ends of its 95 % interval.
        p: p-value of the exact McNemar test; None if outcomes are probabilities or means over seeds.
    """

    points: float
    lo: float
    hi: float
    p: float | None


class _AtLevel(TypedDict):
    """
    Two methods at a level that both reach. In every list, the method in the comparison's focus comes first.

    Attributes:
        level: The level, in percent.
        runs: Names of the two runs.
        difference: The first minus the second.
    """

    level: float
    runs: list[str]
    difference: Difference


class AtWorstCase(_AtLevel):
    """
    Attributes:
        nominal: Success without attack of the two.
        price: Prices of robustness of the two.
    """

    nominal: list[float]
    price: list[float | None]


class AtNominal(_AtLevel):
    """
    Attributes:
        worst_case: Success under attack of the two.
    """

    worst_case: list[float]


class MatchedPair(TypedDict):
    """
    A comparison of two methods at one radius and for one way of decoding.

    Attributes:
        methods: The two methods.
        multiple: The radius, in multiples of epsilon.
        decoding: `greedy` or `sampled`.
        at_worst_case: At equal success under attack.
        at_nominal: At equal success without attack.
    """

    methods: list[str]
    multiple: str
    decoding: str
    at_worst_case: AtWorstCase
    at_nominal: AtNominal


class ComparisonResults(Evaluation):
    """
    `comparison.json`, which also has `sentences`.

    Attributes:
        kind: `comparison`.
        runs: By name.
        settings: What was run.
        configurations: The runs, averaged over seeds.
        best_unregularised: What prices are counted from.
        matched: Pairs of methods at equal levels.
        differing_settings: Settings in which the runs differ, with their values.
        sentences: The findings in words.
    """

    kind: Literal["comparison"]
    runs: dict[str, ComparedRun]
    settings: WorldSettings
    configurations: list[Configuration]
    best_unregularised: BestUnregularised
    matched: list[MatchedPair]
    differing_settings: dict[str, list[Any]]
    sentences: NotRequired[list[str]]
