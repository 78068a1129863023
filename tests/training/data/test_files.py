"""Rows of files, each with its line, and datasets that hold them as they are."""

from __future__ import annotations

import json

import pytest
from datasets import Dataset, load_dataset

from aajr_hf.training.data.exact_json import use_exact_json
from aajr_hf.training.data.hub_rows import check_rows
from aajr_hf.training.data.reading.csv_files import csv_rows
from aajr_hf.training.data.reading.json_files import json_rows
from aajr_hf.training.data.reading.values import RowError
from aajr_hf.training.data.row_datasets import RowCount, dataset_of, valid_rows


def places(items) -> list[tuple[str, object]]:
    """What was read, with the reason in place of the error."""
    return [(place, str(row) if isinstance(row, RowError) else row) for place, row in items]


def test_lines_are_counted_as_an_editor_does(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_bytes(
        b'\xef\xbb\xbf{"text": "\xc3\xa9"}\r\n\n{"text": \n[1]\n{"text": "\xe9"}\n{"a": NaN}\n{"text": "c"}'
    )
    read = places(json_rows(file))
    assert [place for place, _ in read] == [f"a.jsonl line {n}" for n in (1, 3, 4, 5, 6, 7)]
    assert [row for _, row in read if not isinstance(row, str)] == [{"text": "é"}, [1], {"text": "c"}]
    assert read[1][1].startswith("is not JSON") and read[4][1] == "is not JSON: NaN is not a JSON value"
    assert read[3][1].startswith("is not UTF-8")


def test_a_list_as_a_line_is_one_invalid_row(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('[{"text": "a"}]\n{"text": "b"}\n')
    dataset, count = dataset_of(lambda: json_rows(file))
    assert dataset["text"][:] == ["b"] and count.shown == ["a.jsonl line 1: is a list, not an object with fields"]


@pytest.mark.parametrize("indent", [None, 1, 4])
def test_the_lines_of_a_list_are_those_where_its_rows_begin(tmp_path, indent):
    rows = [{"text": "[a],\n"}, {"messages": [{"role": "user"}]}, 5, {}]
    file = tmp_path / "a.json"
    file.write_text("\n" + json.dumps(rows, indent=indent) + "\n")
    lines = file.read_text().splitlines()
    read = list(json_rows(file))
    assert [row for _, row in read] == rows
    for place, row in read:
        line = lines[int(place.removeprefix("a.json line ")) - 1]
        assert json.dumps(row, indent=indent).splitlines()[0] in line


@pytest.mark.parametrize(
    ("text", "where"),
    [('[{"a": 1},\n{"a"]', "from line 2 on"), ('[{"a": 1}\n{"a": 1}]', "from line 1 on (a comma"), ("[\n", "line 2")],
)
def test_a_list_that_is_cut_off_is_refused(tmp_path, text, where):
    file = tmp_path / "a.json"
    file.write_text(text)
    with pytest.raises(ValueError, match="a.json is a JSON list that cannot be read") as error:
        list(json_rows(file))
    assert where in str(error.value) and "one object per line" in str(error.value)


def test_empty_files_have_no_rows(tmp_path):
    file = tmp_path / "a.json"
    for text in ("", "\n\n", "[]", " [ ]\n"):
        file.write_text(text)
        assert not list(json_rows(file)) and not list(csv_rows(file))[1:]


def test_rows_of_values_that_are_too_many_or_too_few(tmp_path):
    file = tmp_path / "a.csv"
    file.write_bytes(b'prompt,completion\n"a\nb",c\nd\n\ne,f,g\nh,i\n"j"k,l\nm,n\n')
    read = places(csv_rows(file))
    assert read[0] == ("a.csv line 2", {"prompt": "a\nb", "completion": "c"})
    assert read[1] == ("a.csv line 4", "has 1 values for 2 fields")
    assert read[2] == ("a.csv line 6", "has 3 values for 2 fields")
    assert read[3] == ("a.csv line 7", {"prompt": "h", "completion": "i"})
    assert read[4][0] == "a.csv line 8" and read[4][1].startswith("is not CSV")
    assert read[5] == ("a.csv line 9", {"prompt": "m", "completion": "n"})


def test_values_may_be_long_and_must_be_unicode(tmp_path):
    file = tmp_path / "a.csv"
    file.write_bytes(b"text\n" + b"a" * 200_000 + b"\ncaf\xe9\n")
    dataset, count = dataset_of(lambda: csv_rows(file))
    assert len(dataset[0]["text"]) == 200_000 and count.shown == [
        "a.csv line 3: is not UTF-8: it holds half a character"
    ]


def test_invalid_rows_are_counted_and_the_first_five_shown():
    items = [(f"line {n}", {"text": "a"} if n % 2 else {"text": n}) for n in range(20)]
    count = RowCount()
    assert [number for number, _ in valid_rows(items, count)] == list(range(1, 20, 2))
    assert (count.valid, count.invalid, len(count.shown)) == (10, 10, 5)
    assert str(count).startswith("10 of 20 rows are invalid: line 0: `text` must be a text; it is a number; line 2:")
    assert str(count).endswith("and 5 more")


def test_rows_of_several_formats_are_refused_whichever_comes_first():
    items = [("line 1", {"text": "a"}), ("line 2", {"prompt": "a", "completion": "b"})]
    for first, second in (items, items[::-1]):
        with pytest.raises(
            ValueError, match=f"{second[0]} holds .*, but {first[0]} holds .*: give rows of one format"
        ):
            list(valid_rows([first, second], RowCount()))


@pytest.mark.parametrize("header", ["text,text", "text,", "text, "])
def test_a_header_must_name_each_field_once(tmp_path, header):
    file = tmp_path / "a.csv"
    file.write_text(f"{header}\na,b\n")
    with pytest.raises(ValueError, match="a.csv has the field '.*' more than once, or without a name"):
        list(csv_rows(file))


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
    for row, found in zip(ROWS, mapped, strict=True):
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
            {"conversations": [{"from": "gpt", "value": "b"}]},
        ]
    )
    kept, count = check_rows(dataset, "the data")
    assert kept[:]["messages"] == [[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]]
    assert [shown.split(":")[0] for shown in count.shown] == [f"row {n} of the data" for n in (0, 2, 3)]
    kept, count = check_rows(dataset, "the data", "toolbench")
    assert len(kept) == 2 and count.shown[1].startswith("row 2 of the data: `conversations`")
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
    assert not count.invalid and all(map(same, kept, rows))
    talk = [each | {"messages": CHAT} for each in rows]
    assert all(map(same, check_rows(Dataset.from_list(talk), "the data")[0], talk))
    plain = Dataset.from_list([{"messages": CHAT}])
    assert check_rows(plain, "the data")[0] is plain
