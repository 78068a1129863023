"""The training of a guard, and of the decoders that measure it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from .caches import States
from .decoder import ReconstructionAdversary
from .guard import CacheGuard
from .links import Sent

# Learning rates (Adam).
GUARD_RATE, DECODER_RATE = 3e-3, 2e-3


def train_guard(
    guard: CacheGuard,
    batches: Iterable[tuple[Sent, States]],
    task_loss: Callable[[States, Any], Tensor],
    *,
    steps: int,
    beta: float,
    learning_rate: float = GUARD_RATE,
    on_step: Callable[[], None] = lambda: None,
) -> None:
    """
    Train a guard, in place, to lower

        task_loss + beta * mean divergence of the codes of a message from those of the same message with other private words

    which is an information bottleneck (Alemi et al., arXiv 1612.00410) for the private words alone.

    Args:
        batches: What is sent, and the caches of the same messages with other private words ([`Links.pairs`]), one for each
            step; there may be more.
        task_loss: The readers' loss on guarded states of a batch.
        steps: Number of steps.
        beta: Weight of the divergence, in nats, against the readers' loss.
        learning_rate: Of Adam; falls to zero.
        on_step: Called after each step.
    """
    optimizer = torch.optim.Adam(guard.parameters(), lr=learning_rate)
    slower = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    for sent, others in itertools.islice(batches, steps):
        told = guard.divergence(sent.states, others, sent.mask).mean()
        _step(optimizer, task_loss(guard(sent.states), sent) + beta * told)
        slower.step()
        on_step()


def train_decoder(
    decoder: ReconstructionAdversary,
    guard: CacheGuard | None,
    batches: Iterable[Sent],
    *,
    learning_rate: float = DECODER_RATE,
) -> None:
    """Train a decoder, in place, on what a frozen guard lets pass; None for raw caches."""
    decoders = torch.optim.Adam(decoder.parameters(), lr=learning_rate)
    for sent in batches:
        passed = pass_on(guard, sent.states)
        _step(decoders, decoder.losses(passed, sent.mask, sent.secrets, sent.links).sum())


@torch.no_grad()
def pass_on(guard: CacheGuard | None, states: States) -> States:
    """Return the states that a peer gets, without a graph; without a guard, those that were written."""
    return states if guard is None else guard(states)


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
