"""Datasets that hold valid rows as they are, and the numbers of the others."""

from __future__ import annotations

import json

import pytest
from datasets import Dataset, load_dataset

from aajr_hf.training.data.canonical import canonical_row
from aajr_hf.training.data.exact_json import use_exact_json
from aajr_hf.training.data.hub_rows import check_rows
from aajr_hf.training.data.reading.values import RowError
from aajr_hf.training.data.row_datasets import RowCount, dataset_of, valid_rows


def test_invalid_rows_are_counted_and_the_first_five_reasons_shown():
    reasons = ["is not JSON: column 1", "is not JSON: column 25", "a", "b", "c", "d", "e", "e"]
    items = [(f"line {n}", RowError(reason)) for n, reason in enumerate(reasons)] + [("line 8", {"text": "a"})]
    count = RowCount()
    assert [number for number, _ in valid_rows(items, count)] == [8]
    assert (count.valid, count.invalid, len(count.shown)) == (1, 8, 5)
    assert str(count) == (
        "8 of 9 rows are invalid: line 0: is not JSON: column 1 (and 1 more like it); line 2: a; line 3: b; line 4: c; "
        "line 5: d; and 2 more"
    )


def test_rows_of_several_formats_are_refused_whichever_comes_first():
    items = [("line 1", {"text": "a"}), ("line 2", {"prompt": "a", "completion": "b"})]
    for first, second in (items, items[::-1]):
        with pytest.raises(
            ValueError, match=f"{second[0]} holds .*, but {first[0]} holds .*: give rows of one format"
        ):
            list(valid_rows([first, second], RowCount()))


def test_integers_that_arrow_cannot_hold_are_kept():
    for value in (10**20, -(2**63) - 1, [1, 2**63], {"a": 10**20}):
        dataset, _ = dataset_of(lambda value=value: [("1", {"text": "a", "id": value}), ("2", {"text": "b", "id": 1})])
        assert dataset["id"][:] == [value, 1]


def test_columns_without_values_are_no_columns():
    """TRL would take the rows for prompts, and unpack nothing."""
    rows = [{"prompt": None, "messages": CHAT, "chat_template_kwargs": given} for given in (None, {"x": 1})]
    made, _ = dataset_of(lambda: [(str(n), row) for n, row in enumerate(rows)])
    loaded, _ = check_rows(Dataset.from_list(rows), "the data")
    for dataset in (made, loaded):
        assert list(dataset) == [
            {"messages": CHAT, "chat_template_kwargs": {}},
            {"messages": CHAT, "chat_template_kwargs": {"x": 1}},
        ]
    plain, _ = check_rows(Dataset.from_list([{"prompt": None, "messages": CHAT}]), "the data")
    assert plain.column_names == ["messages"]


CHAT = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
ROWS = [
    {
        "messages": [
            {"role": "user", "content": "é / \u2028 </a>"},
            {
                "role": "assistant",
                "tool_calls": [{"function": {"name": "f", "arguments": {"x": 0.95, "y": [1, None]}}}],
            },
        ],
        "tools": '[{"name": "f"}]',
        "number": 1,
        "mixed": "5",
    },
    {
        "messages": [
            {"role": "user", "content": "b"},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"function": {"name": "g", "arguments": {"z": {"u": 1e-12}, "x": "1"}}}],
            },
        ],
        "tools": None,
        "number": 2.5,
        "mixed": {"a": [True, 1 / 3]},
        "more": [1, 2],
    },
]


def same(left, right) -> bool:
    """Equal as JSON, where 1 is not 1.0 and a missing key is not null."""
    return json.dumps(left, sort_keys=True) == json.dumps(right, sort_keys=True)


def test_a_dataset_holds_rows_as_they_are():
    dataset, count = dataset_of(lambda: ((str(n), row) for n, row in enumerate(ROWS)))
    assert count.valid == len(dataset) == 2
    mapped = dataset.map(lambda row: {"copy": row["messages"]})
    for row, found in zip(map(canonical_row, ROWS), mapped, strict=True):
        assert same(found["messages"], row["messages"]) and same(found["copy"], row["messages"])
        assert same(found["mixed"], row["mixed"]) and found["tools"] == row["tools"]
        assert found["number"] == row["number"] and found["more"] == row.get("more")


def test_a_dataset_is_found_again_by_its_content():
    def read(text):
        return dataset_of(lambda: [("line 1", {"text": text})])[0]

    assert read("a")["text"][:] == ["a"] and read("b")["text"][:] == ["b"]
    assert read("a").cache_files == read("a").cache_files != read("b").cache_files


def test_the_librarys_own_json_columns_are_exact(tmp_path):
    rows = [{"messages": ROWS[0]["messages"]}, {"messages": ROWS[1]["messages"]}]
    use_exact_json()
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    loaded = load_dataset("json", data_files=str(file), split="train")
    made = Dataset.from_list(rows, on_mixed_types="use_json")
    for dataset in (loaded, made):
        call = dataset[0]["messages"][1]["tool_calls"][0]["function"]["arguments"]
        assert same(call, {"x": 0.95, "y": [1, None]})
        assert same(dataset[1]["messages"][1]["tool_calls"][0]["function"]["arguments"]["z"], {"u": 1e-12})


def test_half_a_character_is_a_invalid_row():
    dataset, count = dataset_of(lambda: [("line 1", {"text": "\ud800"}), ("line 2", {"text": "a"})])
    assert dataset["text"][:] == ["a"] and count.shown == ["line 1: is not UTF-8: it holds half a character"]


def test_rows_of_a_dataset_are_selected_and_conversations_converted():
    dataset = Dataset.from_list(
        [
            {"conversations": None},
            {"conversations": [{"from": "user", "value": "a"}, {"from": "assistant", "value": "b"}]},
            {"conversations": []},
            {"conversations": [{"from": "oracle", "value": "b"}]},
        ]
    )
    kept, count = check_rows(dataset, "the data")
    assert kept[:]["messages"] == [[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]]
    assert [shown.split(":")[0] for shown in count.shown] == [f"row {n} of the data" for n in (0, 2, 3)]
    assert "`conversations`[0] must have `from`, one of" in count.shown[2]
    kept, count = check_rows(dataset, "the data", "toolbench")
    assert len(kept) == 1 and count.shown[0] == "row 0 of the data: needs `conversations`, a list"
    tokens = Dataset.from_dict({"input_ids": [[1, 2]]})
    assert check_rows(tokens, "the data")[0] is tokens
    with pytest.raises(ValueError, match="the data has the columns question"):
        check_rows(Dataset.from_dict({"question": ["a"]}), "the data")
    with pytest.raises(ValueError, match="set `dataset_format` to bfcl"):
        check_rows(Dataset.from_list([{"question": "a", "function": "b", "tools": [{"name": "f"}]}]), "the data")
    kept, count = check_rows(Dataset.from_dict({"input_ids": [[1, 2], [1], None], "labels": [[1, 2]] * 3}), "the data")
    assert len(kept) == 1 and count.invalid == 2


def test_calls_of_arrow_have_the_arguments_of_their_own_rows():
    """As those of the same rows in a file of JSON."""

    def row(name, value):
        arguments = {name: value, "list": [{name: value}, None], "empty": {}}
        call = {"type": "function", "function": {"name": name, "arguments": arguments}}
        properties = {name: {"type": "string", "enum": [None, "a"]} | ({"default": "a"} if name == "f" else {})}
        tool = {"type": "function", "function": {"name": name, "parameters": {"properties": properties}}}
        turn = {"role": "assistant", "content": None, "tool_calls": [call]}
        return {
            "messages": [{"role": "user", "content": "a"}, turn],
            "tools": [tool],
            "accepted": [{name: {name: [value]}}],
        }

    rows = [row("f", "1"), row("g", 2), row("content", True)]
    kept, count = check_rows(Dataset.from_list(rows), "the data")
    assert not count.invalid and all(map(same, kept, map(canonical_row, rows)))
    talk = [each | {"messages": CHAT} for each in rows]
    assert all(map(same, check_rows(Dataset.from_list(talk), "the data")[0], talk))
    plain = Dataset.from_list([{"messages": CHAT}])
    assert check_rows(plain, "the data")[0] is plain
