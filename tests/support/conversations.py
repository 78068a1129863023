"""Conversations with calls, made by hypothesis in the canonical form, and the same ones as people write them."""

from __future__ import annotations

import json

from hypothesis import strategies as st

# Markup of templates, words of roles, what JSON and Python escape, private-use characters, and words like marks.
WORDS = [
    *("user", "assistant", "tool", "a", "7", "2.50", "None", "true", "zq0x", "zq0x1b", "zq1x", "f", "days"),
    *(
        'he said "no"',
        "it's",
        "back\\slash",
        '{"a": 1}',
        "<b>",
        "</b>",
        "é",
        "日本",
        "\U000f0000",
        "\ue000",
        "\u2028",
        "👍🏽",
    ),
    *("{{ x }}", "%}", "#", "a\nb", "  ", "\t", "<tool_response>", "</tool_response>", "<|x|>"),
]
words = st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(" ".join)
texts = words.filter(str.strip)
names = st.sampled_from(["f", "g", "get_weather", "user", "days"])
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.floats(-1e6, 1e6) | words,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(names, inner, max_size=2),
    max_leaves=3,
)
arguments = st.dictionaries(st.sampled_from(["town", "days", "a", "on", "é"]), values, max_size=3)
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "Does it.",
            "parameters": {"type": "object", "properties": {"town": {"type": "string", "description": "It."}}},
        },
    }
    for name in ("f", "g", "get_weather", "user", "days")
]


@st.composite
def conversations(draw, parallel: bool = True):
    """A canonical row of `messages` and perhaps `tools`."""
    messages, with_tools = [], draw(st.booleans())
    if draw(st.booleans()):
        messages.append({"role": "system", "content": draw(texts)})
    for _ in range(draw(st.integers(1, 2))):
        messages.append({"role": "user", "content": draw(texts)})
        if with_tools and draw(st.booleans()):
            calls = draw(st.lists(st.tuples(names, arguments), min_size=1, max_size=2 if parallel else 1))
            messages.append({"role": "assistant", "content": "", "tool_calls": list(map(made_call, calls))})
            messages += [{"role": "tool", "name": name, "content": draw(texts)} for name, _ in calls]
        messages.append({"role": "assistant", "content": draw(texts)})
    return {"messages": messages} | ({"tools": TOOLS} if with_tools else {})


def made_call(named) -> dict:
    return {"type": "function", "function": {"name": named[0], "arguments": named[1]}}


@st.composite
def as_written(draw, row):
    """The same row as people and their tools write it."""
    written = {"messages": [_message(draw, message) for message in row["messages"]]}
    if "tools" not in row:
        return written | draw(st.sampled_from([{}, {"tools": None}, {"tools": []}, {"tools": "[]"}, {"tools": ""}]))
    bare = [tool["function"] for tool in row["tools"]]
    forms = [{"tools": row["tools"]}, {"tools": bare}, {"tools": json.dumps(bare)}, {"functions": bare}]
    return written | draw(st.sampled_from(forms))


def _message(draw, message):
    written, text = dict(message), message["content"]
    cut = draw(st.integers(0, len(text)))
    parts = [{"type": "text", "text": part, "image_url": None} for part in (text[:cut], text[cut:])]
    written["content"] = draw(st.sampled_from([text, parts]))
    calls = [_call(draw, call["function"]) for call in message.get("tool_calls", [])]
    if calls:
        written["content"] = draw(st.sampled_from(["", None, []]))
        written["tool_calls"] = draw(st.sampled_from([calls, json.dumps(calls)]))
        if len(calls) == 1 and draw(st.booleans()):
            del written["tool_calls"]
            written["function_call"] = calls[0].get("function", calls[0])
        if draw(st.booleans()):
            del written["content"]
    if message["role"] == "tool" and draw(st.booleans()):
        written["role"] = "function"
    if message["role"] == "assistant":
        written |= draw(st.sampled_from([{}, {"weight": 1}, {"weight": None}]))
    return written | draw(st.sampled_from([{}, {"tool_call_id": None, "name": message.get("name")}]))


def _call(draw, function):
    arguments = function["arguments"]
    forms = [arguments, json.dumps(arguments), json.dumps(arguments, indent=1)] + ([] if arguments else ["", None])
    function = {"name": function["name"], "arguments": draw(st.sampled_from(forms))}
    return draw(st.sampled_from([{"type": "function", "function": function}, {"function": function}, function]))
