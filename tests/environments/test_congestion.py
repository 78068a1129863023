"""The world `congestion`: the expert, the costs, the shocks and the data."""

from __future__ import annotations

import json

import numpy as np
import pytest

from aajr_hf.environments import CongestionEnv, expert_rows
from aajr_hf.environments.congestion import MAX_TAKE, OVERLOAD_COST, Answer, Observation, sample_observations


def play(env: CongestionEnv, answer, seed: int) -> tuple[float, list[dict]]:
    """Total reward and all infos of one episode."""
    env.reset(seed=seed)
    total, infos = 0.0, []
    while env.agents:
        _, rewards, _, _, info = env.step(answer(env))
        total += sum(rewards.values())
        infos += info.values()
    return total, infos


@pytest.mark.parametrize("seed", range(5))
def test_experts_never_congest_the_system_and_lose_nothing(seed):
    reward, infos = play(CongestionEnv(steps=50), lambda env: env.expert_actions(), seed)
    assert reward == 0
    assert not any(info["malformed"] for info in infos)


def test_greed_costs_far_more_than_modesty():
    greedy, _ = play(CongestionEnv(steps=50), lambda env: dict.fromkeys(env.agents, "take 9 via a yield 1"), 0)
    modest, _ = play(CongestionEnv(steps=50), lambda env: dict.fromkeys(env.agents, "take 0 via a yield 1"), 0)
    silent, infos = play(CongestionEnv(steps=50), lambda env: dict.fromkeys(env.agents, "nothing"), 0)
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
    first, second, other = (json.dumps(expert_rows("congestion", 200, seed=seed)) for seed in (0, 0, 1))
    assert first == second != other
    assert json.loads(first)[:50] == expert_rows("congestion", 50, seed=0)


def test_rows_state_the_expert_and_the_cost_of_every_take():
    for row in expert_rows("congestion", 300, seed=2):
        take = Answer.parse(row["completion"][0]["content"]).take
        assert len(row["actions"]) == len(row["action_costs"]) == MAX_TAKE + 1
        assert row["action_costs"][take] == min(row["action_costs"]) == 0
        assert row["actions"][take] == row["completion"][0]["content"]


def test_the_answers_are_worth_learning():
    rng = np.random.default_rng(0)
    observations = [o for _ in range(500) for o in sample_observations(rng, 10)]
    takes = np.bincount([o.expert().take for o in observations], minlength=5) / len(observations)
    # No constant answer does well, and capacity decides often: the need alone is not the answer.
    assert takes.max() < 0.6
    assert np.mean([o.expert().take != o.need for o in observations]) > 0.25


def test_metrics_of_experts_and_of_the_greedy_and_the_idle():
    def metrics(answer):
        env = CongestionEnv(steps=30)
        play(env, answer, 0)
        return env.metrics()

    assert metrics(lambda env: env.expert_actions()) == {"success": 1, "served": 1, "congested": 0, "cost": 0}
    greedy = metrics(lambda env: dict.fromkeys(env.agents, "take 9 via a yield 1"))
    assert greedy["congested"] == 1 and greedy["served"] == greedy["success"] == 0
    # Right wherever there was something to grant, and greedy elsewhere: that counts, too.
    careless = metrics(
        lambda env: {
            agent: text if any(o.expert().take for o in env._true) else "take 9 via a yield 1"
            for agent, text in env.expert_actions().items()
        }
    )
    assert careless["served"] == 1 and careless["success"] == 0 < careless["congested"] < 1
    idle = metrics(lambda env: dict.fromkeys(env.agents, "take 0 via a yield 1"))
    assert idle["congested"] == idle["served"] == idle["success"] == 0 and idle["cost"] > 0


def test_shocks_strike_after_the_first_third():
    def observations(**shock):
        env = CongestionEnv(steps=6, **shock)
        seen = [list(env.reset(seed=1)[0].values())]
        while env.agents:
            seen.append(list(env.step(env.expert_actions())[0].values()))
        return seen

    def numbers(text):
        words = text.split()
        return int(words[1]), list(map(int, words[3 : words.index("need")]))

    calm = observations()
    drop = observations(shock="capacity_drop", magnitude=4)
    assert drop[:2] == calm[:2]
    for before, after in zip(calm[2], drop[2], strict=True):
        assert numbers(after)[0] == max(numbers(before)[0] - 4, 0)
        assert numbers(after)[1] == numbers(before)[1]
    spike = observations(shock="demand_spike", magnitude=3)
    for i, (before, after) in enumerate(zip(calm[2], spike[2], strict=True)):
        peers = [j for j in range(10) if j != i]
        assert numbers(after)[1] == [d + 3 * (j % 2 == 0) for j, d in zip(peers, numbers(before)[1], strict=True)]
        need = [int(text.split()[text.split().index("need") + 1]) for text in (before, after)]
        assert need[1] - need[0] == 3 * (i % 2 == 0)
    lies = observations(shock="misreported_peers", magnitude=2)
    for before, after in zip(calm[2], lies[2], strict=True):
        assert sum(x != y for x, y in zip(numbers(before)[1], numbers(after)[1], strict=True)) == 2


def test_the_world_goes_by_what_is_true_where_peers_misreport():
    env = CongestionEnv(agents=3, steps=1, shock="misreported_peers", magnitude=2)
    for seed in range(20):
        observations, _ = env.reset(seed=seed)
        true = [observation.expert().take for observation in env._true]
        said = [Answer.parse(text).take for text in env.expert_actions().values()]
        env.step(env.expert_actions())
        if true == said:
            assert env.metrics()["served"] == 1
        elif sum(said) <= env._true[0].capacity:
            assert env.metrics()["served"] < 1 or all(s >= t for s, t in zip(said, true, strict=True))
