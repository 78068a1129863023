"""The game between a guard and a decoder, by alternating steps."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .caches import States
from .guard import CacheGuard
from .links import Sent

# Learning rates (Adam).
GUARD_RATE, DECODER_RATE = 1e-2, 2e-3


class Decoder(Protocol):
    """What reads private words, such as [`ReconstructionAdversary`]."""

    def losses(self, states: States, mask: Tensor, secrets: Tensor, links: int) -> Tensor: ...

    def knowledge(self, states: States, mask: Tensor, links: int) -> Tensor: ...

    def parameters(self) -> Iterable[nn.Parameter]: ...


def train_guard(
    guard: CacheGuard,
    decoder: Decoder,
    batches: Iterable[Sent],
    task_loss: Callable[[States, Any], Tensor],
    *,
    steps: int,
    beta: float,
    decoder_steps: int = 10,
    guard_rate: float = GUARD_RATE,
    decoder_rate: float = DECODER_RATE,
    on_step: Callable[[], None] = lambda: None,
) -> None:
    """
    Train a guard, in place. The decoder lowers its loss on what the guard lets pass. The guard lowers the task's loss and
    what the decoder believes to know, down to nothing: a decoder that is surely wrong would still know.

    Args:
        batches: What is sent, one for each step; there may be more.
        task_loss: The readers' loss on guarded states of a batch.
        steps: Number of steps of the guard.
        beta: Weight of the decoder's knowledge, in nats, against the readers' loss.
        decoder_steps: Steps of the decoder for each step of the guard, so that the guard meets a decoder that has followed.
        guard_rate, decoder_rate: Learning rates (Adam). The guard's falls to zero, so that the decoder follows.
        on_step: Called after each step.
    """
    guards = torch.optim.Adam(guard.parameters(), lr=guard_rate)
    decoders = torch.optim.Adam(decoder.parameters(), lr=decoder_rate)
    # The guard's steps become smaller: it would circle about the point where the decoder knows nothing.
    slower = torch.optim.lr_scheduler.LinearLR(guards, 1.0, 0.0, steps)
    for sent in itertools.islice(batches, steps):
        with torch.no_grad():
            passed = guard(sent.states)
        for _ in range(decoder_steps):
            _step(decoders, decoder.losses(passed, sent.mask, sent.secrets, sent.links).sum())
        passed = guard(sent.states)
        known = decoder.knowledge(passed, sent.mask, sent.links).sum()
        _step(guards, task_loss(passed, sent) + beta * known)
        slower.step()
        on_step()


def train_decoder(
    decoder: Decoder,
    guard: CacheGuard | None,
    batches: Iterable[Sent],
    *,
    learning_rate: float = DECODER_RATE,
    on_step: Callable[[], None] = lambda: None,
) -> None:
    """Train a decoder, in place, on what a frozen guard lets pass; None for raw caches."""
    decoders = torch.optim.Adam(decoder.parameters(), lr=learning_rate)
    for sent in batches:
        passed = pass_on(guard, sent.states)
        _step(decoders, decoder.losses(passed, sent.mask, sent.secrets, sent.links).sum())
        on_step()


@torch.no_grad()
def pass_on(guard: CacheGuard | None, states: States) -> States:
    """Return the states that a peer gets, without a graph; without a guard, those that were written."""
    return states if guard is None else guard(states)


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
