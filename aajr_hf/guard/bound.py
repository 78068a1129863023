"""How much any decoder could name of private words that a guard covers: a bound from the divergence of its codes."""

from __future__ import annotations

import torch
from torch import Tensor

from ..evaluation.reporting.statistics import mean_interval
from .guard import CacheGuard
from .links import HELD_OUT, Links, streams


def total_variation(divergence: Tensor) -> Tensor:
    """
    Return the most by which the probability of an event can differ between two distributions with a Kullback-Leibler
    divergence in nats: the smaller of Pinsker's bound, `sqrt(divergence / 2)`, and that of Bretagnolle and Huber,
    `sqrt(1 - exp(-divergence))`.
    """
    return torch.minimum((divergence / 2).sqrt(), (-torch.expm1(-divergence)).sqrt())


def points_above_chance(links: Links, guard: CacheGuard, *, examples: int, batch_size: int, seed: int) -> float:
    """
    Bound how many points above chance any decoder, of whatever size and training, names private words from what the guard
    lets pass on these links.

    A decoder that gets the caches of another draw of the private words is right as often as chance, if the rest of the
    message does not say them. With the sender's own draw, it is right more often by the mean [`total_variation`] of what
    the two draws send, at most. Divergences of the links of a sender add up, because each has its own noise.

    Returns:
        The upper end of the 95 % interval of that mean over `examples` held-out senders, in points, at most 100.

    Raises:
        ValueError: as [`Links.pairs`].
    """
    apart: list[float] = []
    with torch.no_grad():
        for sent, others in links.pairs(batch_size, streams(seed, HELD_OUT)):
            told = guard.divergence(sent.states, others, sent.mask)
            apart += total_variation(told.unflatten(0, (-1, sent.links)).sum(dim=1)).tolist()
            if len(apart) >= examples:
                break
    mean, half = mean_interval(apart[:examples])
    return 100.0 if half is None else 100 * min(mean + half, 1.0)
