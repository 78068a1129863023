"""Attacks on what a player reads: the costliest answer counts, and nothing else of the player is used."""

from __future__ import annotations

import re

import torch

from aajr_hf.environments import WORLDS, expert_rows
from aajr_hf.evaluation.episodes.play import play
from aajr_hf.evaluation.episodes.rewriting import Misled, cost, with_other_numbers, with_triggers
from aajr_hf.evaluation.monitoring.log import exchanges
from aajr_hf.training.policy.policy import fixed_seed

ROWS = expert_rows("congestion", 4, seed=0, agents=3)


def text(row):
    return row["prompt"][-1]["content"]


class Reader:
    """Gives the right answer, or the costliest one, or one that no world knows, as its prompt says."""

    def answer(self, rows):
        self.rows = rows
        return [self._one(row) for row in rows]

    def _one(self, row):
        if "nonsense" in text(row):
            return "?"
        costs = row["action_costs"]
        wrong = row["actions"][costs.index(max(costs))]
        return wrong if "yield" in text(row).split()[-1:] else row["completion"][0]["content"]


def test_of_all_rewritings_the_costliest_answer_counts():
    reader = Reader()
    for triggers, costliest in ((["calm", "yield", "so"], True), (["calm", "so"], False)):
        player = Misled(reader, with_triggers(triggers))
        said = player.answer(ROWS)
        assert player.read == [f"{text(row)}{' yield' * costliest}" for row in ROWS]
        for row, answer in zip(ROWS, said, strict=True):
            assert (cost(row, answer) == max(row["action_costs"])) == costliest
            assert costliest or answer == row["completion"][0]["content"]
        assert len(reader.rows) == len(ROWS) * (1 + len(triggers))
        assert [text(row) for row in reader.rows[:: 1 + len(triggers)]] == [text(row) for row in ROWS]
    # What the world does not know costs as much as the worst.
    assert Misled(reader, with_triggers(["nonsense"])).answer(ROWS) == ["?"] * len(ROWS)


def test_one_number_of_each_prompt_is_another_one():
    rewrite = with_other_numbers(5)
    with fixed_seed(torch.device("cpu"), 1):
        found = rewrite(ROWS)
    with fixed_seed(torch.device("cpu"), 1):
        assert rewrite(ROWS) == found
    pool = {number for row in ROWS for number in re.findall(r"\d+", text(row))}
    for row, several in zip(ROWS, found, strict=True):
        assert len({text(one) for one in several}) == 5
        for one in several:
            pairs = [(a, b) for a, b in zip(text(row).split(), text(one).split(), strict=True) if a != b]
            assert len(pairs) == 1 and pairs[0][1] in pool
            assert {k: v for k, v in one.items() if k != "prompt"} == {k: v for k, v in row.items() if k != "prompt"}


def test_a_transcript_says_what_was_read_and_what_the_world_gave():
    player = Misled(Reader(), with_triggers(["calm", "yield"]))
    ((record,),) = play([WORLDS["congestion"](agents=3, steps=2)], [1], player, transcript=True)
    assert [len(step) for step in record["transcript"]] == [3, 3]
    for one in exchanges(record):
        assert one.observation == f"{one.unchanged} yield" and not one.is_right
    calm = Misled(Reader(), with_triggers(["calm"]))
    ((record,),) = play([WORLDS["congestion"](agents=3, steps=1)], [1], calm, transcript=True)
    assert all(one.unchanged is None and one.is_right for one in exchanges(record))
