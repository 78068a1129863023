"""Rows of JSON files, each with its line or its error, however the file is laid out, encoded and compressed."""

from __future__ import annotations

import codecs
import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aajr_hf.training.data.reading.json_files import json_rows
from aajr_hf.training.data.reading.values import RowError, parsed
from aajr_hf.training.data.row_datasets import dataset_of


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
        assert not list(json_rows(file))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(st.text(max_size=5), parts, max_size=3),
    max_leaves=5,
)
ROWS = st.lists(st.dictionaries(st.sampled_from(["a", "b", "messages"]), VALUES, min_size=1), min_size=2, max_size=4)
LAYOUTS = {
    "lines": lambda rows: "\n".join(map(json.dumps, rows)),
    "lines of Windows": lambda rows: "\r\n\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\r\n",
    "a list": json.dumps,
    "an indented list": lambda rows: json.dumps(rows, indent=1, ensure_ascii=False),
    "indented objects": lambda rows: "\n".join(json.dumps(row, indent=4) for row in rows),
    "an object": lambda rows: json.dumps({"version": 1, "data": rows}),
    "an indented object": lambda rows: json.dumps({"data": rows, "license": ["a"]}, indent=2),
}
MARKS = {"utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE, "utf-32-le": codecs.BOM_UTF32_LE}


@pytest.mark.slow
@given(
    ROWS,
    st.sampled_from(list(LAYOUTS)),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"]),
    st.booleans(),
    st.booleans(),
)
def test_the_same_rows_are_read_from_every_file(tmp_path_factory, rows, layout, encoding, marked, compressed):
    text = LAYOUTS[layout](rows)
    try:
        data = (MARKS.get(encoding, b"") if marked else b"") + text.encode(encoding)
    except UnicodeEncodeError:  # half a character is no text of a file
        return
    file = tmp_path_factory.getbasetemp() / "rows.jsonl"
    file.write_bytes(gzip.compress(data, 1) if compressed else data)
    assert json.dumps([row for _, row in json_rows(file)]) == json.dumps(rows)


def test_an_only_object_is_a_row_or_holds_the_rows(tmp_path):
    file = tmp_path / "a.json"
    for row in ({"messages": [{"role": "user"}]}, {"text": "a"}, {"tools": [{}], "prompt": "a"}, {"data": "a"}):
        for indent in (None, 2):
            file.write_text(json.dumps(row, indent=indent))
            assert list(json_rows(file)) == [("a.json line 1", row)]
    unread: dict[str, str] = {}
    file.write_text(json.dumps({"version": 1, "rows": [{"text": "a"}, {"text": "b"}]}))
    assert list(json_rows(file, unread)) == [("a.json rows[0]", {"text": "a"}), ("a.json rows[1]", {"text": "b"})]
    assert unread == {"version": "a.json line 1"}
    file.write_text(json.dumps({"data": []}))
    assert not list(json_rows(file))
    file.write_text(json.dumps({"train": [{"text": "a"}], "test": [{"text": "b"}]}))
    with pytest.raises(ValueError, match=r"several lists \(train, test\): give each its own file"):
        list(json_rows(file))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("1e999", "1e999 is too large for a number"),
        ("-1e400", "-1e400 is too large for a number"),
        ("NaN", "NaN is not a JSON value"),
        ("-Infinity", "-Infinity is not a JSON value"),
        ('{"b": 1, "c": 2, "b": 1}', "the key 'b' stands twice in one object"),
    ],
)
def test_what_a_parser_would_change_is_refused(tmp_path, value, reason):
    file = tmp_path / "a.jsonl"
    file.write_text(f'{{"a": {value}}}\n{{"a": 1e300}}\n')
    assert places(json_rows(file)) == [
        ("a.jsonl line 1", f"is not JSON: {reason}"),
        ("a.jsonl line 2", {"a": 1e300}),
    ]
    with pytest.raises(RowError, match=f"`tools` must be JSON: {reason}"):
        parsed("`tools`", value)


def test_files_that_are_cut_off_are_one_sentence(tmp_path):
    rows = [{"text": f"row {n}" * 20} for n in range(3)]
    file = tmp_path / "a.jsonl.gz"
    for damaged in (gzip.compress(json.dumps(rows).encode())[:-20], b"\x1f\x8bno"):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match="a.jsonl.gz is a gzip file that is cut off or damaged"):
            list(json_rows(file))
    file = tmp_path / "a.json"
    file.write_bytes(json.dumps(rows).encode("utf-16")[:-1])
    with pytest.raises(ValueError, match="a.json is not valid UTF-16.*: save it as UTF-8"):
        list(json_rows(file))
    for text in (json.dumps(rows[0], indent=1)[:-2], json.dumps({"data": rows}, indent=1)[:-9]):
        file.write_text(text)
        with pytest.raises(ValueError, match="a.json cannot be read as JSON, neither line by line nor as a whole"):
            list(json_rows(file))
    file.write_text(json.dumps(rows, indent=1) + "\n{}")
    with pytest.raises(ValueError, match="something follows the list"):
        list(json_rows(file))


def test_one_broken_line_is_one_invalid_row_wherever_it_stands(tmp_path):
    lines = [json.dumps({"text": str(n)}) for n in range(3)]
    file = tmp_path / "a.jsonl"
    for broken in range(3):
        for text in ('{"text": "a"', '{"text": }', "text"):
            file.write_text("\n".join(text if n == broken else line for n, line in enumerate(lines)))
            read = places(json_rows(file))
            assert [place for place, _ in read] == [f"a.jsonl line {n}" for n in (1, 2, 3)]
            wrong = [n for n, (_, row) in enumerate(read) if str(row).startswith("is not JSON")]
            assert wrong == [broken]
