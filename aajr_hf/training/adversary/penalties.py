"""The Jacobian penalties of one micro-batch: AAJR and its baselines, chosen by `AAJRConfig.regularizer`."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import torch
from torch import Tensor

from ...objective import (
    frobenius_norm_squared,
    random_unit_direction,
    squared_amplification,
    top_singular_direction,
    trajectory_amplification,
)
from ..config.base import AAJRConfigMixin
from ..config.choices import LOCAL_REGULARIZERS
from ..policy.forward_mode import forward_ad_ready
from ..policy.outputs import PenalisedOutput
from .ascent import PromptAscent
from .nuisance import matched_direction


def interpolations(state: Tensor, perturbable: Tensor) -> Tensor:
    """
    Perturbations delta (B, L, d) that move each example to a random interpolation between its observation and another
    observation of the batch, at the positions that may be perturbed in both. These are points of the whole state
    space, over which the global baselines take their supremum. With a single observation, delta is 0.
    """
    batch = state.shape[0]
    others = torch.randint(1, max(batch, 2), (batch,), device=state.device)
    partner = (torch.arange(batch, device=state.device) + others) % batch
    both = perturbable & perturbable[partner]
    weight = torch.rand(state.shape[0], 1, 1, dtype=state.dtype, device=state.device)
    return torch.where(both[..., None], weight * (state[partner] - state), torch.zeros_like(state))


def penalty(
    config: AAJRConfigMixin,
    ascent: PromptAscent,
    steps: Sequence[int],
    *,
    estimator: str,
    difference_step: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """
    The penalty of each example, differentiable in the policy's parameters.

    Args:
        config: The trainer's configuration.
        ascent: The adversary of one micro-batch (or of a part of it); its trajectory may be None for the regularizers
            that are not evaluated along it.
        steps: The steps t of the trajectory at which the penalty is evaluated.
        estimator: `"jvp"` or `"finite_difference"`.
        difference_step: Step of the finite differences, (B,).

    Returns:
        `(penalty (B,), norms)`: for `aajr`, the penalty is `R` of equation 20; for the baselines, it is the squared norm
        instead; with an amplification budget, only its part above the budget. The norms are those that are penalised, without
        a graph, (number of points, B): for `aajr`, the amplification `a_t`.
    """
    policy, state, trajectory = ascent.policy, ascent.state, ascent.trajectory
    mask = policy.batch.perturbable

    penalised = PenalisedOutput.of(config, policy.batch)
    output = penalised.after(policy)
    kwargs = {"estimator": estimator, "difference_step": difference_step, "weigh": penalised.weigh}
    with forward_ad_ready(policy.model) if estimator == "jvp" else contextlib.nullcontext():
        if config.regularizer == "aajr":
            # The policy is a function of delta only, so the state of the trajectory is the origin.
            squared = trajectory_amplification(
                output, torch.zeros_like(state), trajectory, points=steps, products=ascent.products, **kwargs
            )
        else:
            local = config.regularizer in LOCAL_REGULARIZERS
            deltas = [trajectory.deltas[t] for t in steps] if local else [interpolations(state, mask)]
            values = [_squared_norm(config, output, delta, mask, ascent.nuisance, kwargs) for delta in deltas]
            squared = torch.stack(values)
    return budgeted(squared, config.amplification_budget).mean(dim=0), squared.detach().sqrt()


def budgeted(squared: Tensor, budget: float | None) -> Tensor:
    """`max(a - budget, 0)^2` for the squared amplification `a^2`; without a budget, `a^2` itself."""
    if budget is None:
        return squared
    # Clamp before the root, whose derivative at zero is infinite.
    return (squared.clamp_min(budget**2).sqrt() - budget).square()


def _squared_norm(
    config: AAJRConfigMixin, output, delta: Tensor, mask: Tensor, nuisance: Tensor | None, kwargs: dict
) -> Tensor:
    if config.regularizer == "global_frobenius":
        return frobenius_norm_squared(output, delta, samples=1, mask=mask, **kwargs)
    if config.regularizer == "random_direction":
        direction = random_unit_direction(delta, mask)
    elif config.regularizer == "matched":
        direction = matched_direction(nuisance, mask, delta)
    else:
        direction = top_singular_direction(output, delta, iterations=config.power_iterations, mask=mask, **kwargs)
    return squared_amplification(output, delta, direction, **kwargs)
