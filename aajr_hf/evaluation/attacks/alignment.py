"""Prompts of different lengths, aligned at their last perturbable token, so that they can share a perturbation."""

from __future__ import annotations

from torch import Tensor


def aligned(values: Tensor, mask: Tensor, length: int) -> Tensor:
    """
    Return the vectors (B, L, d) of the last `length` tokens of each mask (B, L), as (B, length, d). The last token of
    the mask comes last; where a mask has fewer tokens, the first vectors are zero.
    """
    rows, tokens, places = _places(mask, length)
    found = values.new_zeros(len(values), length, values.shape[-1])
    found[rows, places] = values[rows, tokens]
    return found


def placed(vectors: Tensor, mask: Tensor) -> Tensor:
    """Return the inverse of [`aligned`]: (B, length, d) to (B, L, d), zero at all tokens without a vector."""
    rows, tokens, places = _places(mask, vectors.shape[1])
    found = vectors.new_zeros(*mask.shape, vectors.shape[-1])
    found[rows, tokens] = vectors[rows, places]
    return found


def _places(mask: Tensor, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return rows and tokens of all tokens that have a place, and their places, counted from 0 to `length` - 1."""
    from_the_end = mask.int().flip(1).cumsum(dim=1).flip(1)
    rows, tokens = (mask & (from_the_end <= length)).nonzero(as_tuple=True)
    return rows, tokens, length - from_the_end[rows, tokens]
