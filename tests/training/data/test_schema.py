"""What a row must hold: every format of TRL's is taken, and what it would fail on later is refused with the reason."""

from __future__ import annotations

import json

import pytest

from aajr_hf.training.data.canonical import canonical_row
from aajr_hf.training.data.roles import OBSERVED_ROLES
from aajr_hf.training.data.schema import check_row
from aajr_hf.training.data.tool_schema import RowError, as_tools, offered_tools

USER = {"role": "user", "content": "a"}
ANSWER = {"role": "assistant", "content": "b"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}


def calls(name="f", arguments=None, **more):
    call = {"type": "function", "function": {"name": name, "arguments": {} if arguments is None else arguments}}
    return {"role": "assistant", "tool_calls": [call], **more}


SOUND = [
    ({"text": "a"}, "text"),
    ({"input_ids": [1, 2]}, "tokens"),
    ({"prompt": "a", "completion": "b"}, "prompt and completion as texts"),
    ({"prompt": [USER], "completion": [ANSWER], "text": None}, "prompt and completion as messages"),
    ({"messages": [USER, ANSWER, {"role": "tool", "content": "c"}, ANSWER]}, "messages"),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}, ANSWER]}, "messages"),
    ({"messages": [{"role": role, "content": "a"} for role in OBSERVED_ROLES["observation"]] + [ANSWER]}, "messages"),
    ({"messages": [USER, ANSWER], "chat_template_kwargs": {"enable_thinking": False}}, "messages"),
    ({"input_ids": [1, 2], "labels": [-100, 2]}, "tokens and `labels`"),
    ({"prompt": [USER], "completion": [calls()], "tools": [TOOL]}, "prompt and completion as messages"),
    (
        {"prompt": [USER], "completion": [calls(content="")], "tools": json.dumps([TOOL])},
        "prompt and completion as messages",
    ),
    ({"messages": [USER, calls(arguments='{"x": 1}', content=None)], "tools": None}, "messages"),
    ({"messages": [USER, {"role": "assistant", "tool_calls": [{"name": "g", "arguments": {}}]}]}, "messages"),
]
MALFORMED = [
    (5, "is a number, not an object"),
    ({"question": "a"}, "has the fields question: examples need `prompt` and `completion`"),
    ({}, "has the fields (none)"),
    ({"prompt": "a"}, "has the fields prompt"),
    ({"prompt": "a", "completion": None}, "has the fields prompt, completion"),
    ({"text": 5}, "`text` must be a text; it is a number"),
    ({"text": ""}, "`text` is empty"),
    ({"id": "a", "ground_truth": []}, "has the fields id, ground_truth: set `dataset_format` to bfcl"),
    ({"question": [], "function": []}, "set `dataset_format` to bfcl"),
    ({"input_ids": "12"}, "`input_ids` must be"),
    ({"input_ids": [1, None]}, "`input_ids` must be"),
    ({"input_ids": [1, 2], "labels": [1, 2.5]}, "`labels` must be a list of whole numbers"),
    ({"input_ids": [1, 2], "labels": [1]}, "`labels` has 1 entries, and `input_ids` 2"),
    *(
        ({"input_ids": [1, 2], name: [1]}, f"`{name}` has 1 entries, and `input_ids` 2")
        for name in ("completion_mask", "assistant_masks", "observation_mask")
    ),
    ({"messages": [USER, ANSWER], "chat_template_kwargs": "a"}, "`chat_template_kwargs` must be an object"),
    ({"messages": [USER]}, "has no turn of the assistant with a text or a call"),
    ({"messages": [USER, {"role": "assistant", "content": " "}]}, "has no turn of the assistant with a text"),
    ({"messages": [USER, calls() | {"tool_calls": calls()["tool_calls"][0]}]}, "must have a list of calls"),
    ({"prompt": "a", "completion": " "}, "`completion` is empty"),
    ({"prompt": [USER], "completion": [{"role": "assistant", "content": ""}]}, "`completion` is empty"),
    ({"prompt": [USER], "completion": []}, "`completion` must be a list of messages"),
    ({"prompt": [USER], "completion": "b"}, "must be two texts, or two lists of messages"),
    ({"prompt": 1, "completion": 2}, "must be two texts"),
    ({"prompt": [USER], "completion": [USER]}, "must begin with the role 'assistant'; it has 'user'"),
    ({"messages": "a"}, "`messages` must be a list of messages"),
    ({"messages": [USER, "b"]}, "`messages`[1] must be a message"),
    ({"messages": [{"content": "a"}]}, "`messages`[0] must be a message"),
    ({"messages": [{"role": "gpt", "content": "a"}]}, "has the role 'gpt', which is none of"),
    ({"messages": [{"role": "user"}]}, "`messages`[0] must have a text as its `content`; it has missing"),
    ({"messages": [{"role": "user", "content": 5}]}, "a number"),
    ({"messages": [USER, {"role": "assistant", "tool_calls": ["f"]}]}, "without the `name` of a `function`"),
    ({"messages": [USER, calls(name=None)]}, "without the `name` of a `function`"),
    ({"messages": [USER, calls(arguments="{")]}, "the arguments of f in `messages`[1] must be JSON"),
    ({"messages": [USER, calls(arguments=[1])]}, "`arguments` must be an object"),
    ({"prompt": [USER], "completion": [calls("g")], "tools": [TOOL]}, "calls the tool 'g', which is not offered: f"),
    ({"messages": [USER], "tools": "["}, "`tools` must be JSON"),
    ({"messages": [USER], "tools": {"a": 1}}, "`tools` must be a list of schemas"),
    ({"messages": [USER], "tools": [{"type": "function"}]}, "`tools` has a schema without a `name`"),
]


@pytest.mark.parametrize(("row", "kind"), SOUND, ids=str)
def test_every_format_of_trl_is_taken(row, kind):
    assert check_row(canonical_row(row)) == kind


@pytest.mark.parametrize(("row", "reason"), MALFORMED, ids=str)
def test_what_cannot_be_trained_on_is_refused_with_the_reason(row, reason):
    with pytest.raises(RowError) as error:
        check_row(canonical_row(row) if isinstance(row, dict) else row)
    assert reason in str(error.value)


def test_the_field_of_texts_can_have_another_name():
    assert check_row({"story": "a"}, text_field="story") == "text"
    with pytest.raises(RowError, match="or `story`"):
        check_row({"text": "a"}, text_field="story")


def test_tools_are_known_by_their_names():
    assert offered_tools([TOOL, {"name": "g"}]) == {"f", "g"}
    assert offered_tools(None) is offered_tools([]) is offered_tools("[]") is None
    assert as_tools(json.dumps([TOOL])) == as_tools([TOOL]) == [TOOL] and as_tools("[]") == []
