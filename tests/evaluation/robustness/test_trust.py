"""The rules of trust at their thresholds, on an ordinary agent, and on one that hides its gradients."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from math import comb

import pytest
import torch

from aajr_hf.evaluation.attacks.run import Tally
from aajr_hf.evaluation.attacks.suite import ATTACKS, CONTROL, MAIN
from aajr_hf.evaluation.attacks.target import Target
from aajr_hf.evaluation.attacks.threat_model import ThreatModel
from aajr_hf.evaluation.batches import read_batch
from aajr_hf.evaluation.robustness.evaluate import evaluate_agent
from aajr_hf.evaluation.robustness.trust import _everything, measure_trust, trust_rules
from tests.support.known_policies import EXAMPLES, directions, linear, make_target, margins, reach
from tests.support.small_agents import COPYING_ROWS, COPYING_TOKENIZER, SMALL, copying

from ...support.trust import GOOD

LOSS = "the agent's own gradient breaks what another loss breaks"
RANDOM = "the agent's own gradient breaks what random points break"
OTHERS = "the agent's own gradient breaks what other models break"
PROMPTS = "the agent's own gradient breaks what other prompts break"
RULES = {"margin": LOSS, "random": RANDOM, "universal": PROMPTS, "predicted": PROMPTS, "from_others": OTHERS}
VANISHED, STEPS = "gradients do not vanish", "more steps leave no more success"
UNBOUNDED, RADIUS = "an attack without a bound leaves no success", "success falls with the radius"


def tally(broken, left=50):
    return Tally(attacked=left + broken, broken=broken, left=left)


def tallies(again=2, **broken):
    """At one radius the plain ascent broke 40, a second start `again`, and the others these numbers."""
    found = {MAIN: {"1": tally(40)}, CONTROL: {"1": tally(again)}}
    return found | {name: {"1": tally(number)} for name, number in broken.items()}


def failed(found, shares=None, examples=100, measured=GOOD):
    rules = trust_rules(shares or {"1": 50.0}, examples, found, measured)
    assert all(rule["passed"] in (True, False) and rule["detail"] for rule in rules)
    assert len({rule["rule"] for rule in rules}) == len(rules)
    return {rule["rule"] for rule in rules if not rule["passed"]}


def judged(found, shares=None, examples=100, measured=GOOD):
    return [rule["rule"] for rule in trust_rules(shares or {"1": 50.0}, examples, found, measured)]


def chance(broken, again):
    """The exact McNemar test, one-sided: so many or more heads of all tosses of a fair coin."""
    tosses = broken + again
    return sum(comb(tosses, heads) for heads in range(broken, tosses + 1)) / 2**tosses


def test_everything_in_order_passes():
    found = tallies(margin=3, random=1, transferred=2)
    assert judged(found) == [LOSS, RANDOM, OTHERS, VANISHED, STEPS, UNBOUNDED]
    assert failed(found) == set()
    [detail] = [rule["detail"] for rule in trust_rules({"1": 50.0}, 100, found, GOOD) if rule["rule"] == LOSS]
    assert detail == "at 1x, 50 examples were left: margin broke 3, a second start 2"


@pytest.mark.parametrize("again", [0, 2, 7])
@pytest.mark.parametrize(("name", "rule"), RULES.items())
def test_an_attack_that_breaks_more_than_a_second_start_fails_beyond_chance(name, rule, again):
    """Of one test, and of several (Bonferroni)."""
    others = {
        "nll": 0,
        "tempered_nll": 0,
        "scale_free_margin": 0,
        "cost": 0,
        "transferred": 0,
        "random": 0,
        "margin": 0,
    }
    others = {other: 0 for other in (*others, "from_others") if other != name}
    for more, tests in (({}, 1), (others, 1 + len(others))):
        verdicts = []
        for broken in range(40):
            expected = chance(broken, again) * tests < 0.05
            verdicts.append(expected)
            assert failed(tallies(again, **{name: broken}, **more)) == ({rule} if expected else set()), broken
        assert not verdicts[0] and verdicts[-1]
    # As the tables have it: 5 of 5 heads are below 5 %, 4 of 4 are not.
    if again == 0:
        assert failed(tallies(0, margin=4)) == set() and failed(tallies(0, margin=5)) == {LOSS}


def test_each_radius_is_a_test_and_the_worst_of_them_counts():
    found = tallies(0, margin=5)
    for attack in found.values():
        attack["2"] = tally(0)
    shares = {"1": 50.0, "2": 40.0}
    assert failed(found, shares) == set()  # 2 * 0.03125 is above 5 %
    found["margin"]["2"] = tally(6)
    assert failed(found, shares) == {LOSS}
    [detail] = [rule["detail"] for rule in trust_rules(shares, 100, found, GOOD) if rule["rule"] == LOSS]
    assert "at 2x" in detail and "broke 6" in detail


def test_where_hardly_anything_is_left_nothing_is_judged():
    found = tallies(0, margin=30, random=30)
    assert failed(found, {"1": 1.01}) == {LOSS, RANDOM}
    assert judged(found, {"1": 1.0}) == [VANISHED, STEPS, UNBOUNDED]
    assert judged(found, {"1": 2.0}, examples=50) == [VANISHED, STEPS, UNBOUNDED]
    # Nor without a control, nor the two themselves.
    del found[CONTROL]
    assert judged(found) == [VANISHED, STEPS, UNBOUNDED]
    assert judged(tallies(30)) == [VANISHED, STEPS, UNBOUNDED]


@pytest.mark.parametrize(("examples", "most"), [(16, 0), (20, 1), (40, 2), (100, 5)])
def test_a_twentieth_of_the_gradients_may_vanish(examples, most):
    for vanished in range(8):
        found = failed(tallies(), measured=GOOD | {"vanished": vanished, "examples": examples})
        assert (VANISHED in found) == (vanished > most)


def test_more_steps_may_leave_one_example_more():
    for steps, fails in (
        ((9, 8, 7), False),
        ((7, 8, 8), False),
        ((7, 8, 9), False),
        ((7, 9, 9), True),
        ((9, 7, 9), True),
    ):
        measured = GOOD | {"steps": dict(zip(("5", "20", "50"), steps, strict=True))}
        assert failed(tallies(), measured=measured) == ({STEPS} if fails else set()), steps


def test_without_a_bound_one_example_may_be_left():
    for left in range(4):
        assert (UNBOUNDED in failed(tallies(), measured=GOOD | {"unbounded": left})) == (left > 1)


def test_success_falls_with_the_radius():
    for shares, fails in (
        ({"0.5": 60.0, "1": 60.0, "10": 59.0}, False),
        ({"10": 60.0, "0.5": 60.0}, True),  # as numbers, not as texts
        ({"10": 50.0, "9": 60.0}, False),
        ({"0.5": 1.0, "1": 1.0}, False),  # hardly anything is left
        ({"0.5": 1.1, "1": 1.1}, True),
    ):
        assert (RADIUS in failed(tallies(), shares)) == fails, shares
    assert RADIUS not in judged(tallies(), {"1": 50.0}) and RADIUS in judged(tallies(), {"1": 50.0, "2": 40.0})


# On agents.

THREAT = ThreatModel(epsilon=0.5)
HOW = replace(SMALL, threat=THREAT, power_iterations=2, batch_size=16, multiples=(0.5, 1.0), attack_restarts=1)


@pytest.mark.slow
def test_an_ordinary_agent_passes_and_one_that_hides_its_gradients_fails():
    numbers = evaluate_agent(copying(), COPYING_TOKENIZER, COPYING_ROWS, HOW)
    assert [rule for rule in numbers["trust"] if not rule["passed"]] == []
    assert {RADIUS, VANISHED, STEPS, UNBOUNDED} <= {rule["rule"] for rule in numbers["trust"]}

    masked = copy.deepcopy(copying())
    grid = 1e-3

    def rounded(module, args, kwargs):
        """The embeddings on a grid so fine that no answer changes: rounding has the derivative 0."""
        if args:
            return (torch.round(args[0] / grid) * grid, *args[1:]), kwargs
        return args, kwargs | {"hidden_states": torch.round(kwargs["hidden_states"] / grid) * grid}

    masked.model.layers[0].register_forward_pre_hook(rounded, with_kwargs=True)
    own = replace(HOW, attacks=tuple(name for name in HOW.attacks if name not in ("restart", "random")))
    hidden = evaluate_agent(masked, COPYING_TOKENIZER, COPYING_ROWS, own)
    # It looks robust, and is not.
    assert hidden["nominal_success"] == numbers["nominal_success"] == 100
    assert all(success == 100 for success in hidden["worst_case_success"].values())
    assert numbers["worst_case_success"]["1"] < 100
    broken = {rule["rule"] for rule in hidden["trust"] if not rule["passed"]}
    assert {VANISHED, UNBOUNDED} <= broken


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("scope", ["sequence", "token"])
def test_without_a_bound_every_prompt_can_become_every_other_one(norm, scope):
    threat = ThreatModel(perturbation_norm=norm, perturbation_scope=scope)
    batch = read_batch(COPYING_TOKENIZER, COPYING_ROWS, "prompt", torch.device("cpu"))
    target = Target(copying(), batch, threat)
    ball = _everything(target)
    assert (ball.norm, ball.scope) == (norm, scope)
    tokens = target.state[batch.perturbable]
    for row in range(len(batch)):
        farthest = torch.cdist(
            target.state[row][batch.perturbable[row]], tokens, p=2 if norm == "l2" else float("inf")
        )
        farthest = farthest.max(dim=1).values
        whole = farthest.norm() if (norm, scope) == ("l2", "sequence") else farthest.max()
        assert whole <= ball.epsilon[row] <= 4 * whole


# On policies whose worst case is known.


def known_target(share):
    """A linear policy whose answers become wrong at this share (B,) of epsilon."""
    target = make_target(linear(directions(), margins()))
    target.scale = margins() / reach(directions(), target.batch, "l2", "sequence") / share
    return target


@pytest.mark.slow
def test_a_gradient_has_vanished_where_it_promises_less_than_a_thousandth_of_a_nat_over_the_ball():
    """The derivative of log(1 + exp(h / 3)) at the wrong logit h, times how far h rises within the ball."""
    target = known_target(torch.ones(EXAMPLES))
    promised = (-margins() / 3).sigmoid() / 3 * margins()
    target.scale = target.scale * 1e-3 / promised * torch.where(torch.arange(EXAMPLES) < 5, 0.99, 1.01)
    measured = measure_trust(target, 1.0)
    assert (measured["vanished"], measured["examples"], measured["tried"]) == (5, EXAMPLES, 8)
    assert measure_trust(target, 1.05)["vanished"] == 0


@dataclass(frozen=True)
class Slow:
    """After so many steps at that share of the ball's radius, in the direction that breaks a linear policy."""

    loss: str = "warm_nll"

    def __call__(self, search):
        free = directions()[search.target.policy.numbers] * search.target.batch.perturbable[..., None]
        reached = search.ball.epsilon * min(1.0, search.steps / 40)
        search.visit(free * (reached / free.flatten(1).norm(dim=1))[:, None, None], search.all_rows)


def test_more_steps_are_tried_at_the_radius_that_is_asked_for(monkeypatch):
    """By hand: 5, 20 and 50 steps get to 1/8, 1/2 and all of the radius."""
    monkeypatch.setitem(ATTACKS, MAIN, Slow())
    # Of the eight that are tried.
    share = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.2, 1.6] * 2, dtype=torch.float64)
    for multiple, left in ((1.0, (7, 4, 2)), (2.0, (6, 2, 0)), (0.5, (8, 6, 4))):
        assert measure_trust(known_target(share), multiple)["steps"] == dict(zip(("5", "20", "50"), left, strict=True))


def test_without_a_bound_answers_become_wrong_that_are_right_within_it():
    """Wrong at twice epsilon, which is less than it takes to make any token another one."""
    measured = measure_trust(known_target(torch.full((EXAMPLES,), 2.0, dtype=torch.float64)), 1.0)
    assert measured["steps"] == {"5": 8, "20": 8, "50": 8} and measured["unbounded"] == 0


def test_the_rules_are_checked_on_the_first_rows_at_the_radius_nearest_to_epsilon(monkeypatch):
    seen = []

    def measured(target, multiple):
        seen.append((target, multiple))
        return GOOD

    monkeypatch.setattr("aajr_hf.evaluation.robustness.evaluate.measure_trust", measured)
    threat = replace(THREAT, perturbed_tokens="observation")
    how = replace(HOW, threat=threat, multiples=(0.75, 1.5), attacks=("random",), attack_steps=1)
    evaluate_agent(copying(), COPYING_TOKENIZER, [*COPYING_ROWS, *COPYING_ROWS[:3]], how)
    [(target, multiple)] = seen
    batch = read_batch(COPYING_TOKENIZER, COPYING_ROWS, "observation", torch.device("cpu"))
    assert multiple == 0.75 and target.threat == threat
    assert torch.equal(target.batch.input_ids, batch.input_ids)
    assert torch.equal(target.batch.perturbable, batch.perturbable)
