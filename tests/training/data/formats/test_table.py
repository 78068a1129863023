"""Rows are recognised by their columns; doubt, and what nothing reads, is said."""

from __future__ import annotations

import pytest
from datasets import Dataset

from aajr_hf.training.data.canonical import canonical_row
from aajr_hf.training.data.formats.table import FORMATS, in_trl_format, trl_row
from aajr_hf.training.data.hub_rows import check_rows
from aajr_hf.training.data.reading.values import RowError

CHAT = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
TURNS = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
SYSTEM = {"role": "system", "content": "s"}


@pytest.mark.parametrize(
    ("row", "formats"),
    [
        ({"instruction": "a", "output": "b", "text": "c"}, ["alpaca", "trl"]),
        ({"messages": CHAT[:1] + CHAT, "conversations": TURNS}, ["sharegpt", "trl"]),
        ({"query": "a", "answers": [{"name": "f"}], "conversations": TURNS}, ["sharegpt", "xlam"]),
        ({"prompt": "a", "completion": "b", "instruction": "c", "output": "d"}, ["alpaca", "trl"]),
    ],
)
def test_columns_of_several_formats_are_a_doubt_that_dataset_format_settles(row, formats):
    with pytest.raises(RowError, match="fits the formats .* and .*: set `dataset_format` to one of them") as error:
        trl_row(row, "auto")
    assert all(f"{name} (`" in str(error.value) for name in formats)
    made = [trl_row(row, name)[0] for name in formats]
    assert made[0] != made[1] and all(made)
    for name in formats:  # every column is used or named
        kept, left = trl_row(row, name)
        assert left and not set(left) & set(kept) - {"messages", "prompt", "completion"}


@pytest.mark.parametrize("name", ["sharegpt", "toolbench", "xlam", "alpaca", "openai"])
def test_a_format_that_does_not_fit_names_the_column_it_needs(name):
    with pytest.raises(RowError, match="needs `(conversations|query|instruction|messages)`, a"):
        trl_row({"text": "a"}, name)
    assert name in FORMATS


@pytest.mark.parametrize(
    ("row", "left"),
    [
        ({"messages": CHAT, "prompt": "a", "score": 1}, ["prompt", "score"]),
        ({"messages": CHAT, "text": "a", "parallel_tool_calls": False}, ["parallel_tool_calls", "text"]),
        ({"prompt": "a", "completion": "b", "messages": CHAT}, ["messages"]),
        ({"text": "a", "system": "b"}, ["system"]),
        ({"input_ids": [1], "labels": [1], "attention_mask": [1]}, ["attention_mask"]),
        ({"conversations": TURNS, "category": "c", "id": 1}, ["category"]),
        ({"prompt": "a", "completion": "b", "actions": ["b"], "action_costs": [0.0]}, []),
        ({"messages": CHAT, "system": "s", "source": "web"}, ["source"]),
        ({"question": "a"}, []),
    ],
)
def test_columns_that_nothing_reads_are_left_out_and_named(row, left):
    kept, named = trl_row(row, "auto")
    assert named == left and not set(left) & set(kept)
    unread: dict[str, str] = {}
    items = [("line 1", dict(row)), ("line 2", dict(row))]
    assert [found for _, found in in_trl_format(items, "auto", unread=unread)] == [kept, kept]
    assert unread == dict.fromkeys(left, "line 1")
    if "question" not in row:
        made, count = check_rows(Dataset.from_list([row, row]), "the data")
        assert set(count.unread) == set(left) and set(made.column_names) == set(kept)


def test_a_column_system_is_the_first_message_or_an_error():
    def read(row):
        made, left = trl_row(row, "auto")
        assert left == []
        return canonical_row(made)

    assert read({"system": "s", "messages": CHAT}) == {"messages": [SYSTEM, *CHAT]}
    pair = {"prompt": CHAT[:1], "completion": CHAT[1:]}
    assert read(pair | {"system": "s"}) == pair | {"prompt": [SYSTEM, CHAT[0]]}
    assert read({"system": "s", "conversations": TURNS}) == {"messages": [SYSTEM, *CHAT]}
    assert read({"system": "s", "instruction": "a", "output": "b"}) == pair | {"prompt": [SYSTEM, CHAT[0]]}
    assert read({"system": "", "messages": CHAT}) == {"messages": CHAT}
    assert read({"system": "s", "messages": [SYSTEM, *CHAT]}) == {"messages": [SYSTEM, *CHAT]}
    for row, reason in (
        ({"system": "other", "messages": [SYSTEM, *CHAT]}, "differs from the system message in `messages`"),
        ({"system": "s", "prompt": "a", "completion": "b"}, "a `system` beside a `prompt` that is a text"),
        ({"system": ["s"], "messages": CHAT}, "`system` must be a text"),
    ):
        with pytest.raises(RowError, match=reason):
            read(row)


def test_messages_may_be_json_texts_and_texts_are_not_messages():
    for text in ("[]", "a", "[1]", '["a"]', '[{"a": 1}]', "[", '{"role": "user"}'):
        row = {"prompt": text, "completion": text}
        assert trl_row(row, "auto")[0] == row
    with pytest.raises(RowError, match="`messages` must be JSON"):
        trl_row({"messages": "[{'role': 'user'}]"}, "auto")
    empty = {"messages": CHAT, "tools": "", "functions": " "}
    assert trl_row(empty, "auto") == ({"messages": CHAT}, [])
    assert trl_row({"messages": TURNS}, "auto")[0] == {"messages": CHAT}
    wrong = {"messages": [{"content": "a"}, 5]}
    assert trl_row(wrong, "auto")[0] == wrong  # `check_row` says what is wrong with them


def test_rows_of_no_format_and_no_rows_stay_as_they_are():
    items = [("1", {"a": 1}), ("2", 5), ("3", RowError("is not JSON"))]
    assert list(in_trl_format(items, "auto")) == items
    wrong = list(in_trl_format([("1", {"conversations": 5})], "auto"))
    assert str(wrong[0][1]) == "needs `conversations`, a list"
