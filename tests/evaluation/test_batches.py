"""Batches for measurements: an action ends where an answer ends."""

from __future__ import annotations

import pytest

from aajr_hf.environments import expert_rows
from aajr_hf.evaluation.batches import read_batch
from aajr_hf.training.models.base_agent import train_tokenizer
from tests.support.templates import CHATML

ROWS = expert_rows("congestion", 4, seed=0)


def tokenizer(template=None):
    made = train_tokenizer(message["content"] for row in ROWS for message in row["prompt"] + row["completion"])
    if template is not None:
        made.chat_template = template
        made.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    return made


def actions(made, rows):
    batch = read_batch(made, rows, "prompt", "cpu", candidates=False)
    return [made.decode(labels[mask]) for labels, mask in zip(batch.action_labels, batch.action_mask, strict=True)]


@pytest.mark.parametrize(("template", "end"), [(None, "<|end|>"), (CHATML, "<|im_end|>")], ids=["own", "ChatML"])
def test_an_action_ends_with_the_mark_of_the_template(template, end):
    assert actions(tokenizer(template), ROWS) == [row["completion"][-1]["content"] + end for row in ROWS]


def test_an_action_of_several_turns_ends_with_the_last_of_them():
    turns = [{"role": "assistant", "content": "take"}, {"role": "user", "content": "via"}, ROWS[0]["completion"][0]]
    (action,) = actions(tokenizer(CHATML), [ROWS[0] | {"completion": turns}])
    assert action.startswith("take<|im_end|>") and action.endswith(ROWS[0]["completion"][0]["content"] + "<|im_end|>")


def test_a_template_without_a_mark_changes_nothing():
    bare = "{% for message in messages %}{{ message.content + ' ' }}{% endfor %}"
    (action,) = actions(tokenizer(bare), ROWS[:1])
    assert action.strip() == ROWS[0]["completion"][0]["content"]
