"""What chance can explain: intervals of shares and of means, and differences between two agents on the same examples."""

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
# In percent, of a run; each alone or by multiple of the training radius.
_SHARES = (
    *("nominal_success", "sampled_success", "worst_case_success", "sampled_worst_case_success"),
    *("nominal_valid", "nominal_exact", "worst_case_valid", "worst_case_exact"),
)


@dataclass(frozen=True)
class PairedDifference:
    """
    How much more often one agent is right than another on the same examples.

    Attributes:
        points: The mean difference, in points.
        lo, hi: Its 95 % interval.
        p: Of the exact McNemar test; None where outcomes are probabilities or means over seeds.
    """

    points: float
    lo: float
    hi: float
    p: float | None

    @property
    def sign(self) -> int:
        """Who is ahead, 1 or -1; 0 where chance explains it: by the test where there is one, or else by the interval."""
        shown = self.lo > 0 or self.hi < 0 if self.p is None else self.p < 0.05
        return int(math.copysign(1, self.points)) if shown and self.points else 0

    def chance_text(self) -> str:
        """`(95 %: 4.1 to 20.3; p = 0.004)`"""
        interval = f"95 %: {_number(self.lo)} to {_number(self.hi)}"
        if self.p is None:
            return f"({interval})"
        return f"({interval}; {'p < 0.001' if self.p < 0.001 else f'p = {self.p:.3f}'})"

    def text(self) -> str:
        """`12.5 points more (95 %: 4.1 to 20.3; p = 0.004)`: where there are less, the interval is of how much less."""
        points = round(self.points, 1)
        if points < 0:
            less = PairedDifference(-self.points, -self.hi, -self.lo, self.p)
            return f"{_number(less.points)} points less {less.chance_text()}"
        return f"{_number(points)} points more {self.chance_text()}"


def _number(points: float) -> str:
    """To one decimal place; what rounds to nothing has no sign."""
    return f"{points:.1f}".replace("-0.0", "0.0")


def wilson(percent: float, n: int) -> tuple[float, float]:
    """
    The 95 % interval of a share (Wilson 1927), in percent.

    Args:
        percent: The share. A mean of probabilities will do: it varies less than a share of so many examples.
        n: Of how many examples; of none, the share may be anything.
    """
    if n == 0:
        return 0.0, 100.0
    share, weight = percent / 100, _Z**2 / n
    middle = share + weight / 2
    half = math.sqrt(max(0.0, share * (1 - share) * weight + weight**2 / 4))
    low, high = (100 * end / (1 + weight) for end in (middle - half, middle + half))
    # Exact at the ends, where rounding would leave a last digit.
    return 0.0 if share <= 0 else low, 100.0 if share >= 1 else high


def with_intervals(run: RobustnessNumbers | ToolCallNumbers) -> Run:
    """A run with the [`wilson`] interval of each share it has, [lo, hi], under the key `intervals`."""
    n = run["examples"]

    def interval(share: Any) -> Any:
        return {m: interval(s) for m, s in share.items()} if isinstance(share, dict) else list(wilson(share, n))

    return run | {"intervals": {field: interval(run[field]) for field in _SHARES if field in run}}


def mcnemar(a: Sequence[float], b: Sequence[float]) -> float:
    """
    The exact two-sided McNemar test: how likely a difference as large between outcomes 0 or 1 of the same examples is, if both
    agents are right equally often.

    Raises:
        ValueError: for outcomes of unequal number or that are neither 0 nor 1.
    """
    difference = _differences(a, b)
    if not _are_binary(a, b):
        raise ValueError("McNemar's test takes outcomes that are 0 or 1.")
    more, less = int((difference > 0).sum()), int((difference < 0).sum())
    return 1.0 if more + less == 0 else float(stats.binomtest(more, more + less).pvalue)


def paired_bootstrap(a: Sequence[float], b: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """The 95 % percentile interval of the mean difference, in points, over resampled examples."""
    difference = _differences(a, b)
    resampled = np.random.default_rng(seed).integers(len(difference), size=(_RESAMPLES, len(difference)))
    low, high = np.quantile(difference[resampled].mean(axis=1), (0.025, 0.975))
    return 100 * float(low), 100 * float(high)


def paired_interval(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    """
    The 95 % interval of the difference between two shares of the same examples, in points (Bonett and Price 2012). Two agents
    that agree on every example have one, too, and it excludes zero about where [`mcnemar`] has p < 0.05.
    """
    difference = _differences(a, b)
    n, total = len(difference) + 2, float(difference.sum())
    # As if there were two more examples, one won by each.
    half = _Z * math.sqrt(float(np.abs(difference).sum()) + 2 - total**2 / n) / n
    return max(-100.0, 100 * (total / n - half)), min(100.0, 100 * (total / n + half))


def paired_difference(a: Sequence[float], b: Sequence[float]) -> PairedDifference:
    """
    How much more often `a` is right than `b`, from the outcomes of the same examples in one order: shares are tested by
    [`mcnemar`] with [`paired_interval`], probabilities have [`paired_bootstrap`] alone.

    Raises:
        ValueError: for outcomes of unequal number, or none.
    """
    points = 100 * float(_differences(a, b).mean())
    if _are_binary(a, b):
        return PairedDifference(points, *paired_interval(a, b), mcnemar(a, b))
    return PairedDifference(points, *paired_bootstrap(a, b), None)


def _differences(a: Sequence[float], b: Sequence[float]) -> np.ndarray:
    if len(a) != len(b) or len(a) == 0:
        raise ValueError(f"Outcomes are paired by example: there are {len(a)} of one agent and {len(b)} of the other.")
    return np.asarray(a, dtype=float) - np.asarray(b, dtype=float)


def _are_binary(*outcomes: Sequence[float]) -> bool:
    return all(np.isin(values, (0.0, 1.0)).all() for values in outcomes)


def mean_interval(values: list[float]) -> tuple[float, float | None]:
    """The mean and half the width of Student's 95 % confidence interval; None for a single value."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, None
    return mean, student_t(len(values) - 1) * float(np.std(values, ddof=1)) / len(values) ** 0.5


def student_t(degrees: int, share: float = 0.95) -> float:
    """The t with this share of Student's distribution between -t and t."""
    return float(stats.t.ppf((1 + share) / 2, degrees))
