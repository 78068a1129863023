"""The covariance of nuisances, and the penalty's directions that follow it (the matching principle, arXiv 2605.22800)."""

from __future__ import annotations

import torch
from torch import Tensor


def factor_of(moment: Tensor, rank: int) -> Tensor:
    """
    A factor F (d, r) of the covariance of nuisances per token: `F F'` is the second moment (d, d), restricted to its first
    principal directions (at most `rank`, and only those with energy), with trace 1.
    """
    energies, directions = torch.linalg.eigh(moment.double())  # in ascending order
    kept = slice(-min(rank, len(moment)), None)
    energies, directions = energies[kept].clamp_min(0), directions[:, kept]
    total = energies.sum()
    return directions * (energies / torch.where(total > 0, total, torch.ones_like(total))).sqrt()


def matched_direction(factor: Tensor, mask: Tensor, like: Tensor) -> Tensor:
    """
    Random directions u (B, L, d) whose covariance at each of the P perturbable tokens of an example is `F F' / P`,
    independent between tokens, and 0 elsewhere. Then `||J u||^2` has the mean `sum_l Tr(J_l F F' J_l') / P`; with
    `F F' = I / d`, this is the mean of a random unit direction.

    Args:
        factor: F, (d, r).
        mask: (B, L), the perturbable tokens.
        like: (B, L, d), for the type and the device.
    """
    factor = factor.to(like)
    noise = torch.randn(*mask.shape, factor.shape[1], dtype=like.dtype, device=like.device)
    tokens = mask.sum(dim=1).clamp_min(1).sqrt()[:, None, None]
    return noise @ factor.T * mask[..., None] / tokens
