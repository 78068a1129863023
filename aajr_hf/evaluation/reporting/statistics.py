"""Statistics: intervals of shares and means, and differences between two agents on the same examples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from ...training.sharing.results import RobustnessNumbers, Run, ToolCallNumbers

_Z = float(stats.norm.ppf(0.975))
_RESAMPLES = 4000
# Shares of a run in percent: single numbers, or numbers by multiple of the training radius.
_SHARES = (
    *("nominal_success", "sampled_success", "worst_case_success", "sampled_worst_case_success"),
    *("nominal_valid", "nominal_exact", "worst_case_valid", "worst_case_exact"),
    *("all_attacks_success", "all_attacks_exact"),
)


@dataclass(frozen=True)
class PairedDifference:
    """
    How much more often one agent is correct than another on the same examples.

    Attributes:
        points: Mean difference, in percentage points.
        lo, hi: Ends of its 95 % interval.
        p: p-value of the exact McNemar test; None if outcomes are probabilities or means over seeds.
    """

    points: float
    lo: float
    hi: float
    p: float | None

    @property
    def sign(self) -> int:
        """1 or -1 if the first or the second agent is better; 0 if the test, or without one the interval, shows none."""
        shown = self.lo > 0 or self.hi < 0 if self.p is None else self.p < 0.05
        return int(math.copysign(1, self.points)) if shown and self.points else 0

    def chance_text(self) -> str:
        """Return interval and p-value as text: `(95 %: 4.1 to 20.3; p = 0.004)`."""
        interval = f"95 %: {_number(self.lo)} to {_number(self.hi)}"
        if self.p is None:
            return f"({interval})"
        return f"({interval}; {'p < 0.001' if self.p < 0.001 else f'p = {self.p:.3f}'})"

    def text(self) -> str:
        """
        Return the difference as text: `12.5 points more (95 %: 4.1 to 20.3; p = 0.004)`. If the difference is
        negative, the text says `points less`, with positive numbers.
        """
        points = round(self.points, 1)
        if points < 0:
            less = PairedDifference(-self.points, -self.hi, -self.lo, self.p)
            return f"{_number(less.points)} points less {less.chance_text()}"
        return f"{_number(points)} points more {self.chance_text()}"


def _number(points: float) -> str:
    """Return a number with one decimal place; zero has no sign."""
    return f"{points:.1f}".replace("-0.0", "0.0")


def wilson(percent: float, n: int) -> tuple[float, float]:
    """
    Return the 95 % interval of a share (Wilson 1927), in percent.

    Args:
        percent: The share. A mean of probabilities is allowed, because it varies less than a share.
        n: Number of examples; with 0 examples, the interval is 0 to 100.
    """
    if n == 0:
        return 0.0, 100.0
    share, weight = percent / 100, _Z**2 / n
    middle = share + weight / 2
    half = math.sqrt(max(0.0, share * (1 - share) * weight + weight**2 / 4))
    low, high = (100 * end / (1 + weight) for end in (middle - half, middle + half))
    # Return exact ends, without rounding errors.
    return 0.0 if share <= 0 else low, 100.0 if share >= 1 else high


def with_intervals(run: RobustnessNumbers | ToolCallNumbers) -> Run:
    """Add the [`wilson`] interval [lo, hi] of each share of a run, under the key `intervals`."""
    n = run["examples"]

    def interval(share: Any) -> Any:
        return {m: interval(s) for m, s in share.items()} if isinstance(share, dict) else list(wilson(share, n))

    return run | {"intervals": {field: interval(run[field]) for field in _SHARES if field in run}}


def mcnemar(a: Sequence[float], b: Sequence[float]) -> float:
    """
    Return the p-value of the exact two-sided McNemar test: the probability of a difference at least this large,
    between outcomes 0 or 1 of the same examples, if both agents are correct equally often.

    Raises:
        ValueError: if the numbers of outcomes differ or are 0, or an outcome is neither 0 nor 1.
    """
    difference = _differences(a, b)
    if not _are_binary(a, b):
        raise ValueError("McNemar's test takes outcomes that are 0 or 1.")
    more, less = int((difference > 0).sum()), int((difference < 0).sum())
    return 1.0 if more + less == 0 else float(stats.binomtest(more, more + less).pvalue)


def paired_bootstrap(a: Sequence[float], b: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of the mean difference over examples, in points."""
    difference = _differences(a, b)
    resampled = np.random.default_rng(seed).integers(len(difference), size=(_RESAMPLES, len(difference)))
    low, high = np.quantile(difference[resampled].mean(axis=1), (0.025, 0.975))
    return 100 * float(low), 100 * float(high)


def paired_interval(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    """
    Return the 95 % interval of the difference between two shares of the same examples, in points (Bonett and Price
    2012). It is also defined for agents that agree on every example. It excludes zero in nearly the same cases in
    which [`mcnemar`] gives p < 0.05.
    """
    difference = _differences(a, b)
    n, total = len(difference) + 2, float(difference.sum())
    # The method adds two examples, one won by each agent.
    half = _Z * math.sqrt(float(np.abs(difference).sum()) + 2 - total**2 / n) / n
    return max(-100.0, 100 * (total / n - half)), min(100.0, 100 * (total / n + half))


def paired_difference(a: Sequence[float], b: Sequence[float]) -> PairedDifference:
    """
    Return how much more often `a` is correct than `b`, given the outcomes of the same examples in the same order.
    Outcomes 0 or 1 use [`mcnemar`] and [`paired_interval`]; probabilities use only [`paired_bootstrap`].

    Raises:
        ValueError: if the numbers of outcomes differ or are 0.
    """
    points = 100 * float(_differences(a, b).mean())
    if _are_binary(a, b):
        return PairedDifference(points, *paired_interval(a, b), mcnemar(a, b))
    return PairedDifference(points, *paired_bootstrap(a, b), None)


def _differences(a: Sequence[float], b: Sequence[float]) -> np.ndarray:
    if len(a) != len(b) or len(a) == 0:
        raise ValueError(
            f"Outcomes are paired by example and must be equally many, at least 1; got {len(a)} and {len(b)}."
        )
    return np.asarray(a, dtype=float) - np.asarray(b, dtype=float)


def _are_binary(*outcomes: Sequence[float]) -> bool:
    return all(np.isin(values, (0.0, 1.0)).all() for values in outcomes)


def mean_interval(values: list[float]) -> tuple[float, float | None]:
    """Return the mean and half the width of Student's 95 % confidence interval (None for a single value)."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, None
    return mean, student_t(len(values) - 1) * float(np.std(values, ddof=1)) / len(values) ** 0.5


def student_t(degrees: int, share: float = 0.95) -> float:
    """Return the t for which this share of Student's distribution lies between -t and t."""
    return float(stats.t.ppf((1 + share) / 2, degrees))
