"""Conversations of `from` and `value`."""

from __future__ import annotations

import json

import pytest

from aajr_hf.training.data.canonical import canonical_row
from aajr_hf.training.data.formats.sharegpt import sharegpt_row
from aajr_hf.training.data.reading.values import RowError
from aajr_hf.training.data.schema import check_row

CONVERSATION = [
    {"from": "system", "value": "You can use tools."},
    {"from": "user", "value": "Weather in Kyoto?"},
    {"from": "assistant", "value": "Action: weather\nAction Input: {}"},
    {"from": "function", "value": '{"rain": 0.95}'},
    {"from": "assistant", "value": "It rains."},
]
CALL = {"name": "f", "arguments": {"a": 0.95}}


def test_a_conversation_has_roles_that_templates_know():
    made = sharegpt_row({"id": "a", "conversations": CONVERSATION})
    assert made["id"] == "a" and set(made) == {"id", "messages"}
    assert [message["role"] for message in made["messages"]] == ["system", "user", "assistant", "tool", "assistant"]
    assert [message["content"] for message in made["messages"]] == [turn["value"] for turn in CONVERSATION]
    assert check_row(made) == "messages"


@pytest.mark.parametrize(
    ("value", "calls"),
    [
        (json.dumps(CALL), [CALL]),
        (json.dumps([CALL, CALL | {"name": "g"}]), [CALL, CALL | {"name": "g"}]),
        (CALL, [CALL]),
        (json.dumps(CALL | {"arguments": json.dumps(CALL["arguments"])}), [CALL]),
        ('{"name": "f", "arguments": ""}', [CALL | {"arguments": {}}]),
        ('{"name": "f"}', [CALL | {"arguments": {}}]),
    ],
    ids=str,
)
def test_a_turn_function_call_is_a_message_with_calls(value, calls):
    made = sharegpt_row({"conversations": [{"from": "function_call", "value": value, "weight": 0}]})
    tool_calls = [{"type": "function", "function": call} for call in calls]
    assert made["messages"] == [{"role": "assistant", "content": "", "tool_calls": tool_calls, "weight": 0}]


@pytest.mark.parametrize(
    ("turn", "reason"),
    [
        ({"from": "oracle", "value": "a"}, "`conversations`[0] must have `from`, one of"),
        ({"from": "user"}, "`conversations`[0] must have"),
        ({"from": "user", "value": {"a": 1}}, "`conversations`[0] must have"),
        ("a", "`conversations`[0] must have"),
        ({"from": "user", "value": "a", "content": "b"}, "has both `value` and `content`"),
        ({"from": "function_call", "value": "f(x)"}, "`conversations`[0] must be JSON"),
        ({"from": "function_call", "value": "[]"}, "`conversations`[0] must be a call"),
        ({"from": "function_call", "value": '{"arguments": {}}'}, "has a call without a `name`"),
        ({"from": "function_call", "value": '{"name": "f", "arguments": [1]}'}, "`arguments` must be an object"),
        ({"from": "function_call", "value": '{"name": "f", "arguments": "x"}'}, "the arguments of f in"),
        ({"from": "function_call", "value": '{"name": "f", "parameters": {}}'}, "a call with the field 'parameters'"),
        ({"from": "function_call", "value": '{"name": "f", "arguments": {"a": 1e999}}'}, "1e999 is too large"),
    ],
    ids=str,
)
def test_turns_that_are_none(turn, reason):
    with pytest.raises(RowError) as error:
        sharegpt_row({"conversations": [turn]})
    assert reason in str(error.value)


@pytest.mark.parametrize("tools", ["f", "{}", '["f"]', [{"description": "a"}], '[{"function": {}}]'])
def test_tools_that_are_none(tools):
    with pytest.raises(RowError, match="`tools` (must be|has a schema without)"):
        canonical_row(sharegpt_row({"conversations": CONVERSATION, "tools": tools}))


def test_turns_may_be_messages_already_and_columns_of_tables_have_nulls():
    said = {"role": "assistant", "content": "b", "from": None, "value": None}
    made = sharegpt_row({"conversations": [{"from": "human", "value": "a", "role": None, "content": None}, said]})
    assert made["messages"] == [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    mixed = [{"role": "user", "value": "a"}, {"from": "gpt", "content": "b"}]
    assert sharegpt_row({"conversations": mixed})["messages"] == made["messages"]
