"""What a new decoder learns of private words from caches, and what it costs the readers to guard them."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import torch

from ..training.policy.policy import fixed_seed, frozen_parameters
from ..training.sharing.results import Leak
from .bound import points_above_chance
from .decoder import ReconstructionAdversary
from .guard import CacheGuard, cache_widths
from .links import FRESH, HELD_OUT, Links, streams
from .training import pass_on, train_decoder

# The sizes of the decoders that measure.
SMALL = {"width": 64, "layers": 1}
LARGE = {"width": 128, "layers": 2}


def share_right(links: Links, guard: CacheGuard | None, *, examples: int, batch_size: int, seed: int) -> float:
    """Return the share of the readers, in percent, whose likeliest answer is the right one on held-out messages."""
    right: list[bool] = []
    with torch.no_grad(), fixed_seed(links.model.device, seed):
        for sent in links.batches(batch_size, streams(seed, HELD_OUT)):
            right += links.reader_losses(pass_on(guard, sent.states), sent)[1].tolist()
            if len(right) >= examples:
                return 100 * sum(right[:examples]) / examples
    raise AssertionError("unreachable: messages have no end")


def share_decoded(
    links: Links,
    guard: CacheGuard | None,
    sizes: dict[str, int],
    *,
    steps: int,
    examples: int,
    batch_size: int,
    seed: int,
) -> tuple[list[float], list[float]]:
    """
    Train a fresh decoder on what a frozen guard lets pass, and ask it for the private words of held-out senders.

    Args:
        guard: The guard; None for raw caches.
        sizes: Arguments `width` and `layers` of the [`ReconstructionAdversary`].
        steps: Steps of the training, of `batch_size` messages.
        examples: Number of held-out senders.

    Returns:
        For each private word, the share of the senders in percent whose value the decoder names, and the share that the
        best constant guess names, which needs no cache.
    """
    device = links.model.device
    with fixed_seed(device, seed), frozen_parameters(links.model):
        decoder = ReconstructionAdversary(cache_widths(links.model), list(map(len, links.private.shares)), **sizes).to(
            device
        )
        batches = itertools.islice(links.batches(batch_size, streams(seed, FRESH)), steps)
        train_decoder(decoder, guard, batches)
    named, secrets = [], []
    with torch.no_grad(), fixed_seed(device, seed):
        for sent in links.batches(batch_size, streams(seed, HELD_OUT)):
            logits = decoder(pass_on(guard, sent.states), sent.mask, sent.links)
            named += torch.stack([each.argmax(dim=1) for each in logits], dim=1).tolist()
            secrets += sent.secrets.tolist()
            if len(secrets) >= examples:
                break
    said, true = (np.array(rows[:examples]) for rows in (named, secrets))
    chance = [100 * float(np.bincount(column).max()) / examples for column in true.T]
    return (100 * (said == true).mean(axis=0)).tolist(), chance


def leaks(
    links: dict[str, Links],
    guard: CacheGuard,
    *,
    steps: int,
    decoder_steps: int,
    on_decoder: Callable[[], None] = lambda: None,
    **how,
) -> list[Leak]:
    """
    Bound and measure how well decoders name each private word: over one link and over all, without the guard and with it.

    Args:
        links: `one` and `all` links of the same agents.
        steps: Steps of the decoder of raw caches, which is soon always right.
        decoder_steps: Steps of each decoder of guarded caches.
        on_decoder: Called after each decoder; there are three for each entry of `links`.
        how: Arguments `examples`, `batch_size`, `seed` of [`share_decoded`].
    """
    found: list[Leak] = []
    for name, each in links.items():
        shares = []
        for guarded, sizes in ((None, SMALL), (guard, SMALL), (guard, LARGE)):
            long = steps if guarded is None else decoder_steps
            decoded, chance = share_decoded(each, guarded, sizes, steps=long, **how)
            shares.append(decoded)
            on_decoder()
        above = points_above_chance(each, guard, **how)
        for word, least, raw, fresh, larger in zip(each.private.words, chance, *shares, strict=True):
            bound = min(least + above, 100.0)
            found.append(
                {
                    "word": word,
                    "links": name,
                    "chance": least,
                    "bound": bound,
                    "raw": raw,
                    "fresh": fresh,
                    "larger": larger,
                }
            )
    return found
