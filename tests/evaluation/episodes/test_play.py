"""Episodes against playing by hand, generation against argmax without a cache, attacked answers against teacher forcing."""

from __future__ import annotations

import json

import pytest
import torch

from aajr_hf.environments import WORLDS
from aajr_hf.evaluation.attacks.threat_model import ThreatModel
from aajr_hf.evaluation.episodes.play import episode_seeds, malformed_sentences, play, simulation_table
from aajr_hf.evaluation.episodes.players import AttackSettings, Experts, ModelPlayer
from aajr_hf.evaluation.reporting.statistics import mean_interval, student_t
from tests.support.answers import ROWS
from tests.support.small_agents import TOKENIZER


def test_prompts_that_the_model_cannot_read_are_refused(agent):
    agent.config.max_position_embeddings, before = 12, agent.config.max_position_embeddings
    try:
        with pytest.raises(ValueError, match="the model's context has 12: use fewer agents"):
            ModelPlayer(agent, TOKENIZER).answer(ROWS)
    finally:
        agent.config.max_position_embeddings = before


def by_hand(world, seed) -> dict:
    world.reset(seed=seed)
    rewards, steps = dict.fromkeys(world.possible_agents, 0.0), 0
    while world.agents:
        for name, reward in world.step(world.expert_actions())[1].items():
            rewards[name] += reward
        steps += 1
    return {"steps": steps, "metrics": world.metrics(), "rewards": rewards}


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("side_by_side", [1, 3])
def test_experts_play_as_they_do_by_hand(name, side_by_side):
    shock = next(iter(WORLDS[name].shocks))
    worlds = [WORLDS[name](agents=5, shock=shock, magnitude=2) for _ in range(side_by_side)]
    seeds = episode_seeds(4, seed=1)
    records = [record for some in play(worlds, seeds, Experts()) for record in some]
    assert [record["seed"] for record in records] == seeds and len({*seeds, *episode_seeds(4, seed=2)}) == 8
    for seed, record in zip(seeds, records, strict=True):
        expected = by_hand(WORLDS[name](agents=5, shock=shock, magnitude=2), seed)
        assert {key: record[key] for key in expected} == expected
        counts = record["sides"]["model"]
        assert counts["expert"] == counts["answers"] <= 5 * record["steps"] and counts["malformed"] == 0


class Says(Experts):
    """Every third answer is no answer."""

    def __init__(self, text="no idea"):
        self.text, self.seen, self.given = text, [], 0

    def answer(self, rows):
        self.seen += [row["prompt"][0]["content"] for row in rows]
        answers = [self.text if (self.given + i) % 3 == 0 else text for i, text in enumerate(super().answer(rows))]
        self.given += len(rows)
        return answers


def test_each_player_answers_for_its_side_and_is_counted_on_it():
    player, opponent = Says(), Experts()
    [[record]] = play([WORLDS["hide_and_seek"](agents=6, steps=5)], [7], player, opponent, transcript=True)
    assert all(text.startswith("hide ") for text in player.seen)
    said = [(name, entry) for step in record["transcript"] for name, entry in step.items()]
    hiders = [entry for name, entry in said if name.startswith("hider")]
    assert [entry["sees"] for entry in hiders] == player.seen
    assert all(entry["side"] == "model" and entry["expert"] and "moved" not in entry for entry in hiders)
    assert record["sides"]["model"] == {
        "answers": len(hiders),
        "malformed": sum(entry["says"] == "no idea" for entry in hiders),
        "expert": sum(entry["says"] != "no idea" for entry in hiders),
    }
    assert record["sides"]["model"]["malformed"] == -(-len(hiders) // 3) > 0
    assert record["sides"]["opponent"] == {
        "answers": len(said) - len(hiders),
        "malformed": 0,
        "expert": len(said) - len(hiders),
    }


def test_an_opponent_plays_every_second_agent_where_there_are_no_sides():
    [[record]] = play([WORLDS["commons"](agents=5, steps=2)], [7], Experts(), Says(), transcript=True)
    assert record["sides"]["opponent"]["answers"] == 4 and record["sides"]["model"]["answers"] == 6
    others = {name for step in record["transcript"] for name, entry in step.items() if entry["says"] == "no idea"}
    assert others <= {"agent_1", "agent_3"} and others


def test_malformed_answers_play_the_null_action():
    worlds = [WORLDS["commons"](agents=4)]
    [[record]] = play(worlds, [7], type("Mute", (), {"answer": lambda self, rows: [""] * len(rows)})())
    assert record["sides"]["model"] == {"answers": 48, "malformed": 48, "expert": 0}
    assert record["metrics"]["gain"] == 0 and record["metrics"]["survival"] == 1


@pytest.mark.slow
def test_the_same_seeds_give_the_same_episodes_and_leave_the_generator_as_it_was(agent):
    def records(temperature, seed=0):
        worlds = [WORLDS["congestion"](agents=3, steps=3) for _ in range(2)]
        attack = AttackSettings(ThreatModel(0.2), steps=2, restarts=2)
        player = ModelPlayer(agent, TOKENIZER, temperature=temperature, attack=attack)
        return json.dumps(list(play(worlds, episode_seeds(3, seed), player, transcript=True)))

    state = torch.get_rng_state()
    first = records(1.0)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    assert records(1.0) == first != records(0.0)
    assert records(1.0, seed=1) != first


def test_episodes_draw_different_numbers():
    class Draws(Experts):
        numbers = []

        def answer(self, rows):
            self.numbers.append(float(torch.rand(())))
            return super().answer(rows)

    list(play([WORLDS["congestion"](agents=3, steps=2)], [1, 2], Draws()))
    assert len(set(Draws.numbers)) == 4


@pytest.mark.parametrize(("degrees", "t"), [(1, 12.706), (4, 2.776), (9, 2.262), (19, 2.093), (999, 1.962)])
def test_students_t_is_that_of_the_tables(degrees, t):
    assert student_t(degrees) == pytest.approx(t, abs=6e-4)
    assert student_t(4, share=0.9) == pytest.approx(2.132, abs=6e-4)


def test_the_interval_of_a_mean():
    mean, half = mean_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (mean, half) == (3.0, pytest.approx(2.776 * (2.5 / 5) ** 0.5, rel=1e-3))
    assert mean_interval([4.0]) == (4.0, None)


def test_the_table_has_the_worlds_metrics_and_each_sides_answers():
    [records] = play([WORLDS["hide_and_seek"](5, steps=3) for _ in range(2)], [1, 2], Says(), Experts())
    table = simulation_table(records)
    names, means = (list(column.cells) for column in table.columns[:2])
    assert names[:3] == list(records[0]["metrics"])
    shares = [record["sides"]["model"]["malformed"] / record["sides"]["model"]["answers"] for record in records]
    assert means[names.index("model: answers malformed, %")].strip() == f"{50 * sum(shares):.3f}"
    assert means[names.index("opponent: answers equal to the expert's, %")].strip() == "100.000"


def test_a_player_that_says_nothing_is_named_and_one_that_says_something_is_not():
    def sentences(player, opponent=None):
        [records] = play([WORLDS["commons"](4, steps=2) for _ in range(2)], [1, 2], player, opponent)
        return malformed_sentences(records)

    mute = type("Mute", (), {"answer": lambda self, rows: ["no idea"] * len(rows)})()
    assert sentences(Experts()) == sentences(Says()) == []
    (said,) = sentences(mute)
    assert said.startswith("Almost all answers of the model (100.0%) are malformed")
    assert said.endswith("the numbers below say nothing about the model.")
    (said,) = sentences(Experts(), mute)
    assert "of the opponent" in said and len(sentences(mute, mute)) == 2
