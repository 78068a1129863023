"""
The points at which the penalty is evaluated: all points of the ascent, or a random sample. For a sampled penalty, a
control variate is known for every example at no cost, so that only the difference from it is estimated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..config.base import AAJRConfigMixin
from ..policy.outputs import PenalisedOutput
from .ascent import PromptAscent
from .penalties import budgeted


@dataclass
class PenaltyPoints:
    """
    Attributes:
        ascent: The n evaluated examples, with all points of the penalty in their trajectories.
        rows: The indices of these examples in the batch, (n,).
        steps: The steps t of these trajectories at which the penalty is evaluated.
    """

    ascent: PromptAscent
    rows: Tensor
    steps: Sequence[int]


def control_variate(
    config: AAJRConfigMixin, ascent: PromptAscent, adversarial: Tensor, clean: Tensor | None
) -> Tensor | None:
    """
    The control variate from the two outer passes: the squared secant `||z(delta_K) - z(0)||^2 / ||delta_K||^2` of the
    penalised output, (B,), differentiable in the parameters.

    To first order, it is the squared amplification along the whole ascent, so it changes together with the penalty.
    Its mean over the batch, plus an estimate of the penalty's difference from it, has the same expectation as the
    penalty. If the agent was already trained with the penalty, it has less than half of the variance. The expectation
    is the same for all points of the penalty; but with a `penalty_radius` above 1, the secant carries no information
    about the points beyond the ball.

    Args:
        adversarial, clean: The logits at delta_K and at 0, (B, A, V), with their graphs; `clean` may be None.

    Returns:
        The control variate, or None if nothing is estimated, there is no second pass, or nothing is perturbed.
    """
    amortised = config.penalty_trajectory == "sample" or config.penalty_fraction < 1 or config.penalty_interval > 1
    if not (config.penalty_active and config.regularizer == "aajr" and amortised):
        return None
    if clean is None or ascent.delta is None:
        return None
    output = PenalisedOutput.of(config, ascent.policy.batch)
    ends = output(adversarial), output(clean)
    # Weighted at the mean of the two outputs, as in finite differences.
    rise = output.weigh((ends[0] + ends[1]) / 2, ends[0] - ends[1]).flatten(1).square().sum(dim=1)
    # An example whose gradient is zero has not moved, and has no secant.
    run = ascent.delta.flatten(1).square().sum(dim=1)
    squared = torch.where(run > 0, rise / run.clamp_min(torch.finfo(run.dtype).tiny), torch.zeros_like(rise))
    return budgeted(squared, config.amplification_budget)


def sample_points(config: AAJRConfigMixin, ascent: PromptAscent, generator: torch.Generator) -> PenaltyPoints:
    """Draw the points of the penalty uniformly, as `penalty_trajectory` and `penalty_fraction` ask for."""
    ascent = ascent.of_penalty
    examples = len(ascent.policy.batch)
    count = max(round(config.penalty_fraction * examples), 1)
    # Keep the order if all examples are taken: with dropout, an example's masks depend on its place in the batch.
    rows = torch.arange(examples) if count == examples else torch.randperm(examples, generator=generator)[:count]
    rows = rows.to(ascent.state.device)
    steps = 0 if ascent.trajectory is None else ascent.trajectory.steps
    if config.penalty_trajectory == "sample" and steps > 0:
        drawn = torch.randint(steps, (count,), generator=generator).to(rows.device)
        return PenaltyPoints(ascent.select(rows, drawn), rows, [0])
    every = range(steps) if config.penalty_trajectory != "last" else range(steps)[-1:]
    return PenaltyPoints(ascent if count == examples else ascent.select(rows), rows, every)
