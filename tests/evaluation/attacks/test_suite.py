"""Every attack of the list on policies whose worst case is known: linear, saturated, flat with a cliff."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

import pytest
import torch

from aajr_hf.evaluation.attacks.from_others import FromOthers
from aajr_hf.evaluation.attacks.losses import LOSSES
from aajr_hf.evaluation.attacks.run import Tallies, Tally, UnderAttack, attack_within
from aajr_hf.evaluation.attacks.search import Search
from aajr_hf.evaluation.attacks.suite import ATTACKS, CONTROL, MAIN
from aajr_hf.evaluation.attacks.without_gradients import Transferred
from tests.support import ROOT
from tests.support.attacked import ASCENTS, attacked, failed, handed_below
from tests.support.known_policies import (
    EXAMPLES,
    Visited,
    directions,
    linear,
    make_search,
    make_target,
    margins,
    reach,
)

# As if what was learnt on other examples were all there is to know.
LEARNT = {"universal": directions(), "predicted": directions()}
BALLS = [("l2", "sequence"), ("l2", "token"), ("linf", "sequence"), ("linf", "token")]


def linear_target(norm, scope, **more):
    """With the radius at which each example breaks."""
    target = make_target(linear(directions(), margins()), perturbation_norm=norm, perturbation_scope=scope, **more)
    return target, margins() / reach(directions(), target.batch, norm, scope)


def test_all_ways_to_use_a_gradient_are_there():
    assert set(ASCENTS) == {MAIN, CONTROL, "nll", "tempered_nll", "margin", "scale_free_margin", "cost"}
    assert {ATTACKS[name].loss for name in ASCENTS} == set(LOSSES)
    assert list(ATTACKS) == [attack.name for attack in ATTACKS.values()]


@pytest.mark.parametrize(("norm", "scope"), BALLS)
@pytest.mark.parametrize("name", [*ASCENTS, "from_others"])
def test_each_ascent_breaks_a_linear_policy_just_above_the_radius_and_not_below(name, norm, scope):
    target, radius = linear_target(norm, scope)
    for factor, broken in ((0.999, False), (1.002, True)):
        # Another model's perturbation is no worse than half of what the ball allows.
        handed = (handed_below(target, radius, norm, scope, 0.5),)
        search = make_search(target, factor * radius, steps=20, handed=handed)
        ATTACKS[name](search)
        assert (search.broken == broken).all()
        # And the margin it leaves is the ball's smallest.
        best = (factor - 1) * margins()
        assert ((search.kept - best).abs() < 2e-3 * margins()).all()


@pytest.mark.parametrize(("norm", "scope"), BALLS)
@pytest.mark.parametrize("name", ATTACKS)
def test_each_attack_stays_in_its_ball_and_moves_what_may_be_moved(name, norm, scope, monkeypatch):
    target, radius = linear_target(norm, scope)
    visited = Visited(monkeypatch)
    ball = make_search(target, radius)
    handed = tuple(ball.to_boundary(ball.random_points(7 + number)) for number in range(2))
    search = make_search(target, radius, steps=6, restarts=2, handed=handed, learnt=LEARNT)
    ATTACKS[name](search)
    assert len(visited.points) >= (1 if name in LEARNT else 2)
    order = 2 if norm == "l2" else float("inf")
    for _, delta, rows in visited.points:
        sizes = delta.norm(p=order, dim=-1).amax(dim=1)
        if scope == "sequence":
            sizes = delta.flatten(1).norm(p=order, dim=1)
        assert (sizes <= radius[rows] * (1 + 1e-12)).all()
        assert (delta[~target.batch.perturbable[rows]] == 0).all()


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_that_does_nothing_would_be_found_out(name):
    """Well beyond the radius every attack breaks something that is not wrong at its start."""
    target, radius = linear_target("l2", "sequence")
    handed = (handed_below(target, radius, "l2", "sequence", 1.01),)
    search = make_search(target, 8 * radius, handed=handed, learnt=LEARNT)
    ATTACKS[name](search)
    assert not (target.outcome(target.origin).greedy == 0).any()
    # Random points are the weakest: one in so many dimensions is long in no single direction.
    assert search.broken.all() if name != "random" else 2 <= search.broken.sum() <= EXAMPLES
    assert (search.kept > 0).equal(search.broken)


def test_random_points_lie_on_the_boundary_and_are_others_for_each_example(monkeypatch):
    target, radius = linear_target("l2", "sequence")
    visited = Visited(monkeypatch)
    ATTACKS["random"](make_search(target, radius))
    assert len(visited.points) == ATTACKS["random"].points
    points = torch.stack([delta for _, delta, _ in visited.points])
    assert torch.allclose(points.flatten(2).norm(dim=2), radius.expand(len(points), -1), rtol=1e-9)
    flat = torch.nn.functional.normalize(points.flatten(0, 1).flatten(1), dim=1)
    similar = (flat @ flat.T - torch.eye(len(flat))).abs().max()
    assert similar < 0.95
    # Nor do restarts begin in the same directions.
    search = make_search(target, radius)
    starts = torch.stack([search.random_points(number) for number in range(10)])
    starts = torch.nn.functional.normalize(starts.flatten(0, 1).flatten(1), dim=1)
    assert (flat @ starts.T).abs().max() < 0.999


def test_transferred_perturbations_break_just_those_that_they_break():
    target, radius = linear_target("l2", "sequence")
    factor = torch.where(torch.arange(EXAMPLES) % 3 == 0, 1.01, 0.99)[:, None, None]
    weak = handed_below(target, radius, "l2", "sequence", 0.5)
    search = make_search(target, 2 * radius, handed=(weak, factor * 2 * weak))
    Transferred()(search)
    assert search.broken.tolist() == [number % 3 == 0 for number in range(EXAMPLES)]
    assert search.gradients == 0


# A policy that is certain.


def saturated():
    """Every answer is right by so many logits that float32 has no gradient of any NLL, nor of the cost."""
    normals, margin = directions(dtype=torch.float32), margins(torch.float32) + 2
    target = make_target(linear(normals, margin), sharpness=1000.0, dtype=torch.float32)
    radius = margin / reach(normals, target.batch, "l2", "sequence")
    target.scale = 1.05 * radius  # epsilon is 1, in these
    return target, 1.05 * radius


def test_of_a_saturated_policy_the_margins_alone_have_a_gradient():
    target, radius = saturated()
    for name in ("warm_nll", "nll", "tempered_nll", "cost"):
        search = make_search(target, radius)
        _, gradient = search.climb(target.origin, search.all_rows, ATTACKS[name].loss)
        assert (gradient == 0).all()
        ATTACKS[name](search)
        assert not search.broken.any(), name
    for name in ("margin", "scale_free_margin"):
        search = make_search(target, radius)
        ATTACKS[name](search)
        assert search.broken.all(), name


def test_the_suite_breaks_a_saturated_policy_and_the_rules_say_that_its_own_gradient_does_not():
    target, _ = saturated()
    search, tallies = attacked(target)
    assert search.broken.all()
    assert tallies["margin"]["1"].broken == EXAMPLES and tallies["nll"]["1"].broken == 0
    assert failed(target, search, tallies) >= {
        "the agent's own gradient breaks what another loss breaks",
        "gradients do not vanish",
    }


def test_a_linear_policy_passes_the_rules():
    target, radius = linear_target("l2", "sequence")
    target.scale = 1.05 * radius
    search, tallies = attacked(target)
    assert search.broken.all() and tallies[MAIN]["1"].broken == EXAMPLES
    assert failed(target, search, tallies) == set()


# A policy that is flat at the data and wrong behind a wall.


# What one model hands to another.


# A further attack.


def test_a_further_attack_is_one_object():
    target, radius = linear_target("l2", "sequence")
    target.scale = 1.1 * radius
    of_even = (torch.arange(EXAMPLES) % 2 == 0)[:, None, None]
    mine = Given(of_even * handed_below(target, radius, "l2", "sequence", 1.05))
    tallies = Tallies()
    model = UnderAttack(target, functools.partial(Search, seeds=list(range(EXAMPLES)), steps=10), tallies)
    model.widen(1.0)
    attack_within({"": model}, [ATTACKS["random"], mine, ATTACKS["margin"]], "1")
    found = [(name, tally["1"].attacked, tally["1"].broken, tally["1"].left) for name, tally in tallies.items()]
    assert found == [("random", 16, 0, 16), ("given", 16, 8, 8), ("margin", 8, 8, 0)]
    assert all(tally["1"].alone is None for tally in tallies.values())


def test_the_attack_in_the_instructions_is_one():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    (code,) = (c for c in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "class Doubled" in c)
    names = {"dataclass": dataclass}
    exec(code, names)
    target, radius = linear_target("l2", "sequence")
    for factor, broken in ((0.999, False), (1.002, True)):
        search = make_search(target, factor * radius)
        names["Doubled"]()(search)
        assert (search.broken == broken).all()


def test_the_greatest_cost_is_sought_on_broken_examples_too():
    target, radius = linear_target("l2", "sequence")
    target.scale = 2 * radius
    tallies = Tallies()
    model = UnderAttack(target, functools.partial(Search, seeds=list(range(EXAMPLES)), steps=10), tallies)
    model.widen(1.0)
    attack_within({"": model}, [Given(handed_below(target, radius, "l2", "sequence", 1.05)), ATTACKS["cost"]], "1")
    assert tallies["given"]["1"].left == tallies["cost"]["1"].attacked == 0
    # At twice the radius at which it breaks, the wrong logit is as far above the right one as it was below.
    assert torch.allclose(model.search.cost, margins().sigmoid(), rtol=1e-3)


def test_what_an_attack_broke_at_a_smaller_radius_it_does_not_leave_alone_at_a_larger_one():
    target, radius = linear_target("l2", "sequence")
    target.scale = 1.1 * radius
    attack = OnlyNearby(target.scale, handed_below(target, radius, "l2", "sequence", 1.05))
    tallies = Tallies()
    new_search = functools.partial(Search, seeds=list(range(EXAMPLES)), steps=1)
    model = UnderAttack(target, new_search, tallies, exhaustive=True)
    for multiple in (1.0, 1.5):
        model.widen(multiple)
        attack_within({"": model}, [attack], f"{multiple:g}")
        tally = tallies["only_nearby"][f"{multiple:g}"]
        assert tally.left == tally.alone == 0


def test_tallies_add_up_over_batches():
    target, radius = linear_target("l2", "sequence")
    target.scale = radius.median().expand(EXAMPLES)
    tallies = Tallies()
    for rows in (torch.arange(0, EXAMPLES, 2), torch.arange(1, EXAMPLES, 2)):
        new_search = functools.partial(Search, seeds=rows.tolist(), steps=10)
        model = UnderAttack(target.select(rows), new_search, tallies, exhaustive=True)
        model.widen(1.01)
        attack_within({"": model}, [ATTACKS["margin"]], "1.01")
    left = int((radius > 1.01 * target.scale).sum())
    assert int((radius > 1.01 * target.scale)[::2].sum()) not in (0, left)
    assert tallies["margin"]["1.01"] == Tally(EXAMPLES, EXAMPLES - left, left, alone=left)


@pytest.mark.parametrize("starts", [1, 2, 3])
def test_from_others_makes_so_many_ascents(starts):
    target, radius = linear_target("l2", "sequence")
    handed = tuple(handed_below(target, radius, "l2", "sequence", share) for share in (0.1, 0.3, 0.2))
    search = make_search(target, 0.9 * radius, steps=4, handed=handed)
    FromOthers("", "nll", starts=starts)(search)
    # One gradient at the start of each, and one after each step.
    assert search.gradients == starts * 5 * EXAMPLES


@dataclass(frozen=True)
class Given:
    """Breaks with a perturbation that it is given."""

    delta: torch.Tensor
    name: str = "given"
    from_others = False
    every_example = False

    def __call__(self, search):
        search.visit(search.project(self.delta[search.target.policy.numbers], search.all_rows), search.all_rows)


@dataclass(frozen=True)
class OnlyNearby:
    """Breaks all examples in small balls, and looks for nothing in others."""

    within: torch.Tensor
    delta: torch.Tensor
    name: str = "only_nearby"
    from_others = False
    every_example = False

    def __call__(self, search):
        if (search.ball.epsilon <= self.within).all():
            search.visit(self.delta, search.all_rows)
