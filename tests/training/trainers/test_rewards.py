"""The reward of a world's answers is minus their cost."""

from __future__ import annotations

import pytest

from aajr_hf.training.trainers.rewards import negative_cost
from tests.support.tiny import ROWS


@pytest.mark.parametrize("conversational", [True, False])
def test_each_action_costs_what_the_world_says_and_other_answers_the_most(conversational):
    for row in ROWS[:8]:
        said = [*row["actions"], "no action", ""]
        given = [[{"role": "assistant", "content": f"{text} "}] if conversational else text for text in said]
        columns = {name: [row[name]] * len(said) for name in ("actions", "action_costs")}
        worst = -max(row["action_costs"])
        expected = [*(-cost for cost in row["action_costs"]), worst, worst]
        assert negative_cost(completions=given, **columns, prompts=None) == expected
