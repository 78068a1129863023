"""Confidence intervals of means, by Student's t."""

from __future__ import annotations

import numpy as np


def mean_interval(values: list[float]) -> tuple[float, float | None]:
    """The mean and half the width of Student's 95 % confidence interval; None for a single value."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, None
    return mean, student_t(len(values) - 1) * float(np.std(values, ddof=1)) / len(values) ** 0.5


def student_t(degrees: int, share: float = 0.95) -> float:
    """The t with this share of Student's distribution between -t and t."""
    # With t = sqrt(degrees) tan(angle), the density is a power of the cosine.
    angles = np.linspace(0, np.pi / 2, 200_001)
    heights = np.cos(angles) ** (degrees - 1)
    below = np.concatenate([[0.0], np.cumsum((heights[1:] + heights[:-1]) / 2)])
    return float(np.sqrt(degrees) * np.tan(np.interp(share, below / below[-1], angles)))
