"""Every rule of a call's validity and of its exactness, on calls written by hand."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aajr_hf.evaluation.tool_calls.judge import Answer, ToolCall, Verdict, as_accepted, judge, matches, read_call
from aajr_hf.evaluation.tool_calls.rows import read_rows, reference_calls
from tests.support.tool_callers import TOOLS, calling, tool


def one(arguments, accepted, name="f") -> bool:
    return matches([ToolCall(name, arguments)], [{"f": accepted}])


RULES = {
    "the accepted value": (True, {"a": 1}, {"a": [1]}),
    "another value": (False, {"a": 2}, {"a": [1]}),
    "any of several values": (True, {"a": "y"}, {"a": ["x", "y"]}),
    "an argument too many": (False, {"a": 1, "b": 2}, {"a": [1]}),
    "an argument too few": (False, {}, {"a": [1]}),
    "left out, as it may be": (True, {}, {"a": ["", 1]}),
    "given, though it may be left out": (True, {"a": 1}, {"a": ["", 1]}),
    "given with another value, though it may be left out": (False, {"a": 2}, {"a": ["", 1]}),
    "no value is accepted": (False, {"a": 1}, {"a": []}),
    "a whole number as a float": (True, {"a": 5.0}, {"a": [5]}),
    "a float as a whole number": (True, {"a": 5}, {"a": [5.0]}),
    "numbers are not rounded": (False, {"a": 5.1}, {"a": [5]}),
    "a number is no text": (False, {"a": 5}, {"a": ["5"]}),
    "a text is no number": (False, {"a": "5"}, {"a": [5]}),
    "true is not 1": (False, {"a": True}, {"a": [1]}),
    "1 is not true": (False, {"a": 1}, {"a": [True]}),
    "true is true": (True, {"a": True}, {"a": [True]}),
    "false is not 0": (False, {"a": False}, {"a": [0]}),
    "null is null": (True, {"a": None}, {"a": [None]}),
    "null is not false": (False, {"a": None}, {"a": [False]}),
    "case": (True, {"a": "New York"}, {"a": ["new york"]}),
    "spaces": (True, {"a": "April1"}, {"a": ["April 1"]}),
    "punctuation": (True, {"a": "a,b.c/d-e_f*g^h"}, {"a": ["ABCDEFGH"]}),
    "quotes": (True, {"a": "it's"}, {"a": ['it"s']}),
    "other characters count": (False, {"a": "a:b"}, {"a": ["ab"]}),
    "letters count": (False, {"a": "Rome"}, {"a": ["Roma"]}),
    "a list": (True, {"a": [1, 2]}, {"a": [[1, 2]]}),
    "a list in another order": (False, {"a": [2, 1]}, {"a": [[1, 2]]}),
    "a longer list": (False, {"a": [1, 2, 3]}, {"a": [[1, 2]]}),
    "an empty list": (True, {"a": []}, {"a": [[]]}),
    "texts in a list": (True, {"a": ["A b"]}, {"a": [["ab"]]}),
    "texts in lists in a list": (True, {"a": [["A b"], [2.0]]}, {"a": [[["ab"], [2]]]}),
    "a list is not its element": (False, {"a": [1]}, {"a": [1]}),
    "an object": (True, {"a": {"x": 1}}, {"a": [{"x": [1, 2]}]}),
    "an object with another value": (False, {"a": {"x": 3}}, {"a": [{"x": [1, 2]}]}),
    "an object with a key too many": (False, {"a": {"x": 1, "y": 1}}, {"a": [{"x": [1]}]}),
    "an object with a key left out, as it may be": (True, {"a": {"x": 1}}, {"a": [{"x": [1], "y": ["", 2]}]}),
    "an object with a key too few": (False, {"a": {}}, {"a": [{"x": [1]}]}),
    "any of several objects": (True, {"a": {"y": 1}}, {"a": [{"x": [1]}, {"y": [1]}]}),
    "values of two objects mixed": (
        False,
        {"a": {"x": 1, "y": 2}},
        {"a": [{"x": [1], "y": [1]}, {"x": [2], "y": [2]}]},
    ),
    "objects in a list": (True, {"a": [{"x": "B"}, {"x": 2}]}, {"a": [[{"x": ["b"]}, {"x": [2]}]]}),
    "objects in a list in another order": (False, {"a": [{"x": 2}, {"x": 1}]}, {"a": [[{"x": [1]}, {"x": [2]}]]}),
    "no arguments": (True, {}, {}),
}


@pytest.mark.parametrize(("expected", "arguments", "accepted"), RULES.values(), ids=RULES)
def test_a_rule_of_exactness(expected, arguments, accepted):
    assert one(arguments, accepted) is expected


def test_the_name_counts_to_the_letter():
    assert one({}, {}, "f") and not one({}, {}, "F") and not one({}, {}, "f.")


def test_calls_come_in_any_order_and_in_the_right_number():
    a, b = ToolCall("f", {"x": 1}), ToolCall("g", {})
    accepted = [{"f": {"x": [1]}}, {"g": {}}]
    assert matches([a, b], accepted) and matches([b, a], accepted)
    assert not matches([a], accepted) and not matches([a, b, b], accepted) and not matches([a, a], accepted)
    assert matches([], []) and not matches([a], [])


def test_the_first_that_fits_is_not_always_the_right_one():
    calls = [ToolCall("f", {"x": 1}), ToolCall("f", {"x": 2})]
    assert matches(calls, [{"f": {"x": [1, 2]}}, {"f": {"x": [1]}}])
    assert not matches(calls, [{"f": {"x": [1, 2]}}, {"f": {"x": [3]}}])


@given(st.lists(st.lists(st.integers(0, 3), max_size=4), max_size=4), st.lists(st.integers(0, 3), max_size=4))
def test_a_matching_is_found_where_there_is_one(accepted, values):
    """By trying all orders; taking the first that fits would miss some."""
    calls = [ToolCall("f", {"x": value}) for value in values]
    possible = len(values) == len(accepted) and any(
        all(value in wanted for value, wanted in zip(values, order, strict=True))
        for order in itertools.permutations(accepted)
    )
    assert matches(calls, [{"f": {"x": wanted}} for wanted in accepted]) == possible


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.slow
@given(st.lists(st.dictionaries(st.text(), JSON_VALUES, max_size=3), max_size=3))
def test_calls_are_accepted_where_they_are_what_is_accepted(arguments):
    calls = [ToolCall("f", each) for each in arguments]
    assert matches(calls, as_accepted(calls)) and matches(calls[::-1], as_accepted(calls))


def test_of_its_own_calls_a_row_accepts_no_others():
    (row,) = read_rows([calling("?", TOOLS, [("dim", {"room": "den", "level": 3})])])
    assert matches([ToolCall("dim", {"room": "Den", "level": 3.0})], row["accepted"])
    assert not matches([ToolCall("dim", {"room": "den"})], row["accepted"])


def verdict(calls, tools=TOOLS, accepted=None, failure=None):
    row = calling("?", tools, [("dim", {"room": "den"})], accepted)
    return judge(Answer([ToolCall(*call) for call in calls], failure), *read_rows([row]))


NESTED = tool("plan", ["stops"], stops={"type": "array", "items": {"$ref": "#/$defs/stop"}})
NESTED["function"]["parameters"]["$defs"] = {"stop": {"type": "object", "required": ["at"]}}
VALIDITY = {
    "fits": (None, [("dim", {"room": "den", "level": 3})], TOOLS),
    "an argument may be missing": (None, [("dim", {"room": "den"})], TOOLS),
    "a float that is whole is an integer": (None, [("dim", {"room": "den", "level": 3.0})], TOOLS),
    "an argument must not be missing": ("schema", [("dim", {"level": 3})], TOOLS),
    "another type": ("schema", [("dim", {"room": "den", "level": "3"})], TOOLS),
    "true is no integer": ("schema", [("dim", {"room": "den", "level": True})], TOOLS),
    "an unknown tool": ("unknown_tool", [("dimm", {"room": "den"})], TOOLS),
    "the second call counts, too": ("schema", [("dim", {"room": "den"}), ("heat", {})], TOOLS),
    "an unknown tool before a wrong argument": ("unknown_tool", [("dim", {}), ("g", {})], TOOLS),
    "no tool is offered": ("unknown_tool", [("dim", {"room": "den"})], []),
    "references within the schema": (None, [("plan", {"stops": [{"at": 1}]})], [NESTED]),
    "references within the schema, broken": ("schema", [("plan", {"stops": [{}]})], [NESTED]),
    "not one of the values": ("schema", [("f", {"x": "c"})], [tool("f", x={"enum": ["a", "b"]})]),
    "no parameters are described": (None, [("f", {"x": 1})], [{"name": "f"}]),
}


@pytest.mark.parametrize(("failure", "calls", "tools"), VALIDITY.values(), ids=VALIDITY)
def test_a_rule_of_validity(failure, calls, tools):
    assert verdict(calls, tools).failure == failure


def test_validity_and_exactness_are_independent():
    assert verdict([("dim", {"room": "den"})]) == Verdict(None, True)
    assert verdict([("dim", {"room": "hall"})]) == Verdict(None, False)
    assert verdict([("dim", {"level": 3})], accepted=[{"dim": {"level": [3]}}]) == Verdict("schema", True)
    for failure in ("no_call", "unparsable", "unfinished"):
        assert verdict([], failure=failure) == Verdict(failure, False)


def test_where_nothing_is_to_be_called_silence_is_right():
    row = {"prompt": [{"role": "user", "content": "hi"}], "completion": [{"role": "assistant", "content": "Hello."}]}
    silent = read_rows([row | {"tools": TOOLS}, calling("?", TOOLS, [("dim", {"room": "den"})])])[0]
    assert judge(Answer([], "no_call"), silent) == Verdict(None, True)
    assert judge(Answer([ToolCall("dim", {"room": "den"})]), silent) == Verdict(None, False)
    assert judge(Answer([], "unparsable"), silent) == Verdict("unparsable", False)


def test_nothing_is_fetched_for_a_schema(monkeypatch):
    fetched = []
    monkeypatch.setattr("urllib.request.urlopen", lambda request, *_, **__: fetched.append(request))
    elsewhere = tool("f", x={"$ref": "http://127.0.0.1:9/schema.json"})
    with pytest.raises(ValueError, match="schema of the tool 'f' refers to a definition that it does not contain"):
        verdict([("f", {"x": 1})], [elsewhere])
    assert not fetched


@pytest.mark.parametrize(
    "value",
    [
        {"name": "f", "arguments": {"x": 1}},
        {"name": "f", "parameters": {"x": 1}},
        {"name": "f", "arguments": '{"x": 1}'},
        {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}},
        {"id": "1", "function": {"name": "f", "arguments": '{"x": 1}'}},
    ],
    ids=json.dumps,
)
def test_a_call_is_read_however_it_is_written(value):
    assert read_call(value) == ("f", {"x": 1})


def test_a_call_may_have_no_arguments():
    assert read_call({"name": "f"}) == read_call({"name": "f", "arguments": None}) == ("f", {})


@pytest.mark.parametrize(
    "value",
    [
        None,
        3,
        "f",
        [],
        {},
        {"name": 3},
        {"name": "f", "arguments": [1]},
        {"name": "f", "arguments": "x"},
        {"function": "f"},
    ],
    ids=json.dumps,
)
def test_what_is_no_call_is_refused(value):
    with pytest.raises(ValueError):
        read_call(value)


@pytest.mark.parametrize("text", ["", "{", "NaN", "-Infinity", "[" * 100_000, "{'a': 1}", "1 2"], ids=lambda t: t[:9])
def test_arguments_that_are_no_json_are_refused(text):
    with pytest.raises(ValueError, match="the arguments must be JSON"):
        read_call({"name": "f", "arguments": text})


def test_columns_are_read_from_objects_and_from_their_texts():
    row = calling("?", TOOLS, [("dim", {"room": "den"})], [{"dim": {"room": ["den"]}}])
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in row.items()}
    objects = {name: json.loads(value) for name, value in texts.items()}
    assert read_rows([texts]) == read_rows([objects]) == read_rows([row])
    assert reference_calls(read_rows([row])[0]["completion"]) == [("dim", {"room": "den"})]


def test_what_a_table_leaves_null_is_no_field_of_a_message():
    row = calling("?", TOOLS, [("dim", {"room": "den"})])
    row["prompt"] = [{"role": "user", "content": "?", "tool_calls": None, "name": None}]
    assert read_rows([row])[0]["prompt"] == [{"role": "user", "content": "?"}]


def test_a_conversation_is_asked_for_its_last_calls():
    row = calling("?", TOOLS, [("dim", {"room": "den"})])
    (asked,), (called,) = row.pop("prompt"), row.pop("completion")
    said = {"role": "assistant", "content": "Done."}
    other = called | {"tool_calls": [{"function": {"name": "heat", "arguments": '{"room": "den", "degrees": 1}'}}]}
    result = {"role": "tool", "content": "{}"}
    conversations = [[asked, called, result, other, result, said], [asked, called, result, said], [asked, said]]
    first, second, third = read_rows([row | {"messages": messages} for messages in conversations])
    assert first["prompt"] == [asked, called, result] and first["tools"] == TOOLS
    assert reference_calls(first["completion"]) == [("heat", {"room": "den", "degrees": 1})]
    assert first["accepted"] == [{"heat": {"room": ["den"], "degrees": [1]}}]
    assert (second["prompt"], second["completion"]) == ([asked], [called])
    assert (third["prompt"], third["completion"], third["accepted"]) == ([asked], [said], [])


GOOD = calling("?", TOOLS, [("dim", {"room": "den"})])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "There are no rows"),
        (
            [{"prompt": [{"role": "user", "content": "?"}], "completion": [{"role": "assistant", "content": "!"}]}],
            "No row calls a tool: give data with a column `tools` and messages with `tool_calls`",
        ),
        ([GOOD, {}], "^Row 1: `prompt` must be a list of messages with `role` and `content`; it is missing.$"),
        ([GOOD | {"prompt": "[{"}], "^Row 0: `prompt` must be a list of messages"),
        (
            [GOOD | {"completion": [{"role": "assistant", "tool_calls": [{"name": 1}]}]}],
            "^Row 0: `completion`.0. has `tool_calls` without the `name`",
        ),
        ([{"messages": GOOD["completion"]}], "Row 0: `messages` must have an assistant turn after another message"),
        ([GOOD | {"tools": [{"description": "?"}]}], "Row 0: `tools` has a schema without a `name`"),
        ([GOOD | {"tools": "{}"}], "Row 0: `tools` must be a list of schemas"),
        (
            [GOOD | {"tools": [tool("f", x={"type": "dict"})]}],
            "Row 0: `tools`: the parameters of 'f' .* properties/x/type",
        ),
        ([GOOD | {"accepted": [{"dim": {"room": "den"}}]}], "Row 0: `accepted` must be a list of"),
        ([GOOD | {"accepted": [{"a": {}, "b": {}}]}], "Row 0: `accepted` must be a list of"),
        ([GOOD | {"accepted": [{"dim": {"room": [{"x": 1}]}}]}], "Row 0: `accepted` must be a list of"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_a_row_that_cannot_be_used_is_named(rows, message):
    with pytest.raises(ValueError, match=message):
        read_rows(rows)


def test_a_row_is_named_by_its_number_where_it_comes_from():
    with pytest.raises(ValueError, match="Row 70: `prompt`"):
        read_rows([GOOD, {}], [7, 70])
