"""Conversations, and how each format writes them: the tests' own writers and their own reading of a row."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st


@dataclass
class Talk:
    """
    A conversation.

    Attributes:
        system: The system prompt, or None.
        tools: The functions on offer, with JSON Schema.
        turns: Pairs of what a turn is (`user`, `assistant`, `calls`, `result`) and its text, or its calls as pairs of a
            name and arguments.
    """

    system: str | None
    turns: list[tuple[str, Any]]
    tools: list[dict[str, Any]] = field(default_factory=list)

    @property
    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.turns]


def messages(talk: Talk, system: bool = True, result: str = "tool", calls: Callable | None = None) -> list[dict]:
    """The messages of a conversation; `calls` writes the calls of a message."""
    calls = calls or (lambda made: {"tool_calls": [_call(*call) for call in made]})
    roles = {"result": result, "calls": "assistant"}
    first = [{"role": "system", "content": talk.system}] if system and talk.system is not None else []
    return first + [
        {"role": roles.get(kind, kind), "content": "" if kind == "calls" else said}
        | (calls(said) if kind == "calls" else {})
        for kind, said in talk.turns
    ]


def canonical(row: dict[str, Any]) -> dict[str, Any]:
    """
    The messages and the tools of a row in TRL's or OpenAI's format, as they are meant: calls with objects as
    arguments, without identities, and tools as a list.
    """
    said = row["messages"] if "messages" in row else row["prompt"] + row["completion"]
    tools = row.get("tools", row.get("functions", []))
    tools = json.loads(tools) if isinstance(tools, str) else tools
    return {
        "messages": [_canonical(message) for message in said],
        "tools": [tool.get("function", tool) for tool in tools],
    }


def _canonical(message: dict[str, Any]) -> dict[str, Any]:
    calls = message.get("tool_calls", [])
    calls = [*calls, {"function": message["function_call"]}] if "function_call" in message else calls
    made = []
    for call in calls:
        given = call["function"]["arguments"]
        given = json.loads(given) if isinstance(given, str) else given
        made.append(_call(call["function"]["name"], given))
    role = "tool" if message["role"] == "function" else message["role"]
    return {"role": role, "content": message.get("content") or ""} | ({"tool_calls": made} if made else {})


def _call(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def _trl(talk):
    return {"messages": messages(talk)} | ({"tools": _wrapped(talk)} if talk.tools else {})


def _json_texts(talk):
    return {name: json.dumps(value, ensure_ascii=False) for name, value in _trl(talk).items()}


def _pair(talk):
    """Prompt and completion."""
    said = messages(talk)
    first = [message["role"] for message in said].index("assistant")
    row = {"prompt": said[:first], "completion": said[first:]}
    return row | ({"tools": _wrapped(talk)} if talk.tools else {})


def _openai(talk):
    def calls(made):
        functions = [{"name": name, "arguments": json.dumps(given)} for name, given in made]
        return {"tool_calls": [{"id": f"c{n}", "type": "function", "function": f} for n, f in enumerate(functions)]}

    return {"messages": messages(talk, calls=calls)} | ({"tools": _wrapped(talk)} if talk.tools else {})


def _old_openai(talk):
    if any(kind == "calls" and len(said) > 1 for kind, said in talk.turns):
        return None

    def calls(made):
        ((name, given),) = made
        return {"function_call": {"name": name, "arguments": json.dumps(given)}}

    row = {"messages": messages(talk, result="function", calls=calls)}
    return row | ({"functions": talk.tools} if talk.tools else {})


def _turns(talk, user: str, assistant: str, call: str, result: str) -> list[dict[str, str]]:
    names = {"user": user, "assistant": assistant, "calls": call, "result": result}

    def said(kind, value):
        if kind != "calls":
            return value
        made = [{"name": name, "arguments": given} for name, given in value]
        return json.dumps(made[0] if len(made) == 1 else made)

    return [{"from": names[kind], "value": said(kind, value)} for kind, value in talk.turns]


def _sharegpt(talk):
    row = {"conversations": _turns(talk, "human", "gpt", "function_call", "observation")}
    row |= {"system": talk.system or ""}
    return row | ({"tools": json.dumps(talk.tools)} if talk.tools else {})


def _toolbench(talk):
    if "calls" in talk.kinds:
        return None
    first = [] if talk.system is None else [{"from": "system", "value": talk.system}]
    row = {"conversations": first + _turns(talk, "user", "assistant", "", "function")}
    return row | ({"tools": talk.tools} if talk.tools else {})


def _xlam(talk):
    if talk.kinds != ["user", "calls"]:
        return None
    (_, query), (_, calls) = talk.turns
    answers = [{"name": name, "arguments": given} for name, given in calls]
    row = {"query": query, "answers": json.dumps(answers), "tools": json.dumps(talk.tools)}
    return row | ({"system": talk.system} if talk.system is not None else {})


def _alpaca(talk):
    said = [text for _, text in talk.turns]
    if talk.kinds != ["user", "assistant"] * (len(said) // 2):
        return None
    pairs = [list(pair) for pair in zip(said[::2], said[1::2], strict=True)]
    row = {"instruction": pairs[-1][0], "input": "", "output": pairs[-1][1], "history": pairs[:-1]}
    row |= {"system": talk.system or ""}
    return row | ({"tools": talk.tools} if talk.tools else {})


def _wrapped(talk):
    return [{"type": "function", "function": function} for function in talk.tools]


# Name -> the row of a conversation, or None if the format cannot hold it; and the name that `dataset_format` has.
WRITERS: dict[str, tuple[Callable[[Talk], dict[str, Any] | None], str]] = {
    "messages": (_trl, "trl"),
    "prompt and completion": (_pair, "trl"),
    "JSON texts": (_json_texts, "trl"),
    "JSON texts of OpenAI": (lambda talk: {k: json.dumps(v) for k, v in _openai(talk).items()}, "openai"),
    "openai": (_openai, "openai"),
    "old openai": (_old_openai, "openai"),
    "sharegpt": (_sharegpt, "sharegpt"),
    "toolbench": (_toolbench, "toolbench"),
    "xlam": (_xlam, "xlam"),
    "alpaca": (_alpaca, "alpaca"),
}


_TEXTS = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=12).filter(str.strip)
_NAMES = st.sampled_from(["f", "place.find", "é", "type", "arguments"])
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-1e3, 1e3) | _TEXTS,
    lambda parts: st.lists(parts, max_size=2) | st.dictionaries(_TEXTS, parts, max_size=2),
    max_leaves=3,
)
_CALLS = st.lists(st.tuples(_NAMES, st.dictionaries(_TEXTS, _VALUES, max_size=2)), min_size=1, max_size=2)
_PROPERTIES = st.dictionaries(
    _TEXTS, st.fixed_dictionaries({"type": st.sampled_from(["string", "integer"])}), max_size=2
)


@st.composite
def talks(draw) -> Talk:
    """Conversations whose turns alternate, with and without tools."""
    turns: list[tuple[str, Any]] = []
    with_tools = draw(st.booleans())
    for _ in range(draw(st.sampled_from([1, 1, 2, 3]))):
        turns.append(("user", draw(_TEXTS)))
        for _ in range(draw(st.sampled_from([0, 0, 1, 2])) if with_tools else 0):
            turns += [("calls", draw(_CALLS)), ("result", draw(_TEXTS))]
        if turns[-1][0] == "user" or draw(st.booleans()):
            turns.append(
                ("calls", draw(_CALLS)) if with_tools and draw(st.booleans()) else ("assistant", draw(_TEXTS))
            )
    tools = [
        {
            "name": name,
            "description": draw(_TEXTS),
            "parameters": {"type": "object", "properties": draw(_PROPERTIES)},
        }
        for name in (["f", "place.find", "é", "type", "arguments"] if with_tools else [])
    ]
    return Talk(draw(st.none() | _TEXTS), turns, tools)
