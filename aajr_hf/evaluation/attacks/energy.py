"""How few directions hold the directions of the ascents: the energy in the principal directions of other examples."""

from __future__ import annotations

import torch
from torch import Tensor


def energy_by_rank(one: Tensor, other: Tensor) -> dict[int, float]:
    """
    Return by r the percentage of the energy of directions that lies in the span of the first r principal directions of
    the directions of other examples: of `one` (N, D) in those of `other` (M, D), and the other way round, averaged.
    Powers of two up to min(N, M). Random directions would leave `100 r / D`.
    """
    shares = torch.stack([_shares(one, other), _shares(other, one)]).mean(dim=0)
    ranks = [2**k for k in range(len(shares).bit_length())]
    return {rank: float(shares[rank - 1]) for rank in ranks if rank <= len(shares)}


def _shares(held_out: Tensor, known: Tensor) -> Tensor:
    """Return the percentages for r = 1, 2, ... up to the smaller number of directions."""
    held_out, known = held_out.double(), known.double()
    # The principal directions from the products of the directions: D may be in the millions.
    values, vectors = torch.linalg.eigh(known @ known.T)
    values, vectors = values.flip(0), vectors.flip(1)
    real = values > values[0] * 1e-12
    along = (held_out @ known.T) @ vectors / values.clamp_min(torch.finfo(values.dtype).tiny).sqrt()
    found = along.square().sum(dim=0).masked_fill(~real, 0).cumsum(dim=0)
    return 100 * found[: min(len(held_out), len(known))] / held_out.square().sum()
