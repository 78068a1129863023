"""What a search keeps of what was tried, and that an example's numbers do not depend on the rest of its batch."""

from __future__ import annotations

import functools

import pytest
import torch

from aajr_hf.environments import expert_rows
from aajr_hf.evaluation.attacks.learnt import Learnt
from aajr_hf.evaluation.attacks.losses import margin
from aajr_hf.evaluation.attacks.run import Tallies, UnderAttack, attack_within
from aajr_hf.evaluation.attacks.search import Search
from aajr_hf.evaluation.attacks.suite import ATTACKS
from aajr_hf.evaluation.attacks.target import Target, outcome
from aajr_hf.evaluation.attacks.threat_model import ThreatModel
from aajr_hf.evaluation.batches import read_batch
from aajr_hf.training.policy.policy import frozen_parameters
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
from tests.support.small_agents import TOKENIZER, trained

from .test_ascent import bumpy

# Of unequal lengths: more agents, longer prompts.
ROWS = [row for agents in (4, 2, 3) for row in expert_rows("congestion", 2, seed=0, agents=agents)]
ALONE = [attack for attack in ATTACKS.values() if not attack.from_others and not isinstance(attack, Learnt)]


def mixed_target(**more):
    """Some of the examples break within a radius of 1, others do not."""
    target = make_target(linear(directions(), margins()), **more)
    return target, margins() / reach(directions(), target.batch, "l2", "sequence")


@pytest.mark.slow
def test_all_visited_points_count(monkeypatch):
    """Against the outcomes of all of them, evaluated anew."""
    value = bumpy(2, sharp=1.0)
    target = make_target(lambda delta, numbers: value(delta[:, 2, :2], numbers) - 1.0)
    visited = Visited(monkeypatch)
    search = make_search(target, torch.ones(EXAMPLES, dtype=torch.float64), steps=5, restarts=2)
    for attack in ALONE:
        attack(search)
    broken, sampled, cost = torch.zeros(EXAMPLES).bool(), torch.ones(EXAMPLES).double(), torch.zeros(EXAMPLES).double()
    kept, best = torch.full((EXAMPLES,), float("-inf")).double(), torch.zeros_like(target.origin)
    for _, delta, rows in visited.points:
        policy = target.policy.select(rows)
        found, values = outcome(policy(delta), policy.batch), margin(policy(delta), policy.batch)
        for i, row in enumerate(rows.tolist()):
            broken[row] |= found.greedy[i] == 0
            sampled[row] = min(sampled[row], found.sampled[i])
            cost[row] = max(cost[row], found.cost[i])
            if values[i] > kept[row]:
                kept[row], best[row] = values[i], delta[i]
    assert 0 < broken.sum() < EXAMPLES
    assert torch.equal(search.broken, broken) and torch.equal(search.delta, best)
    for name, expected in (("sampled", sampled), ("cost", cost), ("kept", kept)):
        assert torch.allclose(getattr(search, name), expected, rtol=1e-12), name


def test_gradients_are_counted():
    target, radius = mixed_target()
    search = make_search(target, 0.5 * radius, steps=7)
    ATTACKS["nll"](search)
    assert search.gradients == 8 * EXAMPLES
    ATTACKS["random"](search)
    assert search.gradients == 8 * EXAMPLES


def test_a_wider_search_keeps_what_is_broken_and_tries_the_rest_at_the_new_boundary():
    target, radius = mixed_target()
    one = torch.full((EXAMPLES,), float(radius.median()) * 1.0001, dtype=torch.float64)
    search = make_search(target, one, steps=30)
    ATTACKS["margin"](search)
    broken, found = search.broken.clone(), search.delta.clone()
    assert 0 < broken.sum() < EXAMPLES
    ball = search.ball
    wider = search.widened(type(ball)(1.5 * ball.epsilon, ball.norm, ball.scope))
    # Without any attack: of a linear policy the worst point lies farther in the same direction.
    assert wider.broken.equal(radius < 1.5 * one) and wider.broken.sum() > broken.sum()
    assert torch.equal(wider.delta[broken], found[broken])
    assert torch.allclose(wider.delta[~broken], 1.5 * found[~broken], rtol=1e-6)
    assert (wider.sampled <= search.sampled).all() and (wider.cost >= search.cost).all()
    assert torch.allclose(wider.kept[~broken], margin(target.policy(wider.delta), target.batch)[~broken])
    assert wider.gradients == 0 and search.broken.equal(broken)


def test_the_boundary_is_reached_in_every_ball():
    for norm in ("l2", "linf"):
        for scope in ("sequence", "token"):
            target, radius = mixed_target(perturbation_norm=norm, perturbation_scope=scope)
            search = make_search(target, radius)
            ball = search.ball
            far = search.to_boundary(search.random_points(3))
            norms = ball.norms(far)
            norms = norms.masked_fill(~target.batch.perturbable, 0) if scope == "token" else norms[:, None]
            assert torch.allclose(norms.amax(dim=1), radius, rtol=1e-9), (norm, scope)
            # In a ball of any size.
            for factor in (1.0, 1e3):
                zero = make_search(target, factor * radius).to_boundary(torch.zeros_like(far))
                assert (zero == 0).all()


def test_an_agent_that_is_flat_everywhere_is_not_broken_by_going_on_to_a_wider_ball():
    """Nothing was found, and nothing is handed to others."""
    flat = make_target(lambda delta, numbers: 0 * delta.flatten(1).sum(dim=1) - 1, epsilon=50.0, dtype=torch.float32)
    flat.scale = flat.scale.float()
    new_search = functools.partial(Search, seeds=list(range(EXAMPLES)), steps=2)
    models = {name: UnderAttack(flat, new_search, Tallies()) for name in ("one", "two")}
    for multiple in (1.0, 2.0):
        for model in models.values():
            model.widen(multiple)
        attack_within(models, [ATTACKS[name] for name in ("nll", "transferred", "from_others")], f"{multiple:g}")
    for model in models.values():
        assert torch.isfinite(model.search.delta).all() and not model.search.broken.any()
        assert all((handed == 0).all() for handed in model.search.handed)


@functools.cache
def double():
    return trained().double()


def some_rows(rows):
    """A real agent's target, and a search on these rows with their own seeds."""
    agent = double()
    batch = read_batch(TOKENIZER, [ROWS[row] for row in rows], "prompt", agent.device)
    target = Target(agent, batch, ThreatModel(epsilon=0.3))
    return target, Search(target, target.ball(1.0), [100 + row for row in rows], steps=3, restarts=2)


@pytest.fixture
def unequal():
    """Numbers of the rows by their lengths: the shortest and the longest first."""
    lengths = read_batch(TOKENIZER, ROWS, "prompt", torch.device("cpu")).attention_mask.sum(dim=1)
    assert lengths.min() < lengths.max()
    return int(lengths.argmin()), int(lengths.argmax())


def test_random_points_are_an_examples_own(unequal):
    short, long = unequal
    _, alone = some_rows([short])
    _, together = some_rows([long, short])
    length = alone.target.origin.shape[1]
    assert together.target.origin.shape[1] > length
    for number in (0, 1, 1000):
        expected, found = alone.random_points(number)[0], together.random_points(number)[1]
        assert torch.allclose(found[:length], expected, rtol=1e-12, atol=0) and (found[length:] == 0).all()
        assert expected.norm() > 0
    assert not torch.equal(alone.random_points(0), alone.random_points(1))
    state = torch.get_rng_state()
    together.random_points(0)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("attack", ALONE, ids=lambda attack: attack.name)
def test_what_an_attack_finds_does_not_depend_on_the_batch(attack, unequal):
    rows = [*unequal, *(row for row in range(len(ROWS)) if row not in unequal)]
    found = []
    for groups in ([rows], [rows[::-1]], [rows[:1], rows[1:3], rows[3:]]):
        of_row = {}
        for group in groups:
            target, search = some_rows(group)
            with frozen_parameters(target.model):
                attack(search)
            for i, row in enumerate(group):
                delta = search.delta[i][target.batch.perturbable[i]]
                of_row[row] = (
                    bool(search.broken[i]),
                    delta,
                    *(float(getattr(search, n)[i]) for n in ("sampled", "cost", "kept")),
                )
        found.append(of_row)
    first, *others = found
    for other in others:
        for row, (broken, delta, *numbers) in first.items():
            assert other[row][0] == broken and other[row][2:] == pytest.approx(numbers, rel=1e-6)
            assert torch.allclose(other[row][1], delta, rtol=1e-5, atol=1e-8)


# Attacks one after the other.


def three_models(exhaustive, rows=None, names=tuple(ATTACKS), multiples=(0.5, 1.0, 1.5), attacks=None):
    """Two agents and a third that is there for its perturbations, all of them bumpy; tallies and searches by radius."""
    rows = torch.arange(EXAMPLES) if rows is None else rows
    tallies, models = {}, {}
    for seed, name in enumerate(("one", "two", "source")):
        value = bumpy(seed, sharp=0.7)
        target = make_target(lambda delta, numbers, value=value: value(delta[:, 2, :2], numbers) - 0.5).select(rows)
        tallies[name] = Tallies()
        new_search = functools.partial(Search, seeds=rows.tolist(), steps=4, restarts=2)
        models[name] = UnderAttack(target, new_search, None if name == "source" else tallies[name], exhaustive)
    searches = {}
    for multiple in multiples:
        for model in models.values():
            model.widen(multiple)
        attack_within(models, attacks or [ATTACKS[name] for name in names], f"{multiple:g}")
        searches[f"{multiple:g}"] = {name: model.search for name, model in models.items()}
    return searches, tallies


# Of all attacks on all examples; what tests of it share, they only read.
all_of_three = functools.cache(three_models)


@pytest.mark.slow
def test_to_let_every_attack_see_every_example_changes_no_success():
    (plain, counted), (whole, exhaustive) = all_of_three(False), all_of_three(True)
    shares = set()
    for multiple, searches in plain.items():
        for name in ("one", "two"):
            one, other = searches[name], whole[multiple][name]
            assert torch.equal(one.broken, other.broken) and torch.equal(one.delta, other.delta)
            assert (other.sampled <= one.sampled).all() and (other.cost >= one.cost).all()
            assert (other.sampled < one.sampled).any() and other.gradients > one.gradients
            left = int((~one.broken).sum())
            shares.add(left)
            for attack, tally in exhaustive[name].items():
                by_default = counted[name][attack][multiple]
                counts = (tally[multiple].attacked, tally[multiple].broken, tally[multiple].left)
                assert counts == (by_default.attacked, by_default.broken, by_default.left), attack
                assert by_default.alone is None
                assert left <= tally[multiple].alone <= EXAMPLES
            assert list(exhaustive[name]) == list(ATTACKS) and counts[2] == left
    assert len(shares) > 2
    # And alone, some would leave more.
    assert any(tally["1"].alone > tally["1"].left for tally in exhaustive["one"].values())


@pytest.mark.slow
def test_tallies_are_of_those_that_are_left():
    _, tallies = all_of_three(False)
    for by_attack in (tallies["one"], tallies["two"]):
        for multiple in ("0.5", "1", "1.5"):
            left = None
            for tally in by_attack.values():
                now = tally[multiple]
                assert now.attacked - now.broken == now.left and (left is None or now.attacked == left)
                left = now.left
    assert tallies["source"] == {}


@pytest.mark.slow
def test_what_an_attack_leaves_alone_is_what_it_leaves_as_the_only_one():
    """Of the attacks that need no others, with what it has found at smaller radii."""
    _, together = all_of_three(True)
    for attack in ALONE:
        searches, alone = three_models(True, attacks=[attack])
        for multiple in ("0.5", "1", "1.5"):
            # Alone, its own finds are carried to the next radius, which another's are in the suite.
            expected = int((~searches[multiple]["one"].broken).sum())
            assert alone["one"][attack.name][multiple].left == expected
            if multiple == "0.5":
                assert together["one"][attack.name][multiple].alone == expected


@pytest.mark.slow
def test_attacks_on_examples_do_not_depend_on_the_others_in_any_order():
    order = torch.randperm(EXAMPLES, generator=torch.Generator().manual_seed(0))
    plain, _ = all_of_three(False)
    for rows in (order, order[:5]):
        other, _ = three_models(False, rows)
        for multiple, searches in other.items():
            for name, search in searches.items():
                expected = plain[multiple][name]
                assert torch.equal(search.broken, expected.broken[rows])
                assert torch.allclose(search.delta, expected.delta[rows], atol=1e-9)
                assert torch.allclose(search.sampled, expected.sampled[rows], rtol=1e-9)


@pytest.mark.slow
def test_radii_nest():
    searches, _ = all_of_three(False)
    previous = None
    for by_name in searches.values():
        search = by_name["one"]
        if previous is not None:
            assert (search.broken | ~previous.broken).all() and (search.sampled <= previous.sampled).all()
            assert (search.cost >= previous.cost).all()
        previous = search
