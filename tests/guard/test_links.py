"""Private words and what is sent: values, shares, chance."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from aajr_hf.environments import WORLDS, expert_rows
from aajr_hf.guard import leakage
from aajr_hf.guard.bound import points_above_chance
from aajr_hf.guard.caches import answer_logits
from aajr_hf.guard.guard import CacheGuard, cache_widths
from aajr_hf.guard.links import HELD_OUT, Links, PrivateWords, streams
from tests.support.small_agents import model, tokenizer_of

WORLD = WORLDS["congestion"]
PRIVATE = PrivateWords.of(WORLD, ["prefer", "owe"], 4)
# Has a token for each word and number.
TOKENIZER = tokenizer_of(expert_rows("congestion", 400, seed=0, agents=4, messages=True))


@pytest.fixture(scope="module")
def links():
    return Links(model(TOKENIZER), TOKENIZER, WORLD, 4, PRIVATE)


def test_private_words_know_their_values_and_how_often_they_occur():
    routes, peers = PRIVATE.shares
    assert set(routes) == set("abcd") and set(peers) == {"1", "2", "3"}
    assert sum(routes.values()) == pytest.approx(1)
    # All values are equally likely in this world.
    assert max(routes.values()) < 0.28 and max(peers.values()) < 0.36
    first, second = list(routes)[0], list(peers)[1]
    message = f"need 2 prefer {first} owe {second} capacity 3 demands 1 2 3"
    assert PRIVATE.encode(message) == [0, 1]
    assert PRIVATE.encode(message.replace(f"owe {second}", "owe 9")) == [0, 3]


@pytest.mark.parametrize("words", [["owes"], ["demands"], ["owe", "owe"]])
def test_words_that_are_not_private_are_refused(words):
    with pytest.raises(ValueError, match="`private` must be different words .* need, prefer, owe; got"):
        PrivateWords.of(WORLD, words, 4)


@pytest.mark.parametrize(("all_links", "senders", "per_sender"), [(False, 6, 1), (True, 2, 3)])
def test_a_batch_holds_so_many_messages(links, all_links, senders, per_sender):
    every = Links(links.model, TOKENIZER, WORLD, 4, PRIVATE, all_links)
    sent = next(every.batches(6, np.random.default_rng(0)))
    assert sent.secrets.shape == (senders, 2) and sent.links == per_sender
    assert len(sent.mask) == len(sent.own) == len(sent.answers) == senders * per_sender
    assert all(answer[-1] == TOKENIZER.eos_token_id for answer in sent.answers)
    assert len(next(every.batches(1, np.random.default_rng(0))).secrets) == 1


def test_the_readers_loss_reaches_the_guard_and_is_that_of_the_answers(links):
    sent = next(links.batches(3, np.random.default_rng(0)))
    guard = CacheGuard(cache_widths(links.model), 2)
    loss, right = links.reader_losses(guard(sent.states), sent)
    (gradient,) = torch.autograd.grad(loss, guard.encoder[0].weight)
    assert gradient.abs().sum() > 0 and right.tolist() == [False] * 3
    assert 1 < loss.item() < 10
    # Answers of one token: those that the model gives are right.
    logits, labels = answer_logits(links.model, sent.states, sent.mask, sent.own, [[0]] * 3, 0)
    said = [[int(row.argmax(dim=-1)[where != -100])] for row, where in zip(logits, labels, strict=True)]
    assert links.reader_losses(sent.states, replace(sent, answers=[said[0], said[1], [0]]))[1].tolist() == [
        True,
        True,
        said[2] == [0],
    ]


def test_chance_is_the_most_frequent_value_of_those_who_are_asked(links):
    _, chance = leakage.share_decoded(
        links, None, {"width": 8, "layers": 1}, steps=1, examples=7, batch_size=4, seed=0
    )
    sent = links.batches(4, streams(0, HELD_OUT))
    secrets = torch.cat([batch.secrets for batch in itertools.islice(sent, 2)])[:7]
    assert chance == [pytest.approx(100 * max(secrets[:, i].bincount()) / 7) for i in range(2)]


def test_decoders_of_guarded_caches_are_trained_for_longer_than_those_of_raw_ones(links, monkeypatch):
    asked = []

    def share_decoded(each, guard, sizes, *, steps, **how):
        asked.append((guard is not None, steps))
        return [50.0, 60.0], [25.0, 30.0]

    monkeypatch.setattr(leakage, "share_decoded", share_decoded)
    monkeypatch.setattr(leakage, "points_above_chance", lambda *_, **how: 10.0)
    guard, how = CacheGuard(cache_widths(links.model)), {"examples": 4, "batch_size": 2, "seed": 0}
    found = leakage.leaks({"one": links}, guard, steps=3, decoder_steps=15, **how)
    assert asked == [(False, 3), (True, 15), (True, 15)]
    shares = {"chance": 25.0, "bound": 35.0, "raw": 50.0, "fresh": 50.0, "larger": 50.0}
    assert found[0] == {"word": "prefer", "links": "one"} | shares


def test_the_other_messages_differ_in_the_private_words_alone_on_all_links_of_a_sender(links):
    every = replace(links, all_links=True)
    rows = next(every._groups(3, np.random.default_rng(0)))[0]
    redrawn = [PRIVATE.redrawn(rows, np.random.default_rng(seed)) for seed in range(40)]
    values = {tuple(tuple(PRIVATE.encode(row["message"])) for row in changed) for changed in redrawn}
    # The same on all links; all twelve pairs of values occur.
    assert all(len(set(each)) == 1 for each in values) and len(values) == 12
    for row, other in zip(rows, redrawn[0], strict=True):
        before, after = (each["prompt"][-1]["content"].split() for each in (row, other))
        places = {i for i, word in enumerate(before) if i and before[i - 1] in ("prefer", "owe")}
        assert {i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b} <= places
        # The reader's own words have the same names; they stay.
        said = len(other["message"].split())
        assert after[:said] == other["message"].split() and after[said:] == before[said:]
        assert other["completion"] == row["completion"]


def test_other_values_are_drawn_as_often_as_they_occur(links):
    rng, counts = np.random.default_rng(0), np.zeros(4)
    rows = next(links._groups(1, rng))[0]
    for _ in range(2000):
        counts[PRIVATE.encode(PRIVATE.redrawn(rows, rng)[0]["message"])[0]] += 1
    assert np.abs(counts / 2000 - list(PRIVATE.shares[0].values())).max() < 0.04


def test_private_words_that_the_length_of_a_message_tells_are_refused(links):
    shares = ({"a": 0.5, "a b": 0.5}, PRIVATE.shares[1])
    unequal = replace(links, private=replace(PRIVATE, shares=shares))
    with pytest.raises(ValueError, match="the length of a cache tells them"):
        next(unequal.pairs(16, np.random.default_rng(0)))


@pytest.mark.parametrize("all_links", [False, True])
def test_the_bound_adds_up_the_divergences_of_a_senders_links(links, all_links):
    each, guard = replace(links, all_links=all_links), CacheGuard(cache_widths(links.model), 4)
    torch.nn.init.normal_(guard.encoder[2].weight, std=1e-3)
    expected = []
    for sent, others in itertools.islice(each.pairs(6, streams(0, HELD_OUT)), 4):
        apart = guard.divergence(sent.states, others, sent.mask).detach().double().reshape(-1, sent.links).sum(dim=1)
        expected += [min((d / 2) ** 0.5, (1 - np.exp(-d)) ** 0.5) for d in apart.tolist()]
    expected = expected[:7]
    half = 2.446912 * np.std(expected, ddof=1) / 7**0.5  # Student's t of six degrees
    found = points_above_chance(each, guard, examples=7, batch_size=6, seed=0)
    assert 0 < found < 100 and found == pytest.approx(100 * (np.mean(expected) + half))


def test_what_one_sender_shows_bounds_nothing(links):
    assert points_above_chance(links, CacheGuard(cache_widths(links.model)), examples=1, batch_size=1, seed=0) == 100.0
