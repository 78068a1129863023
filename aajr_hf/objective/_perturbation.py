"""The set of admissible perturbations: a norm ball around the state and the exact projection onto it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

NORMS = ("l2", "linf")
SCOPES = ("sequence", "token")

# By rounding, the norm of a rescaled vector can exceed epsilon. Therefore the radius is reduced by a few units in the
# last place of the arithmetic, and by half a unit of the format that stores the result. So the projection stays inside
# the ball, and a second projection changes nothing.
_SHRINK_ULPS = 16


def expand_mask(mask: Tensor, like: Tensor) -> Tensor:
    """Append dimensions to `mask`, whose shape is a prefix of `like.shape`, until it broadcasts over `like`."""
    if mask.shape != like.shape[: mask.ndim]:
        raise ValueError(
            f"`mask` must have a prefix of the state's shape {tuple(like.shape)}, got {tuple(mask.shape)}."
        )
    return mask.reshape(mask.shape + (1,) * (like.ndim - mask.ndim)).to(like.dtype)


def _arithmetic_dtype(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def per_example_norm(x: Tensor) -> Tensor:
    """l2 norm of each example: (B, ...) -> (B,)."""
    return torch.linalg.vector_norm(x.flatten(1), dim=1)


def per_example(value: float | Tensor, like: Tensor, name: str = "value") -> Tensor:
    """Reshape a number, or one number per example of shape (B,), so that it broadcasts over `like` (B, ...)."""
    value = torch.as_tensor(value, dtype=like.dtype, device=like.device)
    if value.shape not in ((), (1,), like.shape[:1]):
        raise ValueError(
            f"`{name}` must be a number or one number per example, shape {tuple(like.shape[:1])}, "
            f"got shape {tuple(value.shape)}."
        )
    return value.reshape(-1, *[1] * (like.ndim - 1)) if value.ndim else value


@dataclass(frozen=True)
class PerturbationSet:
    """
    The ball `{delta : ||delta|| <= epsilon}` from which perturbations of a state are taken (section III of
    arXiv 2603.04378).

    Args:
        epsilon: Radius, in the units of the state: one number, or a tensor (B,) with one radius per example. At least
            0.
        norm: `"l2"` or `"linf"`.
        scope: `"sequence"`: one ball over everything but the batch dimension (the paper); `"token"`: one ball per
            vector of the last dimension. For `"linf"` the two are the same set.

    Raises:
        ValueError: if `epsilon` is negative or not finite, or `norm` or `scope` is unknown.
    """

    epsilon: float | Tensor
    norm: str = "l2"
    scope: str = "sequence"

    def __post_init__(self) -> None:
        epsilon = torch.as_tensor(self.epsilon)
        if not bool(torch.isfinite(epsilon).all()) or bool((epsilon < 0).any()):
            raise ValueError(f"`epsilon` must be a finite number of at least 0, got {self.epsilon}.")
        if self.norm not in NORMS:
            raise ValueError(f"`norm` must be one of {NORMS}, got {self.norm!r}.")
        if self.scope not in SCOPES:
            raise ValueError(f"`scope` must be one of {SCOPES}, got {self.scope!r}.")

    def norms(self, delta: Tensor) -> Tensor:
        """
        The norm that the ball bounds, in at least fp32: (B, ...) -> (B,) for scope `sequence`, (B, ..., d) -> (B, ...)
        for scope `token`.
        """
        order = 2 if self.norm == "l2" else float("inf")
        delta = delta.to(_arithmetic_dtype(delta))
        if self.scope == "token":
            return torch.linalg.vector_norm(delta, ord=order, dim=-1)
        return torch.linalg.vector_norm(delta.flatten(1), ord=order, dim=1)

    def project(self, delta: Tensor, mask: Tensor | None = None) -> Tensor:
        """
        Euclidean projection of `delta` (B, ...) onto the ball; points inside are returned unchanged, to the bit.

        Args:
            delta: Perturbations, shape (B, ...).
            mask: Optional, a prefix of delta's shape, e.g. (B, L): true where perturbing is allowed. Other positions
                become 0.
        """
        if mask is not None:
            delta = delta * expand_mask(mask, delta)
        if self.norm == "linf":
            epsilon = per_example(self.epsilon, delta, "epsilon")
            return torch.minimum(torch.maximum(delta, -epsilon), epsilon)
        norm = self.norms(delta)
        norm = norm.reshape(norm.shape + (1,) * (delta.ndim - norm.ndim))
        epsilon = per_example(self.epsilon, norm, "epsilon")
        shrunk = epsilon * (1 - torch.finfo(delta.dtype).eps / 2 - _SHRINK_ULPS * torch.finfo(norm.dtype).eps)
        rescaled = delta * (shrunk / norm.clamp_min(torch.finfo(norm.dtype).tiny))
        return torch.where(norm > epsilon, rescaled.to(delta.dtype), delta)

    def extent(self, like: Tensor, mask: Tensor | None = None) -> Tensor:
        """
        Half the l2 diameter of the ball, divided by epsilon, shape (B,), for states with the shape of `like`. It is 1
        for one l2 ball, and the square root of the number of balls for a product of balls.
        """
        if self.norm == "l2" and self.scope == "sequence":
            return like.new_ones(len(like))
        free = torch.ones_like(like) if mask is None else expand_mask(mask, like).expand_as(like)
        # The ball is a product: of one interval per free coordinate, or of one ball per free vector.
        factors = free if self.norm == "linf" else free.amax(dim=-1, keepdim=True)
        # At least 1, even if nothing is free: then nothing can move anyway.
        return factors.flatten(1).sum(dim=1).clamp_min(1).sqrt()

    def sample(self, like: Tensor, mask: Tensor | None = None) -> Tensor:
        """A random start: a Gaussian (l2) or uniform (linf) point of random size inside the ball, shaped as `like`."""
        if self.norm == "linf":
            noise = 2 * torch.rand_like(like) - 1
        else:
            noise = torch.randn_like(like)
        if mask is not None:
            noise = noise * expand_mask(mask, noise)
        norm = self.norms(noise)
        norm = norm.reshape(norm.shape + (1,) * (noise.ndim - norm.ndim))
        radius = per_example(self.epsilon, norm, "epsilon") * torch.rand_like(norm)
        # A vector that is masked as a whole has norm 0, and stays 0.
        noise = noise * (radius / torch.where(norm > 0, norm, torch.ones_like(norm)))
        return self.project(noise.to(like.dtype), mask)
