"""Directional Jacobians and the penalty along ascent directions (equations 13 and 20)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ._ascent import AscentTrajectory
from ._forward_mode import RecordedProducts, forward_mode
from ._perturbation import per_example

ESTIMATORS = ("jvp", "finite_difference")

Policy = Callable[[Tensor], Tensor]


def directional_jacobian(
    policy: Policy,
    state: Tensor,
    direction: Tensor,
    *,
    estimator: str = "jvp",
    difference_step: float | Tensor | None = None,
    products: RecordedProducts | None = None,
    weigh: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """
    The product `J(state) direction` of the policy's Jacobian with one direction per example, differentiable in the
    policy's parameters.

    Args:
        policy: Maps states (B, ...) to outputs (B, ...), each example independent of the others.
        state: (B, ...).
        direction: (B, ...), shaped as the state.
        estimator: `"jvp"`: exact, by forward-mode differentiation (`torch.func.jvp`). Parameter gradients are exact,
            too, also if the policy calls `layer_norm`, but not if it calls `batch_norm` or `instance_norm` with the
            statistics of its input: PyTorch differentiates their forward mode wrongly. `"finite_difference"`: central
            differences, `(policy(state + h u) - policy(state - h u)) / 2h`, with an error of O(h^2) plus rounding over
            h.
        difference_step: h, a number or a tensor (B,). By default the cube root of the state's machine epsilon times
            the mean norm of the state's vectors, which balances the two errors.
        products: Outputs of the policy's linear layers for the same state, recorded by an earlier forward pass; the
            jvp does not compute them again.
        weigh: Optional function of the output and `J u`, whose result is returned instead of `J u`. It multiplies
            `J u` by a diagonal that may depend on the output.

    Returns:
        `(output, J u)`, both of the policy's output shape. Under finite differences the output is the mean of the two
        evaluations, exact to O(h^2).

    Raises:
        ValueError: if the shapes differ or the estimator is unknown.
    """
    if state.shape != direction.shape:
        raise ValueError(
            f"`direction` must have the state's shape {tuple(state.shape)}, got {tuple(direction.shape)}."
        )
    if estimator == "jvp":
        # Forward mode refuses views that repeat memory, such as one state expanded to a batch.
        with forward_mode(products):
            output, tangent, *_ = torch.func.jvp(policy, (state.contiguous(),), (direction.contiguous(),))
        return output, tangent if weigh is None else weigh(output, tangent)
    if estimator != "finite_difference":
        raise ValueError(f"`estimator` must be one of {ESTIMATORS}, got {estimator!r}.")
    step = _default_difference_step(state) if difference_step is None else difference_step
    step = per_example(step, state, "difference_step")
    forward, backward = policy(state + step * direction), policy(state - step * direction)
    # Subtract and divide in at least fp32: a difference of two bf16 numbers has few bits left.
    dtype = torch.promote_types(forward.dtype, torch.float32)
    forward, backward = forward.to(dtype), backward.to(dtype)
    width = 2 * per_example(step.flatten().to(dtype) if step.ndim else step.to(dtype), forward)
    output, tangent = (forward + backward) / 2, (forward - backward) / width
    return output, tangent if weigh is None else weigh(output, tangent)


def _default_difference_step(state: Tensor) -> Tensor:
    scale = torch.linalg.vector_norm(state.detach(), dim=-1).reshape(state.shape[0], -1).mean(dim=1)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return torch.finfo(state.dtype).eps ** (1 / 3) * scale


def squared_amplification(policy: Policy, state: Tensor, direction: Tensor, **estimator_kwargs: Any) -> Tensor:
    """
    `||J(state) u||_2^2` per example, shape (B,): the square of equation 13, differentiable in the policy's parameters.
    Keyword arguments are those of [`directional_jacobian`].
    """
    _, tangent = directional_jacobian(policy, state, direction, **estimator_kwargs)
    return tangent.flatten(1).square().sum(dim=1)


def trajectory_amplification(
    policy: Policy,
    state: Tensor,
    trajectory: AscentTrajectory,
    *,
    points: Sequence[int] | None = None,
    products: Sequence[RecordedProducts] | None = None,
    **kwargs: Any,
) -> Tensor:
    """
    `a_t^2 = ||J(state + delta_t) u_t||_2^2` (equation 13, squared) at the given points of the trajectory, by default
    all K of them: shape (number of points, B). `products` has one recorder for each step, from the ascent's own
    forward passes; other keyword arguments are those of [`directional_jacobian`].

    Raises:
        ValueError: if the trajectory has no steps, and so no directions.
    """
    if trajectory.steps == 0:
        raise ValueError("The trajectory has no directions: run the ascent with at least one step.")
    points = range(trajectory.steps) if points is None else points
    known = [None] * trajectory.steps if products is None else products
    return torch.stack(
        [
            squared_amplification(
                policy, state + trajectory.deltas[t], trajectory.directions[t], products=known[t], **kwargs
            )
            for t in points
        ]
    )


def aajr_penalty(policy: Policy, state: Tensor, trajectory: AscentTrajectory, *, estimator: str = "jvp") -> Tensor:
    """
    Equation 20: `R = (1/K) sum_t ||J(state + delta_t) u_t||_2^2`, one value per example, shape (B,).

    The trajectory is detached, so `u_t` and `delta_t` are constants when R is differentiated with respect to the
    policy's parameters (stop-gradient).

    Args:
        policy: Maps states (B, ...) to outputs (B, ...), each example independent of the others.
        state: (B, ...).
        trajectory: Result of [`projected_gradient_ascent`] for this state, K >= 1.
        estimator: `"jvp"` or `"finite_difference"`, see [`directional_jacobian`].
    """
    return trajectory_amplification(policy, state, trajectory, estimator=estimator).mean(dim=0)
