"""The world `congestion`: PettingZoo's own checks, the expert, the costs and the seeded data."""

from __future__ import annotations

import json

import numpy as np
import pytest
from pettingzoo.test import parallel_api_test

from aajr_hf.environments import Answer, CongestionEnv, Observation, congestion_rows
from aajr_hf.environments.congestion import MAX_TAKE, OVERLOAD_COST, draw_observations


def play(env: CongestionEnv, answer, seed: int) -> tuple[float, list[dict]]:
    """Total reward and all infos of one episode."""
    env.reset(seed=seed)
    total, infos = 0.0, []
    while env.agents:
        _, rewards, _, _, info = env.step(answer(env))
        total += sum(rewards.values())
        infos += info.values()
    return total, infos


def test_pettingzoo_accepts_the_world():
    # It draws actions from the action space: random letters are malformed answers, which are allowed.
    parallel_api_test(CongestionEnv(agents=4, rounds=5), num_cycles=50)


def test_the_same_seed_gives_the_same_episode():
    one, other = CongestionEnv(agents=5), CongestionEnv(agents=5)
    assert one.reset(seed=3)[0] == other.reset(seed=3)[0]
    assert one.step(one.expert_actions())[0] == other.step(other.expert_actions())[0]
    assert one.reset(seed=4)[0] != other.reset(seed=3)[0]


@pytest.mark.parametrize("seed", range(5))
def test_experts_never_congest_the_system_and_lose_nothing(seed):
    reward, infos = play(CongestionEnv(rounds=50), lambda env: env.expert_actions(), seed)
    assert reward == 0
    assert not any(info["overload"] or info["malformed"] for info in infos)


def test_greed_costs_far_more_than_modesty():
    greedy, _ = play(CongestionEnv(rounds=50), lambda env: dict.fromkeys(env.agents, "take 9 via a yield 1"), 0)
    modest, _ = play(CongestionEnv(rounds=50), lambda env: dict.fromkeys(env.agents, "take 0 via a yield 1"), 0)
    silent, infos = play(CongestionEnv(rounds=50), lambda env: dict.fromkeys(env.agents, "nothing"), 0)
    assert greedy < 5 * modest < 0
    assert silent == modest and all(info["malformed"] for info in infos)


def test_the_cost_of_an_answer():
    observation = Observation(capacity=7, demands=(2, 3), need=4, route="c", peer=2)
    assert observation.free == 2
    assert [observation.cost(take) for take in (0, 1, 2, 3, 5)] == [2, 1, 0, OVERLOAD_COST, 3 * OVERLOAD_COST]
    assert observation.expert() == Answer(take=2, route="c", peer=2)


def test_an_answer_survives_its_text():
    answer = Answer(take=3, route="b", peer=7)
    assert Answer.parse(answer.text()) == answer
    assert Answer.parse("take 3") is None
    assert Answer.parse("take 3 via z yield 7") is None


def test_the_same_seed_gives_the_same_bytes():
    first, second, other = (json.dumps(congestion_rows(200, seed=seed)) for seed in (0, 0, 1))
    assert first == second != other
    assert json.loads(first)[:50] == congestion_rows(50, seed=0)


def test_rows_state_the_expert_and_the_cost_of_every_take():
    for row in congestion_rows(300, seed=2):
        take = Answer.parse(row["completion"][0]["content"]).take
        assert len(row["actions"]) == len(row["action_costs"]) == MAX_TAKE + 1
        assert row["action_costs"][take] == min(row["action_costs"]) == 0
        assert row["actions"][take] == row["completion"][0]["content"]


def test_the_answers_are_worth_learning():
    rng = np.random.default_rng(0)
    observations = [o for _ in range(500) for o in draw_observations(rng, 10)]
    takes = np.bincount([o.expert().take for o in observations], minlength=5) / len(observations)
    # No constant answer does well, and capacity decides often: the need alone is not the answer.
    assert takes.max() < 0.6
    assert np.mean([o.expert().take != o.need for o in observations]) > 0.25


@pytest.mark.parametrize("arguments", [{"agents": 1}, {"rounds": 0}])
def test_impossible_worlds_are_refused(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        CongestionEnv(**arguments)


def test_an_empty_dataset_is_refused():
    with pytest.raises(ValueError, match="examples"):
        congestion_rows(0, seed=0)
