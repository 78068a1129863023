"""One canonical form of a row, whatever form its messages, calls and tools have; see [`canonical_row`]."""

from __future__ import annotations

import copy
from typing import Any

from trl import maybe_convert_to_chatml

from .nulls import without_nulls
from .tool_schema import RowError, kind_of, parsed

# Columns that hold messages.
CONVERSATIONS = ("messages", "prompt", "completion", "chosen", "rejected")
# Fields of a message that this package itself reads. Of other fields it is looked whether the chat template reads them.
READ_FIELDS = {"role", "content", "tool_calls", "tool_call_id", "name", "reasoning_content", "weight"}


def canonical_row(row: dict[str, Any], unread: set[str] | None = None) -> dict[str, Any]:
    """
    Return a row in the one form in which it is trained on, shown and evaluated. A row in this form stays as it is.

    - Messages have a `role` and a text `content`: text parts are joined, and a missing content of a call is `""`.
      Fields that are null are left out.
    - Calls are `{"type": "function", "function": {"name", "arguments"}}` with an object of arguments, which may have
      been a JSON text; `""` is `{}`. Their `id` stays.
    - `tools` are a list of `{"type": "function", "function": schema}`, or None.
    - OpenAI's old format is converted: `functions` to `tools`, `function_call` to `tool_calls`, and the role function
      to tool. A column `system` becomes the first message.

    Columns that hold no messages are not changed.

    Args:
        unread: Receives the keys of calls and of parts of contents that are left out, for example "`index` of calls".

    Raises:
        RowError: if a field cannot be read; the message names the message and the field.
    """
    row, unread = copy.deepcopy(row), set() if unread is None else unread
    for name in ("conversations", *CONVERSATIONS):
        row |= {name: _messages_of_text(name, row[name])} if isinstance(row.get(name), str) else {}
    if row.get("conversations") is None or row.get("messages") is not None:
        row.pop("conversations", None)
    row = maybe_convert_to_chatml(row)
    names = [name for name in CONVERSATIONS if is_conversation(row.get(name))]
    if not names:
        if row.get("system") and isinstance(row.get("prompt"), str):
            raise RowError("has a `system` beside a `prompt` that is a text: put it into the `prompt`, or remove it")
        return row
    for name in names:
        row[name] = [_message(f"`{name}`[{number}]", message, unread) for number, message in enumerate(row[name])]
    return _with_system(_with_tools(row), names)


def is_conversation(value: object) -> bool:
    """Whether a column holds messages."""
    return isinstance(value, list) and all(isinstance(message, dict) for message in value) and bool(value)


def _messages_of_text(name: str, text: str) -> Any:
    """Return the messages of which a column holds the JSON text; prompts and completions may be any other text."""
    if name in ("messages", "conversations"):
        return parsed(f"`{name}` must be a list of messages, and as a text", text)
    if not (text.lstrip().startswith("[") and '"role"' in text):
        return text
    try:
        messages = parsed(f"`{name}`", text)
    except RowError:
        return text
    return messages if is_conversation(messages) else text


def _message(where: str, message: dict[str, Any], unread: set[str]) -> dict[str, Any]:
    message = _given(message)
    if not isinstance(message.get("role"), str):
        raise RowError(f"{where} must be a message with `role` and `content`; it has {kind_of(message.get('role'))}")
    if message["role"] == "function":
        message["role"] = "tool"
    calls = _calls(where, message, unread)
    if calls:
        message["tool_calls"] = calls
    content = message.get("content")
    content = "" if calls and content in (None, []) else content
    said = {"role": message.pop("role"), "content": _text(where, content, unread)}
    _check_weight(where, said["role"], message)
    for name in ("name", "tool_call_id", "reasoning_content"):
        if not isinstance(message.get(name, ""), str):
            raise RowError(f"{where} must have a text as its `{name}`; it has {kind_of(message[name])}")
        if message.get(name) == "":
            del message[name]
    return said | {name: value for name, value in message.items() if name != "content"}


def _text(where: str, content: object, unread: set[str]) -> str:
    """Join the parts of a content."""
    if not isinstance(content, list) or not content:
        if not isinstance(content, str):
            raise RowError(f"{where} must have a text as its `content`; it has {kind_of(content)}")
        return content
    for number, part in enumerate(content):
        if isinstance(part, str):
            continue
        part = without_nulls(part) if isinstance(part, dict) else {}
        kind = part.get("type", "text")
        if kind != "text" or not isinstance(part.get("text"), str):
            described = f"a part of the type {kind!r}" if kind != "text" else "a part without a `text`"
            raise RowError(f"{where} has {described} as `content`[{number}]: only parts of the type 'text' are read")
        unread |= _unread(part, {"type", "text"}, "parts of `content`")
    return "".join(part if isinstance(part, str) else part["text"] for part in content)


def _check_weight(where: str, role: str, message: dict[str, Any]) -> None:
    """Refuse a `weight` other than 0 and 1; 1 is the default, and is left out."""
    weight = message.get("weight")
    if weight is None:
        return
    if role != "assistant" or isinstance(weight, bool) or weight not in (0, 1):
        raise RowError(
            f"{where} has the `weight` {weight!r}, but only messages of the assistant have one, and it is 0 (not "
            "trained on) or 1: correct or remove it"
        )
    message["weight"] = int(weight)
    if weight == 1:
        del message["weight"]


def _calls(where: str, message: dict[str, Any], unread: set[str]) -> list[dict[str, Any]]:
    """Take the calls out of a message."""
    calls, old = message.pop("tool_calls", None), message.pop("function_call", None)
    if isinstance(calls, str):
        calls = parsed(f"the `tool_calls` of {where}", calls) if calls.strip() else None
    if old is not None:
        if calls:
            raise RowError(f"{where} has both `function_call` and `tool_calls`: remove one of them")
        if not isinstance(old, dict):
            raise RowError(f"{where} must have a call as its `function_call`; it has {kind_of(old)}")
        calls = [{"type": "function", "function": old}]
    if calls is None:
        return []
    if not isinstance(calls, list):
        raise RowError(f"{where} must have a list of calls as its `tool_calls`; it has {kind_of(calls)}")
    if calls and message["role"] != "assistant":
        raise RowError(
            f"{where} has `tool_calls`, but its role is {message['role']!r}: only the assistant calls tools"
        )
    return [_call(where, call, unread) for call in calls]


def _call(where: str, call: object, unread: set[str]) -> dict[str, Any]:
    call = _given(call) if isinstance(call, dict) else {}
    function = call.get("function", call)
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise RowError(f"{where} has `tool_calls` without the `name` of a `function`")
    name = function["name"]
    held = "arguments" if function.get("arguments") is not None else "parameters"
    arguments = function.get(held)
    if function is call:
        unread |= _unread(call, {"id", "type", "name", held}, "calls")
    else:
        unread |= _unread(call, {"id", "type", "function"}, "calls") | _unread(function, {"name", held}, "calls")
    if isinstance(arguments, str):
        text = arguments.strip()
        arguments = parsed(f"the arguments of {name} in {where}", text) if text else {}
    arguments = {} if arguments is None else arguments
    if not isinstance(arguments, dict):
        raise RowError(f"{where} calls {name} with {kind_of(arguments)}: `arguments` must be an object")
    named = {"id": call["id"]} if "id" in call else {}
    return {**named, "type": "function", "function": {"name": name, "arguments": arguments}}


def _unread(fields: dict[str, Any], read: set[str], what: str) -> set[str]:
    """The fields beside those that are read, as warnings name them."""
    return {f"`{name}` of {what}" for name, value in fields.items() if value is not None and name not in read}


def _given(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields that are not null."""
    return {name: value for name, value in fields.items() if value is not None}


def _with_tools(row: dict[str, Any]) -> dict[str, Any]:
    """The row with `tools` in the one form; `functions` is OpenAI's old name of the column."""
    tools, functions = (_listed(name, row.get(name)) for name in ("tools", "functions"))
    if tools and functions:
        raise RowError("has both `functions` and `tools`: remove one of them")
    row = {name: value for name, value in row.items() if name != "functions"}
    if tools or functions or "tools" in row:
        row["tools"] = list(map(_tool, tools or functions)) or None
    return row


def _listed(name: str, tools: object) -> list[Any]:
    if isinstance(tools, str):
        tools = parsed(f"`{name}`", tools) if tools.strip() else None
    if not isinstance(tools, list | None):
        raise RowError(f"`{name}` must be a list of schemas, or a JSON text of one; it is {kind_of(tools)}")
    return [parsed(f"`{name}`", tool) if isinstance(tool, str) else tool for tool in tools or []]


def _tool(tool: object) -> dict[str, Any]:
    if not isinstance(tool, dict):
        raise RowError(f"`tools` must be a list of schemas, or a JSON text of one; it holds {kind_of(tool)}")
    tool = _given(tool)
    if "function" not in tool:  # a schema without its wrapper
        tool = {"function": {name: value for name, value in tool.items() if name != "type"}}
    if not isinstance(tool["function"], dict) or not isinstance(tool["function"].get("name"), str):
        raise RowError("`tools` has a schema without a `name`")
    return {"type": "function"} | tool


def _with_system(row: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """The row with its column `system`, if there is one, as the first message."""
    system = row.pop("system", None)
    if not system:
        return row
    if not isinstance(system, str):
        raise RowError(f"`system` must be a text; it is {kind_of(system)}")
    for name in ["prompt"] if "prompt" in names else [name for name in names if name != "completion"]:
        first = row[name][0]
        if first["role"] != "system":
            row[name] = [{"role": "system", "content": system}, *row[name]]
        elif first["content"].strip() != system.strip():
            raise RowError(f"has a `system` that differs from the system message in `{name}`[0]: remove one of them")
    return row
