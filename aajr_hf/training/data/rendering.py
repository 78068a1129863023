"""Where the parts of a row stand in the text that a chat template writes: the parts are marked, and the marks are found."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Messages = list[dict[str, Any]]
# From messages and tools to text.
Render = Callable[[Messages, list[dict[str, Any]] | None], str]

# Tags at the ends of a text, which some templates look at: the marks stand inside them.
_FIRST_TAGS, _LAST_TAGS = re.compile(r"\s*(?:<[^<>\s]{1,40}>\s*)+"), re.compile(r"(?:<[^<>\s]{1,40}>\s*)+$")
_THINK = re.compile(r"(</?think>)")


@dataclass
class Part:
    """
    A part of a row that must stand in the text.

    Attributes:
        message: Number of its message; -1 for a tool.
        call: Number of its call in the message, or None.
        field: The field that holds it, for error messages.
        text: What it says.
        is_reasoning: Whether it is a thought before the answer, which templates leave out of earlier turns.
        span: Where it stands in the text, `(begin, end)`; None if it is not there.
    """

    message: int
    call: int | None
    field: str
    text: str
    is_reasoning: bool = False
    span: tuple[int, int] | None = None


@dataclass
class Rendering:
    """
    A rendered row.

    Attributes:
        text: The text that the template writes.
        parts: The parts of the row, in the row's order, the tools first.
        values: Values in the calls' arguments that are no texts, each with the numbers of its message and call, and
            its key.
    """

    text: str
    parts: list[Part] = field(default_factory=list)
    values: list[tuple[int, int, str, Any]] = field(default_factory=list)

    def of_message(self, message: int, call: int | None = None) -> list[Part]:
        """The parts of a message, or of one of its calls, that stand in the text."""
        return [
            part
            for part in self.parts
            if part.span and part.message == message and (call is None or part.call == call)
        ]


class _Marks:
    """
    Puts marks around texts. The marks are letters and digits, which no template escapes, and the row has none of them.
    """

    def __init__(self, rendering: Rendering, row: str):
        self.rendering = rendering
        number = next(n for n in range(len(row)) if f"zq{n}x" not in row)
        self.nonce = f"zq{number}x"

    def mark(self, text: str, *place, **more) -> str:
        """Mark a text without the white space around it."""
        core = text.strip()
        if not core:
            return text
        index = len(self.rendering.parts)
        self.rendering.parts.append(Part(*place, core, **more))
        return text.replace(core, f"{self.nonce}{index}b{core}{self.nonce}{index}e", 1)

    def find(self, marked: str) -> str:
        """Find the parts in a marked text, and return the text without marks."""
        plain, length, last = [], 0, 0
        begins: dict[int, int] = {}
        for found in re.finditer(rf"{self.nonce}(\d+)([be])", marked):
            plain.append(marked[last : found.start()])
            length, last = length + len(plain[-1]), found.end()
            part = self.rendering.parts[int(found[1])]
            if part.span is not None:
                continue
            if found[2] == "b":  # the last one before the end: templates may write the begin of a name before the name
                begins[int(found[1])] = length
            elif int(found[1]) in begins:
                part.span = (begins[int(found[1])], length)
        return "".join([*plain, marked[last:]])


def rendering_of(render: Render, messages: Messages, tools: list[dict[str, Any]] | None = None) -> Rendering:
    """
    Render canonical messages and find their parts. They are rendered a second time with marks around the parts, which
    shows where each stands even if the same words are elsewhere in the text. If the marks change what the template
    writes, the parts are searched for in their order.
    """
    rendering = Rendering(render(messages, tools))
    marks = _Marks(rendering, rendering.text + json.dumps([messages, tools], ensure_ascii=False))
    marked_tools = tools and [_marked_tool(marks, index, tool) for index, tool in enumerate(tools)]
    try:
        found = marks.find(render(_marked(marks, messages), marked_tools))
    except ValueError:  # the template refuses the marks
        found = None
    if found != rendering.text:
        _search(rendering)
    for part in rendering.parts:
        if part.span and rendering.text[slice(*part.span)].strip() not in written(part.text):
            part.span = None
    return rendering


def written(text: str) -> set[str]:
    """The ways in which a template can write a text: as it is, or inside a JSON text or Python's notation."""
    quoted = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n").replace("\r", "\\r")
    return {text, repr(text)[1:-1], quoted} | {json.dumps(text, ensure_ascii=ascii)[1:-1] for ascii in (True, False)}


def _marked_tool(marks: _Marks, index: int, tool: dict[str, Any]) -> dict[str, Any]:
    function = tool["function"]
    name = marks.mark(function["name"], -1, None, f"name of `tools`[{index}]")
    return tool | {"function": function | {"name": name}}


def _marked(marks: _Marks, messages: Messages) -> Messages:
    result, called = [], {}
    for number, message in enumerate(messages):
        marked = dict(message)
        if "reasoning_content" in message:
            thought = message["reasoning_content"]
            marked["reasoning_content"] = marks.mark(thought, number, None, "`reasoning_content`", is_reasoning=True)
        if message["role"] == "tool" and message.get("name") in called:
            marked["name"] = called[message["name"]]  # says no more than the call, and need not be written again
        elif "name" in message:
            marked["name"] = marks.mark(message["name"], number, None, "`name`")
        marked["content"] = _marked_content(marks, number, message)
        if message.get("tool_calls"):
            marked["tool_calls"] = [
                _marked_call(marks, number, index, call) for index, call in enumerate(message["tool_calls"])
            ]
            for call, as_marked in zip(message["tool_calls"], marked["tool_calls"], strict=True):
                called[call["function"]["name"]] = as_marked["function"]["name"]
        result.append(marked)
    return result


def _marked_content(marks: _Marks, number: int, message: dict[str, Any]) -> str:
    content, field = message["content"], "`content`"
    if message["role"] != "assistant" or "</think>" not in content:
        first, last = _FIRST_TAGS.match(content), _LAST_TAGS.search(content)
        begin, end = first.end() if first else 0, last.start() if last else len(content)
        if not content[begin:end].strip():
            return marks.mark(content, number, None, field)
        return content[:begin] + marks.mark(content[begin:end], number, None, field) + content[end:]
    *thoughts, answer = _THINK.split(content)
    marked = [
        text if _THINK.fullmatch(text) else marks.mark(text, number, None, "reasoning in `content`", is_reasoning=True)
        for text in thoughts
    ]
    return "".join([*marked, marks.mark(answer, number, None, field)])


def _marked_call(marks: _Marks, number: int, index: int, call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]

    def leaf(value: Any, key: str) -> Any:
        if isinstance(value, dict):
            return {name: leaf(part, name) for name, part in value.items()}
        if isinstance(value, list):
            return [leaf(part, key) for part in value]
        if isinstance(value, str) and value.strip():
            return marks.mark(value, number, index, f"argument {key!r} of `tool_calls`[{index}]")
        marks.rendering.values.append((number, index, key, value))
        return value

    name = marks.mark(function["name"], number, index, f"name of `tool_calls`[{index}]")
    return call | {"function": function | {"name": name, "arguments": leaf(function["arguments"], "")}}


def _search(rendering: Rendering) -> None:
    """Find the parts of each message after those of the message before it."""
    start = reached = 0
    message = -1
    for part in rendering.parts:
        if part.message != message:
            start, message = (0 if message == -1 else reached), part.message
        places = [(rendering.text.find(text, start), len(text)) for text in written(part.text)]
        places = [(begin, begin + length) for begin, length in places if begin >= 0]
        part.span = min(places, default=None)
        if part.span and part.message >= 0:
            reached = max(reached, part.span[1])
