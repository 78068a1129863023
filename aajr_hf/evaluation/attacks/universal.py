"""
One perturbation of the embeddings for all prompts of about the same length (Moosavi-Dezfooli et al., arXiv 1610.08401),
learnt on other prompts than those on which it is tried.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .alignment import aligned, placed
from .search import Search
from .target import Target

STEPS = 10
# A class of lengths has at least this many prompts to learn from, if there are as many.
_LEAST = 32


@dataclass(frozen=True)
class UniversalPerturbation:
    """
    One direction for each class of lengths, aligned at the last perturbable token.

    Attributes:
        longest: For each class, the largest number of perturbable tokens of a prompt; ascending.
        directions: For each class, the direction (tokens, d), with norm 1.
    """

    longest: tuple[int, ...]
    directions: tuple[Tensor, ...]

    def on(self, target: Target) -> Tensor:
        """Return the direction on each prompt, (B, L, d). Prompts beyond the longest class get its direction."""
        mask = target.batch.perturbable
        classes = _class_of(mask.sum(dim=1), self.longest)
        found = torch.zeros_like(target.origin)
        for number, direction in enumerate(self.directions):
            rows = (classes == number).nonzero().flatten()
            found[rows] = placed(direction.expand(len(rows), -1, -1), mask[rows])
        return found


def learn_universal(
    targets: list[Target], loss: str, steps: int = STEPS, multiple: float = 1.0
) -> UniversalPerturbation:
    """
    Learn the perturbation by ascent on the mean over all prompts of a class of a loss of `LOSSES`, at the boundary of
    their own balls, whose radius is this multiple of epsilon. A perturbation for large balls is not found in small ones,
    where a robust agent's loss is flat.
    """
    lengths = [target.batch.perturbable.sum(dim=1) for target in targets]
    longest = _classes(torch.cat(lengths))
    directions = []
    for number in range(len(longest)):
        rows = [(_class_of(found, longest) == number).nonzero().flatten() for found in lengths]
        parts = [target.select(some) for target, some in zip(targets, rows, strict=True) if len(some)]
        directions.append(_learn(parts, loss, longest[number], steps, multiple))
    return UniversalPerturbation(longest, tuple(directions))


def _learn(targets: list[Target], loss: str, length: int, steps: int, multiple: float) -> Tensor:
    searches = [Search(target, target.ball(multiple), [0] * len(target.batch), steps=1) for target in targets]
    direction = targets[0].origin.new_zeros(length, targets[0].origin.shape[-1])
    best, most = direction, float("-inf")
    for step in range(steps + 1):
        total, value = torch.zeros_like(direction), 0.0
        for search in searches:
            mask = search.target.batch.perturbable
            delta = search.to_corner(placed(direction.expand(len(mask), -1, -1), mask))
            values, gradient = search.climb(delta, search.all_rows, loss)
            value += float(values.sum())
            total += aligned(gradient, mask, length).sum(dim=0)
        if value > most:
            best, most = direction, value
        direction = _unit(direction + _unit(total) * (1 - step / steps))
    return best


def _unit(direction: Tensor) -> Tensor:
    return direction / direction.norm().clamp_min(torch.finfo(direction.dtype).tiny)


def _classes(lengths: Tensor) -> tuple[int, ...]:
    """Return the upper ends of the classes: of consecutive lengths, the last class takes what would be too few."""
    longest, since = [], 0
    values, counts = lengths.unique(return_counts=True)
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        since += count
        if since >= _LEAST:
            longest.append(value)
            since = 0
    if since:
        longest[-1:] = [int(values[-1])]
    return tuple(longest)


def _class_of(lengths: Tensor, longest: tuple[int, ...]) -> Tensor:
    ends = torch.tensor(longest, device=lengths.device)
    return torch.bucketize(lengths, ends).clamp_max(len(longest) - 1)
