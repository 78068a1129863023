"""Results of a comparison: `comparison.json` of `aajr compare`."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

from .parts import Evaluation
from .worlds import RobustnessRun, SuccessLists, SuccessShares, WorldSettings


class GradientNorms(TypedDict):
    """Gradient norms, see `gradient_norms`; each entry of `curve` is step, mean and standard deviation."""

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
    """The price of robustness, in points of nominal success; None if every run has a penalty."""

    greedy: float | None
    sampled: float | None


class ComparedRun(Training, RobustnessRun):
    price: Price


class Configuration(SuccessShares):
    """Means over the runs that differ only in their seed."""

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
    """Two methods at a level that both reach. In every list, the method in the comparison's focus comes first."""

    level: float
    runs: list[str]
    difference: Difference


class AtWorstCase(_AtLevel):
    nominal: list[float]
    price: list[float | None]


class AtNominal(_AtLevel):
    worst_case: list[float]


class MatchedPair(TypedDict):
    """A comparison of two methods at one radius and for one way of decoding."""

    methods: list[str]
    multiple: str
    decoding: str
    at_worst_case: AtWorstCase
    at_nominal: AtNominal


class ComparisonResults(Evaluation):
    """`comparison.json`, which also has `sentences`."""

    kind: Literal["comparison"]
    runs: dict[str, ComparedRun]
    settings: WorldSettings
    configurations: list[Configuration]
    best_unregularised: BestUnregularised
    matched: list[MatchedPair]
    differing_settings: dict[str, list[Any]]
    sentences: NotRequired[list[str]]
