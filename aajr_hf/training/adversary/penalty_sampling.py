"""
Where the penalty is evaluated: at every point of the ascent, or at some that are drawn. Of a drawn penalty, a control variate
that costs nothing is known for every example, so that only the rest is estimated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..config.sft import AAJRConfigMixin
from ..policy.outputs import PenalisedOutput
from .ascent import PromptAscent
from .penalties import budgeted


@dataclass
class PenaltyPoints:
    """
    Attributes:
        ascent: The examples (n of them) and their trajectories, all points of the penalty on them.
        rows: Their places in the batch, (n,).
        steps: The steps t of those trajectories at which the penalty is evaluated.
    """

    ascent: PromptAscent
    rows: Tensor
    steps: Sequence[int]


def control_variate(
    config: AAJRConfigMixin, ascent: PromptAscent, adversarial: Tensor, clean: Tensor | None
) -> Tensor | None:
    """
    What the two outer passes tell of the penalty: the squared secant `||z(delta_K) - z(0)||^2 / ||delta_K||^2` of the
    penalised output, (B,), differentiable in the parameters. To first order it is the squared amplification along the whole
    ascent, and it moves with the penalty: adding its mean over the batch, and estimating only the penalty's difference from
    it, has the same expectation and, on an agent that the penalty has calmed, less than half of the variance. The expectation
    is the same wherever the penalty's points lie; with a `penalty_radius` above 1, some lie where this secant sees nothing.

    Args:
        adversarial, clean: The logits at delta_K and at 0, (B, A, V), with their graphs; `clean` may be None.

    Returns:
        None where nothing is estimated, or there is no second pass.
    """
    amortised = config.penalty_trajectory == "sample" or config.penalty_fraction < 1 or config.penalty_interval > 1
    if not (config.penalty_active and config.regularizer == "aajr" and amortised):
        return None
    if clean is None or ascent.delta is None:
        return None
    output = PenalisedOutput.of(config, ascent.policy.batch)
    ends = output(adversarial), output(clean)
    # Weighed by the middle of the two, as a difference of two evaluations that estimates a Jacobian is.
    rise = output.weigh((ends[0] + ends[1]) / 2, ends[0] - ends[1]).flatten(1).square().sum(dim=1)
    # An example whose gradient is zero has not moved, and has no secant.
    run = ascent.delta.flatten(1).square().sum(dim=1)
    squared = torch.where(run > 0, rise / run.clamp_min(torch.finfo(run.dtype).tiny), torch.zeros_like(rise))
    return budgeted(squared, config.amplification_budget)


def sample_points(config: AAJRConfigMixin, ascent: PromptAscent, generator: torch.Generator) -> PenaltyPoints:
    """The points that `penalty_trajectory` and `penalty_fraction` ask for, drawn uniformly."""
    ascent = ascent.of_penalty
    examples = len(ascent.policy.batch)
    count = max(round(config.penalty_fraction * examples), 1)
    # In their order where all are taken: with dropout, an example's masks depend on its place in the batch.
    rows = torch.arange(examples) if count == examples else torch.randperm(examples, generator=generator)[:count]
    rows = rows.to(ascent.state.device)
    steps = 0 if ascent.trajectory is None else ascent.trajectory.steps
    if config.penalty_trajectory == "sample" and steps > 0:
        drawn = torch.randint(steps, (count,), generator=generator).to(rows.device)
        return PenaltyPoints(ascent.select(rows, drawn), rows, [0])
    every = range(steps) if config.penalty_trajectory != "last" else range(steps)[-1:]
    return PenaltyPoints(ascent if count == examples else ascent.select(rows), rows, every)
