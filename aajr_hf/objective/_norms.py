"""The baselines: global bounds on the Jacobian by its spectral norm or its Frobenius norm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ._ascent import EPS0
from ._jacobian import Policy, directional_jacobian, squared_amplification
from ._perturbation import expand_mask, per_example, per_example_norm


def random_unit_direction(state: Tensor, mask: Tensor | None = None) -> Tensor:
    """One direction per example, uniform on the unit sphere of the unmasked coordinates, drawn from the global RNG."""
    noise = torch.randn_like(state)
    if mask is not None:
        noise = noise * expand_mask(mask, noise)
    return noise / per_example(per_example_norm(noise) + EPS0, noise)


def top_singular_direction(
    policy: Policy,
    state: Tensor,
    *,
    iterations: int,
    mask: Tensor | None = None,
    weigh: Callable[[Tensor, Tensor], Tensor] | None = None,
    **kwargs: Any,
) -> Tensor:
    """
    Return the right singular vector of J(state) for its largest singular value, detached, with the shape of the state.
    It is found by power iteration on `J' J` from a random start. The forward pass of the vector-Jacobian products is
    evaluated once. `weigh` and other keyword arguments are those of [`directional_jacobian`].
    """
    if iterations < 1:
        raise ValueError(f"`iterations` must be at least 1, got {iterations}.")
    direction = random_unit_direction(state.detach(), mask)
    with torch.enable_grad():
        point = state.detach().requires_grad_(True)
        output = policy(point)
    for i in range(iterations):
        with torch.no_grad():
            _, tangent = directional_jacobian(policy, state.detach(), direction, weigh=weigh, **kwargs)
            if weigh is not None:  # J is the weighted Jacobian, so its transpose first multiplies by the same diagonal
                tangent = weigh(output, tangent)
        (pulled,) = torch.autograd.grad(output, point, tangent.to(output.dtype), retain_graph=i + 1 < iterations)
        if mask is not None:
            pulled = pulled * expand_mask(mask, pulled)
        direction = pulled / per_example(per_example_norm(pulled) + EPS0, pulled)
    return direction


def spectral_norm(
    policy: Policy, state: Tensor, *, iterations: int, mask: Tensor | None = None, **kwargs: Any
) -> Tensor:
    """
    The largest singular value of the policy's Jacobian at `state`, restricted to the unmasked coordinates: (B,).

    It is differentiable in the policy's parameters: for a constant singular vector v, the gradient of `||J v||` equals
    the gradient of the singular value.

    Args:
        policy: Maps states (B, ...) to outputs (B, ...), each example independent of the others.
        state: (B, ...).
        iterations: Number of power iterations; each costs one jvp and one vjp. The value is a lower bound, which grows
            with this number.
        mask: Optional, a prefix of the state's shape: true where the state may vary.
        kwargs: `estimator`, `difference_step` and `weigh` of [`directional_jacobian`].
    """
    direction = top_singular_direction(policy, state, iterations=iterations, mask=mask, **kwargs)
    _, tangent = directional_jacobian(policy, state, direction, **kwargs)
    return per_example_norm(tangent)


def frobenius_norm_squared(
    policy: Policy, state: Tensor, *, samples: int, mask: Tensor | None = None, **kwargs: Any
) -> Tensor:
    """
    An unbiased estimate of the squared Frobenius norm of the policy's Jacobian, shape (B,): `n * mean ||J w||^2` over
    `samples` random unit directions w, where n is the number of unmasked coordinates. Other arguments are as in
    [`spectral_norm`].
    """
    if samples < 1:
        raise ValueError(f"`samples` must be at least 1, got {samples}.")
    ones = torch.ones_like(state) if mask is None else expand_mask(mask, state).expand_as(state)
    dimension = ones.flatten(1).sum(dim=1)
    draws = [
        squared_amplification(policy, state, random_unit_direction(state, mask), **kwargs) for _ in range(samples)
    ]
    return dimension * torch.stack(draws).mean(dim=0)
