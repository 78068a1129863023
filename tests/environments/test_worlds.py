"""What holds in every world: PettingZoo's own checks, seeds, experts, expert data, shocks, the null action."""

from __future__ import annotations

import json
import re
import runpy
import warnings

import numpy as np
import pytest
from matplotlib.figure import Figure
from pettingzoo.test import parallel_api_test

from aajr_hf.environments import WORLDS, TextWorld, expert_rows, held_out_rows
from tests.support import ROOT

EVERY_WORLD = pytest.mark.parametrize("name", list(WORLDS))


def play(env, actions, seed: int = 0) -> list[dict]:
    env.reset(seed=seed)
    infos = []
    while env.agents:
        infos += env.step(actions(env))[4].values()
    return infos


@EVERY_WORLD
def test_pettingzoo_accepts_the_world(name):
    # It draws actions from the action space: random letters are malformed answers, which are allowed.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parallel_api_test(WORLDS[name](agents=5, steps=5), num_cycles=50)


@EVERY_WORLD
@pytest.mark.parametrize("agents", [None, 10, 100])
def test_observations_and_answers_stay_in_their_spaces(name, agents):
    world = WORLDS[name]
    env = world(agents=world.fewest_agents if agents is None else min(agents, world.most_agents))
    seen = 0
    for seed in range(3):
        texts, _ = env.reset(seed=seed)
        while env.agents:
            answers = env.expert_actions()
            assert all(env.observation_space(agent).contains(text) for agent, text in texts.items()), texts
            assert all(env.action_space(agent).contains(answer) for agent, answer in answers.items()), answers
            seen += len(answers)
            texts = env.step(answers)[0]
    assert seen > 10


@EVERY_WORLD
def test_the_same_seed_gives_the_same_episode_and_the_same_data(name):
    one, other = WORLDS[name](agents=5), WORLDS[name](agents=5)
    for env in (one, other):
        play(env, lambda env: env.expert_actions(), seed=3)
    assert one.metrics() == other.metrics() and one.render() == other.render()
    assert one.reset(seed=4)[0] != other.reset(seed=3)[0]
    first, second, third = (json.dumps(expert_rows(name, 200, seed=seed)) for seed in (0, 0, 1))
    assert first == second != third
    assert json.loads(first)[:50] == expert_rows(name, 50, seed=0)
    assert held_out_rows(name, 5, seed=0) == expert_rows(name, 50, seed=2 * 10**6)[::10]


@EVERY_WORLD
def test_rows_state_an_expert_that_costs_nothing_and_candidates_that_differ_in_one_word(name):
    world = WORLDS[name]
    for row in expert_rows(name, 300, seed=2):
        expert = row["completion"][0]["content"]
        costs = dict(zip(row["actions"], row["action_costs"], strict=True))
        assert len(costs) == len(row["actions"])
        assert costs[expert] == min(costs.values()) == 0 < max(costs.values())
        assert all(world.parse(action).text() == action for action in row["actions"])
        words = [action.split() for action in row["actions"]]
        assert sum(len(set(column)) > 1 for column in zip(*words, strict=True)) == 1


@EVERY_WORLD
def test_variants_change_the_observation_and_nothing_that_is_right(name):
    world, rng, changed = WORLDS[name], np.random.default_rng(5), 0
    observations = [one for _ in range(40) for one in world.sample(rng, 10)]
    for observation in observations:
        for _ in range(3):
            variant = world.variant(rng, observation)
            assert variant.expert() == observation.expert()
            assert variant.candidates() == observation.candidates()  # and the cost of every answer
            assert len(variant.text().split()) == len(observation.text().split())
            changed += variant.text() != observation.text()
    assert changed > 0.9 * 3 * len(observations)


@EVERY_WORLD
def test_rows_have_variants_if_asked_for_and_are_the_same_otherwise(name):
    plain, rows = expert_rows(name, 50, seed=3), expert_rows(name, 50, seed=3, variants=2)
    assert [row | {"variants": more["variants"]} for row, more in zip(plain, rows, strict=True)] == rows
    assert all(len(row["variants"]) == 2 for row in rows) and rows == expert_rows(name, 50, seed=3, variants=2)
    assert len(held_out_rows(name, 2, seed=0, variants=3)[1]["variants"]) == 3


def test_a_world_without_variants_gives_rows_without(monkeypatch):
    monkeypatch.setattr(WORLDS["congestion"], "variant", TextWorld.variant)
    assert expert_rows("congestion", 2, seed=0, variants=2)[1]["variants"] == []


@pytest.mark.slow
@EVERY_WORLD
def test_hardly_an_observation_that_is_held_out_is_in_the_training_data(name):
    def texts(rows):
        return {row["prompt"][0]["content"] for row in rows}

    held_out = texts(held_out_rows(name, 300, seed=0))
    assert len(held_out) > 290
    assert len(held_out & texts(expert_rows(name, 8000, seed=0))) <= 6


@pytest.mark.slow
@EVERY_WORLD
def test_no_constant_answer_is_the_experts_six_times_out_of_ten(name):
    answers = [row["completion"][0]["content"].split()[1] for row in expert_rows(name, 5000, seed=0)]
    assert max(np.unique(answers, return_counts=True)[1]) < 0.6 * len(answers)


@EVERY_WORLD
def test_experts_beat_random_answers_and_those_the_null_action(name):
    def success(actions):
        env, values = WORLDS[name](), []
        others = env.opponents if env.two_sided else []
        for seed in range(10):
            play(env, lambda env: actions(env) | {a: env.expert_actions()[a] for a in others if a in env.agents}, seed)
            values.append(env.metrics()[env.success])
        assert all(0 <= value <= 1 for value in values)
        return np.mean(values)

    rng = np.random.default_rng(0)
    experts = success(lambda env: env.expert_actions())
    random = success(lambda env: {agent: rng.choice(row["actions"]) for agent, row in env.rows().items()})
    null = success(lambda env: dict.fromkeys(env.agents, ""))
    shock = next(iter(WORLDS[name].shocks))
    env = WORLDS[name](shock=shock, magnitude=3)
    if not env.two_sided:  # who does nothing has no success under shock either
        play(env, lambda env: dict.fromkeys(env.agents, ""))
        assert env.metrics()[env.success] < 0.1
    assert experts > 0.8 and experts > random + 0.3 and experts > null + 0.05, (experts, random, null)


@EVERY_WORLD
def test_a_malformed_answer_is_marked_and_plays_the_null_action(name):
    infos = play(WORLDS[name](agents=4, steps=3), lambda env: dict.fromkeys(env.agents, "no idea"))
    assert infos and all(info["malformed"] for info in infos)
    infos = play(WORLDS[name](agents=4, steps=3), lambda env: env.expert_actions())
    assert infos and not any(info["malformed"] for info in infos)


@pytest.mark.parametrize(
    ("name", "shock"), [(name, shock) for name, world in WORLDS.items() for shock in world.shocks]
)
def test_a_shock_changes_the_world_after_the_first_third_and_not_before(name, shock):
    def texts(magnitude):
        env = WORLDS[name](steps=9, shock=shock if magnitude else None, magnitude=magnitude)
        seen = [env.reset(seed=5)[0]]
        while env.agents:
            seen.append(env.step(env.expert_actions())[0])
        return seen

    calm, shocked = texts(0), texts(3)
    assert calm[:3] == shocked[:3]
    assert calm[3:] != shocked[3:]


@EVERY_WORLD
def test_a_world_is_drawn(name):
    env = WORLDS[name](agents=5)
    play(env, lambda env: env.expert_actions())
    axes = Figure().add_subplot()
    env.plot(axes)
    assert str(env.step_count) in axes.get_title()


@EVERY_WORLD
@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"agents": 1}, "agents"),
        ({"agents": 101}, "agents"),
        ({"steps": 0}, "steps"),
        ({"shock": "flood"}, "shock"),
        ({"magnitude": 2}, "magnitude"),
        ({"magnitude": -1}, "magnitude"),
    ],
)
def test_impossible_worlds_are_refused(name, arguments, field):
    with pytest.raises(ValueError, match=f"`{field}`"):
        WORLDS[name](**arguments)


@EVERY_WORLD
def test_a_shock_has_a_strength(name):
    for magnitude in (0, 101):
        with pytest.raises(ValueError, match="`magnitude` must be from 1 to 100"):
            WORLDS[name](shock=next(iter(WORLDS[name].shocks)), magnitude=magnitude)
    assert WORLDS[name](shock=None, magnitude=0).magnitude == 0


def test_an_empty_dataset_is_refused():
    with pytest.raises(ValueError, match="examples"):
        expert_rows("congestion", 0, seed=0)


def test_the_world_in_the_instructions_is_one(tmp_path):
    text = (ROOT / "CONTRIBUTING.md").read_text()
    (code,) = (c for c in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "class HeatingEnv" in c)
    (tmp_path / "heating.py").write_text(code)
    names = runpy.run_path(tmp_path / "heating.py", run_name="heating")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parallel_api_test(names["HeatingEnv"](agents=3, shock="frost", magnitude=4), num_cycles=20)
    env = names["HeatingEnv"](agents=3)
    play(env, lambda env: env.expert_actions())
    assert env.metrics() == {"comfort": 1}
    env.plot(Figure().add_subplot())
