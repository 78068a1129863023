"""BFCL's questions joined with their answers, as TRL takes them."""

from __future__ import annotations

import json
import shutil

import pytest

from aajr_hf.training.data.formats.bfcl import bfcl_files, bfcl_row, bfcl_rows, json_schema
from aajr_hf.training.data.reading.values import RowError
from aajr_hf.training.data.row_datasets import dataset_of
from aajr_hf.training.data.schema import check_row

from ....support.rows import ANSWER, QUESTION, lines


def row(question=None, answer=None):
    return bfcl_row(QUESTION | (question or {}), [ANSWER] if answer is None else answer)


def arguments(answer: dict) -> dict:
    completion = row(answer=[{"place.find": answer}])["completion"]
    return completion[0]["tool_calls"][0]["function"]["arguments"]


def test_a_question_and_its_answer_make_a_row():
    made = row()
    assert made["id"] == "one" and made["prompt"] == QUESTION["question"][0]
    chosen = {
        "name": "Kyoto",
        "size": 0.95,
        "corners": [1.5, 2],
        "filter": {"type": "city", "near": "Osaka"},
        "tags": [{"key": "a", "value": 1}],
    }
    call = {"type": "function", "function": {"name": "place.find", "arguments": chosen}}
    assert made["completion"] == [{"role": "assistant", "content": "", "tool_calls": [call]}]
    assert json.loads(made["accepted"]) == [ANSWER]
    (tool,) = made["tools"]
    assert tool["type"] == "function" and tool["function"]["description"] == "Find a place."
    assert tool["function"]["parameters"] == {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "size": {"type": "number", "default": 0.95},
            "corners": {"type": "array", "items": {"type": "number"}},
            "filter": {"type": "object", "properties": {"type": {}, "near": {"type": "string"}}},
            "tags": {"type": "array", "items": {"type": "object"}},
        },
        "required": ["name"],
    }
    assert check_row(made) == "prompt and completion as messages"


def test_an_accepted_value_is_chosen_and_what_may_only_be_left_out_is():
    assert arguments({"name": ["", "a"], "size": [""]}) == {"name": "a"}
    assert arguments({"name": ["a"], "filter": [{"type": [""], "near": [""]}]}) == {"name": "a", "filter": {}}
    assert arguments({"name": ["a"], "filter": ["", {}]}) == {"name": "a", "filter": {}}
    assert arguments({"name": ["a"], "size": [0, 1]}) == {"name": "a", "size": 0}
    # An array without any accepted value is the empty one, and that is accepted.
    empty = row(answer=[{"place.find": {"name": ["a"], "tags": []}}])
    assert empty["completion"][0]["tool_calls"][0]["function"]["arguments"] == {"name": "a", "tags": []}
    assert json.loads(empty["accepted"]) == [{"place.find": {"name": ["a"], "tags": [[]]}}]


def test_several_calls_are_several_tool_calls():
    made = row(answer=[{"place.find": {"name": [name]}} for name in "abc"])
    names = [call["function"]["arguments"]["name"] for call in made["completion"][0]["tool_calls"]]
    assert names == ["a", "b", "c"] and len(made["completion"]) == 1


@pytest.mark.parametrize(
    ("question", "answer", "reason"),
    [
        ({"question": []}, None, "has 0 turns"),
        ({"question": QUESTION["question"] * 2}, None, "has 2 turns"),
        ({"question": "a"}, None, "needs `question`, a list"),
        ({"function": None}, None, "needs `function`, a list"),
        ({"function": [{"name": "f"}]}, None, "needs `parameters`, an object"),
        ({"function": [{"parameters": {}}]}, None, "needs `name`, a text"),
        ({"function": QUESTION["function"] * 2}, None, "two tools with the name 'place.find'"),
        ({"function": [{"name": "f", "parameters": {"type": "HashMap"}}]}, None, "of the type 'HashMap'"),
        ({}, [], "without a call"),
        ({}, ["f(x)"], "not a call of one tool"),
        ({}, [{"a": {}, "b": {}}], "not a call of one tool"),
        ({}, [{"search": {"name": ["a"]}}], "calls 'search', which is not offered: place.find"),
        ({}, [{"place.find": {"nme": ["a"]}}], "the unknown argument 'nme'"),
        ({}, [{"place.find": {"name": "a"}}], "list of accepted values for 'name'"),
        ({}, [{"place.find": {"name": []}}], "list of accepted values for 'name'"),
        ({}, [{"place.find": {"name": ["a"], "filter": [{"near": "b"}]}}], "accepted values for 'near'"),
        ({}, [{"place.find": {"size": [1]}}], "without its required name"),
    ],
    ids=str,
)
def test_questions_and_answers_that_do_not_fit(question, answer, reason):
    with pytest.raises(RowError) as error:
        row(question, answer)
    assert reason in str(error.value)


def test_a_schema_is_converted_however_deep_and_its_properties_are_not_its_fields():
    schema = {
        "type": "dict",
        "properties": {"type": {"type": "array", "items": {"type": "tuple"}}, "x": {"enum": [1]}},
    }
    assert json_schema(schema) == {
        "type": "object",
        "properties": {"type": {"type": "array", "items": {"type": "array"}}, "x": {"enum": [1]}},
    }


@pytest.fixture
def folder(tmp_path):
    """Three questions and their answers, in another order."""
    questions = [QUESTION | {"id": name} for name in ("one", "two", "three")]
    answers = [{"id": name, "ground_truth": [ANSWER]} for name in ("three", "one", "two")]
    (tmp_path / "BFCL_x.json").write_text(lines(*questions))
    (tmp_path / "BFCL_x.answers.json").write_text(lines(*answers))
    return tmp_path


def test_questions_are_joined_with_answers_by_id_in_both_layouts(folder):
    (questions,) = bfcl_files(folder)
    beside = list(bfcl_rows(questions))
    assert [(place, found["id"]) for place, found in beside] == [
        ("BFCL_x.json line 1", "one"),
        ("BFCL_x.json line 2", "two"),
        ("BFCL_x.json line 3", "three"),
    ]
    (folder / "possible_answer").mkdir()
    (folder / "BFCL_x.answers.json").rename(folder / "possible_answer" / "BFCL_x.json")
    assert bfcl_files(folder) == bfcl_files(questions) == [questions]
    assert list(bfcl_rows(questions)) == beside


def test_rows_that_cannot_be_joined_are_named_by_file_and_line(folder):
    answer = {"id": "one", "ground_truth": [ANSWER]}
    (folder / "BFCL_x.answers.json").write_text(
        lines(answer, answer, {"id": "four", "ground_truth": []}, "{", {"ground_truth": []}, {"id": "three"})
    )
    (folder / "BFCL_x.json").write_text(lines(QUESTION, "[]", QUESTION, QUESTION | {"id": "two"}, {"id": ""}))
    found = list(bfcl_rows(folder / "BFCL_x.json"))
    wrong = {place: str(value) for place, value in found if isinstance(value, RowError)}
    assert [place for place, value in found if not isinstance(value, RowError)] == ["BFCL_x.json line 1"]
    expected = {
        "BFCL_x.answers.json line 2": "answers 'one' a second time, after BFCL_x.answers.json line 1",
        "BFCL_x.answers.json line 3": "answers 'four', but BFCL_x.json has no such question",
        "BFCL_x.answers.json line 4": "is not JSON",
        "BFCL_x.answers.json line 5": "needs `id`, a text",
        "BFCL_x.answers.json line 6": "needs `ground_truth`, a list",
        "BFCL_x.json line 2": "needs `id`, a text",
        "BFCL_x.json line 3": "has the id 'one' a second time, after BFCL_x.json line 1",
        "BFCL_x.json line 4": "has the id 'two', but",
        "BFCL_x.json line 5": "needs `id`, a text",
    }
    assert wrong.keys() == expected.keys()
    for place, reason in expected.items():
        assert wrong[place].startswith(reason), place


def test_folders_that_hold_no_questions_or_no_answers(folder):
    with pytest.raises(ValueError, match="there is no file or folder .*nowhere"):
        bfcl_files(folder / "nowhere")
    (folder / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no file of questions"):
        bfcl_files(folder / "empty")
    shutil.copy(folder / "BFCL_x.json", folder / "BFCL_y.json")
    with pytest.raises(ValueError, match="no answers to .*BFCL_y.json: put them beside it, as BFCL_y.answers.json"):
        bfcl_files(folder / "BFCL_y.json")
    # Of a folder some of whose files have answers, as upstream's, the others' rows are invalid.
    dataset, count = dataset_of(lambda: (item for file in bfcl_files(folder) for item in bfcl_rows(file)))
    assert len(dataset) == 3 and count.invalid == 3 and "BFCL_y.json line 1" in count.shown[0]


def test_a_value_that_the_schema_forbids_is_not_chosen_where_another_is_accepted():
    question = QUESTION | {"function": [{"name": "f", "parameters": {"type": "dict", "properties": {}}}]}
    question["function"][0]["parameters"]["properties"] = {
        "a": {"type": "string", "enum": ["x"]},
        "b": {"type": "integer"},
        "c": {"type": "integer"},
    }
    accepted = [{"f": {"a": ["", "N/A"], "b": ["1", 1], "c": ["1"]}}]
    chosen = bfcl_row(question, accepted)["completion"][0]["tool_calls"][0]["function"]["arguments"]
    assert chosen == {"b": 1, "c": "1"}
