"""The world `commons`: what grows back, the expert, the costs, collapse, and GovSim's metrics by hand."""

from __future__ import annotations

import pytest

from aajr_hf.environments import CommonsEnv
from aajr_hf.environments.commons import CAPACITY, Catch, Lake, sustainable


def play(env, units, seed: int = 0):
    """Everybody catches `units(month)` every month."""
    env.reset(seed=seed)
    while env.agents:
        env.step(dict.fromkeys(env.agents, Catch(units(env.step_count), "a", 1).text()))
    return env.metrics()


@pytest.mark.parametrize("growth", [110, 150, 200, 300])
def test_what_is_sustainable_grows_back_and_one_unit_more_does_not(growth):
    for stock in range(CAPACITY + 1):
        catch = sustainable(stock, growth)
        assert (stock - catch) * growth >= 100 * stock or catch == 0
        assert (stock - catch - 1) * growth < 100 * stock


def test_the_expert_takes_its_share_or_what_the_others_leave():
    assert Lake(1, 0, 80, 40, (5, 5, 5), "b", 2).expert() == Catch(9, "b", 2)  # a share of 10, at most 9
    assert Lake(1, 0, 80, 40, (9, 9, 9, 9, 9, 9, 9), "b", 2).expert().units == 0
    lake = Lake(1, 0, 60, 30, (3, 3, 3, 4, 3, 3, 3, 3, 3), "c", 1)
    assert lake.share == 3 and lake.left == 2 and lake.expert().units == 2
    assert [lake.cost(units) for units in (0, 1, 2, 3, 5)] == [2, 1, 0, 10, 30]
    assert Catch.parse(lake.expert().text()) == lake.expert()
    assert Catch.parse("catch 12 at c tell 1") is None


def test_a_year_of_equal_shares_is_sustained_and_its_metrics_are_govsims():
    metrics = play(CommonsEnv(agents=10), lambda month: 2)
    assert metrics["survival"] == 1 and metrics["survival_time"] == 12
    assert metrics["gain"] == 24 and metrics["efficiency"] == 1 and metrics["equality"] == 1
    assert metrics["over_use"] == 0


def test_greed_kills_the_lake():
    metrics = play(CommonsEnv(agents=10), lambda month: 9)
    # Ten times nine are more than there is, which is shared in proportion: dead in the first month.
    assert metrics["survival"] == 0 and metrics["survival_time"] == 1
    assert metrics["gain"] == pytest.approx(4)
    assert metrics["over_use"] == 1


def test_the_harvest_is_the_share_of_what_experts_catch_and_ends_with_the_lake():
    env = CommonsEnv(agents=4, steps=4)
    env.reset(seed=0)
    env.step(env.expert_actions())
    best = [lake.expert().units for lake in env._lakes]
    env.step(dict.fromkeys(env.agents, "catch 1 at a tell 1"))
    second = sum(min(units, 1) for units in best) / sum(best)
    assert env.metrics()["harvest"] == pytest.approx((1 + second) / 2) and 0 < second < 1
    env.step(dict.fromkeys(env.agents, "catch 9 at a tell 1"))
    assert env.metrics()["survival"] == 0
    # The last month's catch was no less than the experts', then nothing more in the fourth.
    assert env.metrics()["harvest"] == pytest.approx((1 + second + 1) / 4)


def test_what_was_wanted_of_a_lake_that_others_empty_is_not_harvested():
    env = CommonsEnv(agents=10, steps=1)
    env.reset(seed=0)
    best = [lake.expert().units for lake in env._lakes]
    # 90 units of 40: each of the agents gets 4 of its 9, whatever the experts would have taken.
    env.step(dict.fromkeys(env.agents, "catch 9 at a tell 1"))
    assert env.metrics()["harvest"] == pytest.approx(sum(min(units, 4) for units in best) / sum(best))
    env.reset(seed=0)
    env.step({agent: f"catch {2 if agent == 'agent_0' else 9} at a tell 1" for agent in env.agents})
    part = 40 / (2 + 9 * 9)
    caught = [2 * part] + [9 * part] * 9
    assert env.metrics()["harvest"] == pytest.approx(sum(map(min, caught, best)) / sum(best))
    assert caught[0] < best[0]


def test_equality_is_one_minus_gini():
    env = CommonsEnv(agents=2, steps=1)
    env.reset(seed=0)
    env.step({"agent_0": "catch 6 at a tell 1", "agent_1": "catch 2 at a tell 1"})
    # Gini of (6, 2): the sum of |x_i - x_j| over all ordered pairs is 8, over 2 n times the total, 32.
    assert env.metrics()["equality"] == pytest.approx(1 - 8 / 32)


def test_a_greedy_newcomer_announces_and_catches_whatever_it_is_asked():
    env = CommonsEnv(agents=4, steps=3, shock="greedy_newcomer", magnitude=4)
    env.reset(seed=0)
    for _ in range(2):
        _, rewards, _, _, _ = env.step(dict.fromkeys(env.agents, "catch 1 at a tell 1"))
    assert rewards == {"agent_0": 1, "agent_1": 1, "agent_2": 1, "agent_3": 9}
    assert all(lake.announced[-1] == 9 for lake in env._lakes[:-1])


def test_less_grows_back_in_a_bad_season():
    env = CommonsEnv(agents=4, steps=3, shock="bad_season", magnitude=50)
    env.reset(seed=0)
    env.step(dict.fromkeys(env.agents, "catch 6 at a tell 1"))  # 16 left, which doubles
    env.step(dict.fromkeys(env.agents, "catch 6 at a tell 1"))
    assert env._stocks == [40, 32, 12]
    assert env._lakes[0].regrowth == sustainable(12, 150) == 4
