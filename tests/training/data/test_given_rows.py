"""Datasets that are given to a trainer in Python hold every format of files, and are refused by the same reasons."""

from __future__ import annotations

import json

import pytest
from datasets import Dataset, IterableDataset

from aajr_hf.training.data.canonical import canonical_row
from aajr_hf.training.data.given_rows import in_formats_of_trl
from tests.support.talks import WRITERS, Talk, canonical, messages
from tests.support.tiny import trainer

TOOL = {"name": "f", "description": "Does it.", "parameters": {"type": "object", "properties": {}}}
WITH_CALLS = [
    Talk("Be brief.", [("user", f"question {n}"), ("calls", [("f", {"a": n, "b": [0.95]})])], [TOOL]) for n in range(3)
]
PLAIN = [Talk("Be brief.", [("user", f"question {n}"), ("assistant", f"answer {n}")]) for n in range(3)]


def given(rows, streamed, skip_invalid_rows=False):
    data = IterableDataset.from_generator(lambda: iter(rows)) if streamed else Dataset.from_list(rows)
    return in_formats_of_trl(data, "train", "text", skip_invalid_rows)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("name", WRITERS)
def test_every_format_is_read(name, streamed):
    talks = PLAIN if name in ("toolbench", "alpaca") else WITH_CALLS
    read, count = given([WRITERS[name][0](talk) for talk in talks], streamed)
    assert count.invalid == 0
    for talk, row in zip(talks, read, strict=True):
        made = canonical(canonical_row({key: value for key, value in row.items() if value is not None}))
        wanted = {"messages": messages(talk), "tools": talk.tools}
        assert json.dumps(made, sort_keys=True) == json.dumps(wanted, sort_keys=True)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    "rows",
    [
        [{"messages": messages(PLAIN[0]), "score": 1}],
        [{"prompt": "a", "completion": "b", "score": 1}],
        [{"text": "a", "score": 1}],
        [{"input_ids": [1], "score": 1}],
    ],
    ids=lambda rows: next(iter(rows[0])),
)
def test_what_trl_reads_keeps_all_its_columns(rows, streamed):
    assert list(given(rows, streamed)[0]) == rows


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ([{"instruction": "a", "response": "b"}], "have the columns instruction, response: examples need `prompt`"),
        ([{"text": None}, {"text": "a"}], "1 of 2 rows are invalid: row 0 of the train data"),
        ([{"prompt": "a", "completion": ""}], "`completion` is empty"),
        ([{"messages": []}], "`messages` must be a list of messages"),
        ([{"query": "a", "answers": "[]"}], "`answers` has no call"),
        ([], "no rows"),
    ],
)
def test_other_data_are_refused_before_trl_sees_them(tmp_path, rows, named):
    with pytest.raises(ValueError, match=named):
        trainer(tmp_path, data=Dataset.from_list(rows), perturbed_tokens="all")


def test_invalid_rows_are_left_out(caplog):
    turns = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    rows = [{"conversations": turns}, {"conversations": [{"from": "dog", "value": "a"}]}]
    read, count = given(rows, False, skip_invalid_rows=True)
    assert len(read) == count.invalid == 1 and "row 1 of the train data" in caplog.text
    with pytest.raises(ValueError, match=r"row 1 of the train data: `conversations`\[0\] must have `from`"):
        list(given(rows, True)[0])
    assert [row["messages"] is None for row in given(rows, True, skip_invalid_rows=True)[0]] == [False, True]
