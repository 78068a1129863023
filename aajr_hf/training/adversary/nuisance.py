"""The covariance of nuisances, and the penalty's directions that follow it (the matching principle, arXiv 2605.22800)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..data.batch import AgentBatch


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


def basis_of(factor: Tensor) -> Tensor:
    """An orthonormal basis (d, k) of the range of a factor from [`factor_of`], whose columns are orthogonal: k of them are not 0."""
    energies = factor.square().sum(dim=0)
    kept = energies > torch.finfo(factor.dtype).eps * len(factor) * energies.sum()
    return factor[:, kept] / energies[kept].sqrt()


def coverage(factor: Tensor, moment: Tensor) -> float:
    """
    The share of the energy of a second moment S (d, d) in the range of a factor, `Tr(Q' S Q) / Tr(S)` with an orthonormal
    basis Q of the range: 1 if the range contains all of S, and on average `rank / d` for a random range. 0 if S is 0.
    """
    basis, moment = basis_of(factor), moment.to(factor)
    total = moment.trace()
    return float((basis.T @ moment @ basis).trace() / total) if total > 0 else 0.0


def variant_differences(state: Tensor, batch: AgentBatch) -> Tensor:
    """
    The differences (n, d) from the first example of a batch to the others at each token that may be perturbed in both,
    where both have equally many tokens, so that the same words stand at the same tokens.

    Args:
        state: The embeddings (B, L, d).
    """
    lengths = batch.attention_mask.sum(dim=1)
    alike = (lengths == lengths[0]).nonzero().flatten()[1:]
    both = batch.perturbable[alike] & batch.perturbable[0]
    return (state[alike] - state[0])[both]


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
