"""
Where the penalty is evaluated: at every point of the ascent, or at some that are drawn and weighted, so that their mean has
the mean over all of them as its expectation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .ascent import PromptAscent
from .config import AAJRConfig

# Part of the draws that ignores what the ascent has seen: bounds the weights where it misjudges a point.
_UNIFORM_PART = 0.1


@dataclass
class PenaltyPoints:
    """
    Attributes:
        ascent: The examples (n of them, repetitions allowed) and their trajectories.
        steps: The steps t of those trajectories at which the penalty is evaluated.
        weights: (n,): the mean over examples of weight times value estimates the mean over all examples and points.
    """

    ascent: PromptAscent
    steps: Sequence[int]
    weights: Tensor


def draw_points(config: AAJRConfig, ascent: PromptAscent, generator: torch.Generator) -> PenaltyPoints:
    """
    The points that `penalty_trajectory` and `penalty_fraction` ask for. Those of the regularizer `aajr` are drawn in
    proportion to the squared amplification that the ascent has seen along its own steps, from logits that it has computed
    anyway: few examples of a batch carry most of the penalty. Those of the others are drawn uniformly.
    """
    examples = len(ascent.policy.batch)
    count = max(round(config.penalty_fraction * examples), 1)
    everywhere = count == examples and config.penalty_trajectory != "sample"
    # With dropout, an example's masks depend on its place in the batch.
    if everywhere or config.regularizer != "aajr" or ascent.policy.dropout_seed is not None:
        if count < examples:
            rows = torch.randperm(examples, generator=generator)[:count]
            ascent = ascent.select(rows.to(ascent.state.device))
        steps = _steps(config.penalty_trajectory, ascent, generator)
        return PenaltyPoints(ascent, steps, torch.ones_like(ascent.scale))
    scores = ascent.recorder.secants(ascent.trajectory).square()
    if config.penalty_trajectory == "last":
        scores = scores[-1:]
    elif config.penalty_trajectory == "all":
        scores = scores.mean(dim=0, keepdim=True)
    drawn, weights = importance_sample(scores.flatten(), count, generator)
    rows = drawn % examples
    if config.penalty_trajectory == "sample":
        return PenaltyPoints(ascent.select(rows, drawn // examples), [0], weights)
    return PenaltyPoints(ascent.select(rows), _steps(config.penalty_trajectory, ascent, generator), weights)


def importance_sample(scores: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """
    Draw with replacement, in proportion to scores (N,), all at least 0, mixed with the uniform distribution.

    Returns:
        `(indices, weights)`, both (count,): the mean of `weights * values[indices]` has the mean of all N values as its
        expectation, whatever the values.
    """
    uniform = torch.full_like(scores, 1 / len(scores))
    total = scores.sum()
    seen = scores / total if bool(total > 0) else uniform
    probabilities = _UNIFORM_PART * uniform + (1 - _UNIFORM_PART) * seen
    indices = torch.multinomial(probabilities.cpu(), count, replacement=True, generator=generator).to(scores.device)
    return indices, uniform[indices] / probabilities[indices]


def _steps(rule: str, ascent: PromptAscent, generator: torch.Generator) -> Sequence[int]:
    """All steps, the last, or one that is drawn; none without a trajectory."""
    steps = 0 if ascent.trajectory is None else ascent.trajectory.steps
    if rule == "all" or steps == 0:
        return range(steps)
    return [steps - 1] if rule == "last" else [int(torch.randint(steps, (), generator=generator))]
