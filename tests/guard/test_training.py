"""The training of a guard where its end is known, linear and Gaussian; decoders that measure it."""

from __future__ import annotations

import math

import pytest
import torch

from aajr_hf.guard.decoder import ReconstructionAdversary
from aajr_hf.guard.guard import CacheGuard
from aajr_hf.guard.links import Sent
from aajr_hf.guard.training import train_decoder, train_guard

WIDTH, CACHES, NOISE, STEPS = 16, 128, 0.3, 300
DIRECTIONS = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(0)))[0]


def sent(seed: int, number: int = CACHES) -> Sent:
    """Keys of one token that hold a private number and, along another direction, one that the reader needs."""
    draw = torch.Generator().manual_seed(seed)
    numbers = torch.randn(number, 2, generator=draw)
    keys = numbers @ DIRECTIONS[:2] + NOISE * torch.randn(number, WIDTH, generator=draw)
    states = [(keys[:, None, None], torch.zeros(number, 1, 1, WIDTH))]
    return Sent(states, torch.ones(number, 1), numbers[:, :1], 1, numbers[:, 1:].tolist(), [])


def fitted(states, targets):
    """The squared error of the best linear estimate of the targets, in units of their variance."""
    keys = torch.cat([states[0][0].flatten(1), torch.ones(len(targets), 1)], dim=1)
    estimate = keys @ torch.linalg.lstsq(keys, targets).solution
    return (targets - estimate).square().mean() / targets.var()


def other(batch: Sent, seed: int):
    """The same keys, but for the private number, which is drawn anew."""
    drawn = torch.randn(len(batch.secrets), 1, generator=torch.Generator().manual_seed(seed))
    keys, values = batch.states[0]
    return [(keys + ((drawn - batch.secrets) * DIRECTIONS[0])[:, None, None], values)]


def reading(states, batch):
    needed = torch.tensor(batch.own)
    return (states[0][0].flatten(1) @ DIRECTIONS[1] - needed[:, 0]).square().mean()


def trained(beta: float) -> tuple[float, float, float]:
    """The part of the private number that no linear estimate explains, the readers' error, and the divergence."""
    torch.manual_seed(0)
    guard = CacheGuard([(WIDTH, WIDTH)], 8)
    pairs = ((batch := sent(seed), other(batch, seed + 10**7)) for seed in range(STEPS))
    train_guard(guard, pairs, reading, steps=STEPS, beta=beta, learning_rate=1e-2)
    test = sent(10**6, 2000)
    with torch.no_grad():
        passed = guard(test.states)
        apart = guard.divergence(test.states, other(test, 3), test.mask).mean()
    return float(fitted(passed, test.secrets)), float(reading(passed, test)), float(apart)


@pytest.mark.slow
def test_reconstruction_is_brought_to_the_prior_and_the_reader_still_reads():
    raw = sent(10**6, 2000)
    assert fitted(raw.states, raw.secrets) < 0.1 and reading(raw.states, raw) < 0.1
    unexplained, error, apart = trained(beta=0.1)
    assert unexplained > 0.97 and error < 0.25 and apart < 0.7
    # Of a Gaussian number, who knows I nats of it explains 1 - exp(-2 I) of its variance, and I is at most the divergence.
    assert unexplained > math.exp(-2 * apart) - 0.02


@pytest.mark.slow
def test_without_beta_little_is_hidden():
    unexplained, error, apart = trained(beta=0.0)
    assert unexplained < 0.9 and error < 0.25 and apart > 50


def digits(seed: int, links: int) -> Sent:
    """Values that say which of three numbers is the sender's, each link with noise of its own."""
    draw = torch.Generator().manual_seed(seed)
    secrets = torch.randint(3, (64, 1), generator=draw)
    clean = torch.eye(WIDTH)[secrets.repeat_interleave(links, dim=0)]
    values = clean[:, :, None] + 1.2 * torch.randn(64 * links, 1, 1, WIDTH, generator=draw)
    noise = torch.randn(64 * links, 1, 1, WIDTH, generator=draw)
    states = [(torch.cat([noise, noise], dim=2), torch.cat([noise, values], dim=2))]
    return Sent(states, torch.ones(64 * links, 2), secrets, links, [], [])


def decoded(links: int) -> float:
    decoder = ReconstructionAdversary([(WIDTH, WIDTH)], [3], width=16)
    train_decoder(decoder, None, (digits(seed, links) for seed in range(60)), learning_rate=1e-2)
    test = digits(10**6, links)
    named = decoder(test.states, test.mask, links)[0].argmax(dim=1)
    return float((named == test.secrets[:, 0]).float().mean())


@pytest.mark.slow
def test_all_links_say_more_than_one():
    one, every = decoded(1), decoded(4)
    assert 0.45 < one < every - 0.1


def test_padding_says_nothing_to_the_decoder():
    decoder = ReconstructionAdversary([(WIDTH, WIDTH)], [2, 1], width=16, layers=2)
    batch = digits(0, 1)
    longer = [tuple(torch.cat([x, torch.randn(64, 1, 3, WIDTH)], dim=2) for x in pair) for pair in batch.states]
    mask = torch.cat([batch.mask, torch.zeros(64, 3)], dim=1)
    for short, long in zip(decoder(batch.states, batch.mask), decoder(longer, mask), strict=True):
        torch.testing.assert_close(short, long)
