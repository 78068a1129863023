"""Attacks that start from what is found elsewhere, or on a policy whose own gradient shows nothing."""

from __future__ import annotations

import functools

import pytest
import torch

from aajr_hf.evaluation.attacks.from_others import FromOthers
from aajr_hf.evaluation.attacks.run import Tallies, UnderAttack, attack_within
from aajr_hf.evaluation.attacks.search import Search
from aajr_hf.evaluation.attacks.suite import ATTACKS
from aajr_hf.evaluation.attacks.without_gradients import Transferred
from aajr_hf.evaluation.means import Means
from aajr_hf.evaluation.robustness.ray import MULTIPLES, add_ray, ray_numbers
from tests.support.attacked import ASCENTS, attacked, failed
from tests.support.known_policies import (
    DEPTH,
    EXAMPLES,
    along,
    directions,
    linear,
    make_search,
    make_target,
    margins,
)

WALL, FOOT = 1.6, 1.2


def unit_normals(target):
    free = directions() * target.batch.perturbable[..., None]
    return free / free.flatten(1).norm(dim=1)[:, None, None]


def cliff(slope: float = 0.0, foot: float = WALL):
    """
    Along one direction: flat (but for a slope) up to the foot, rising a little from there to the wall, and wrong behind it. With each
    example's perturbable positions in the direction.
    """
    plain = make_target(lambda delta, numbers: delta.new_zeros(len(delta)), epsilon=2.0)
    normals = unit_normals(plain)

    def height(delta, numbers):
        t = along(delta, numbers, normals)
        return torch.where(t > WALL, 5.0, slope * t + 0.5 * (t - foot).clamp_min(0) - 5.0)

    return make_target(height, epsilon=2.0), normals


@pytest.mark.slow
def test_on_a_plateau_an_agents_own_gradients_find_nothing_and_others_know_more():
    target, normals = cliff()
    search, tallies = attacked(target, restarts=2)
    assert not search.broken.any()
    assert "gradients do not vanish" in failed(target, search, tallies)
    smooth = make_target(linear(normals, torch.full_like(margins(), 10.0)), epsilon=2.0)
    for names, broken in ((ASCENTS, False), ((*ASCENTS, "transferred"), True), ((*ASCENTS, "from_others"), True)):
        tallies = Tallies()
        new_search = functools.partial(Search, seeds=list(range(EXAMPLES)), steps=10)
        models = {"flat": UnderAttack(target, new_search, tallies), "smooth": UnderAttack(smooth, new_search)}
        for model in models.values():
            model.widen(1.0)
        attack_within(models, [ATTACKS[name] for name in names], "1")
        assert (models["flat"].search.broken == broken).all()
        assert not models["smooth"].search.broken.any()
    assert tallies["from_others"]["1"].broken == EXAMPLES
    # Neither random points nor directions of other prompts were tried, but those of another model.
    found = failed(target, models["flat"].search, tallies, rules_checked=5)
    assert "the agent's own gradient breaks what other models break" in found


def test_from_others_goes_on_where_what_is_handed_does_not_break():
    """At the foot of the wall, where the gradient begins."""
    target, normals = cliff(foot=FOOT)
    for share, broken in ((0.9 * FOOT, False), (1.1 * FOOT, True)):
        search = make_search(target, target.ball(1.0).epsilon, handed=(share * normals,))
        Transferred()(search)
        assert not search.broken.any()
        ATTACKS["from_others"](search)
        assert (search.broken == broken).all()


def test_from_others_starts_where_the_loss_is_highest():
    target, normals = cliff(foot=FOOT)
    at = [0.1, 0.2, 0.3, 1.1]
    parity = torch.arange(EXAMPLES) % 2 == 0
    # The only good start is the last that is handed to even examples, the first to odd ones.
    handed = tuple(
        torch.where(parity, a, b)[:, None, None] * FOOT * normals for a, b in zip(at, reversed(at), strict=True)
    )
    for starts in (1, 2):
        search = make_search(target, target.ball(1.0).epsilon, handed=handed)
        FromOthers("", "nll", starts=starts)(search)
        assert search.broken.all()


def test_steps_that_cross_the_ball_find_a_cliff_behind_the_faintest_slope():
    target, _ = cliff(slope=1e-6)
    search = make_search(target, target.ball(1.0).epsilon, steps=1)
    ATTACKS["margin"](search)
    assert search.broken.all()


def test_the_ray_falls_off_the_cliff_where_it_is():
    target, normals = cliff()
    totals = Means()
    add_ray(target, 2.0 * normals, totals)  # epsilon is 2: the wall is at 0.8
    ray = ray_numbers(totals.result()["ray"])
    assert ray["multiples"] == list(MULTIPLES) and 0.75 in MULTIPLES and 1.0 in MULTIPLES
    assert ray["success"] == [100.0 if 2 * multiple <= WALL else 0.0 for multiple in MULTIPLES]
    for multiple, nll, sampled in zip(MULTIPLES, ray["nll"], ray["sampled_success"], strict=True):
        expected = torch.tensor([0.0, -5.0 if 2 * multiple <= WALL else 5.0, -DEPTH, -DEPTH]).double()
        # Of an answer of two tokens the other one is certain.
        probability = float(expected.softmax(dim=0)[0])
        assert sampled == pytest.approx(100 * probability, rel=1e-5)
        assert nll == pytest.approx(-float(torch.tensor(probability).log()), rel=1e-3)


@pytest.mark.slow
def test_what_is_handed_over_counts_in_each_models_own_unit():
    """The same perturbation is tried at three times the length on a model whose embeddings are three times as long."""
    normals = unit_normals(make_target(None))
    # Wrong within the first radius, half of them: what is found goes to the boundary of the second one all the same.
    sure = torch.where(torch.arange(EXAMPLES) % 2 == 0, 10.0, 0.1).double()
    source = make_target(linear(normals, sure), epsilon=0.5)
    source.scale = torch.linspace(1.0, 2.0, EXAMPLES, dtype=torch.float64)
    flat = make_target(lambda delta, numbers: 0 * delta.flatten(1).sum(dim=1) - 1, epsilon=0.5)
    flat.scale = 3 * source.scale
    new_search = functools.partial(Search, seeds=list(range(EXAMPLES)), steps=10)
    models = {"flat": UnderAttack(flat, new_search, Tallies()), "source": UnderAttack(source, new_search)}
    for multiple in (1.0, 1.5):
        for model in models.values():
            model.widen(multiple)
        attack_within(models, ATTACKS.values(), f"{multiple:g}")
        (handed,) = models["flat"].search.handed
        expected = (multiple * 0.5 * flat.scale)[:, None, None] * normals
        assert torch.allclose(handed, expected, rtol=1e-6, atol=1e-9)
    assert models["source"].search.handed == ()  # it is there for the other one only
