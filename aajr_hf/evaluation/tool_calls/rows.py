"""Rows that ask an agent to call tools, as an evaluation reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jsonschema import Draft202012Validator, SchemaError
from jsonschema.validators import validator_for

from ...training.data.schema import check_messages
from ...training.data.tool_schema import as_tools, offered_tools, parsed
from .judge import ToolCall, as_accepted, read_call, short


def read_rows(rows: list[dict[str, Any]], numbers: Sequence[int] | None = None) -> list[dict[str, Any]]:
    """
    Rows with `prompt` and `completion`, or `messages`, and `tools` and perhaps `accepted`, each of them or its JSON text, as
    rows of `prompt`, `completion` (of `messages`, the last turn that calls a tool), `tools` and `accepted` that are Python
    objects: `tools` a list or None, the arguments of calls objects, messages without null fields. Where nothing is said
    about what is accepted, it is the completion's own calls.

    Args:
        numbers: By which errors name the rows; None for their places in the list.

    Raises:
        ValueError: for no rows, and for the first row that cannot be used; names its number, the column and what is wrong.
    """
    if not rows:
        raise ValueError("There is no row to evaluate: give data that has some.")
    read = []
    for number, row in zip(numbers or range(len(rows)), rows, strict=True):
        try:
            read.append(_read_row(row))
        except ValueError as error:
            raise ValueError(f"Row {number}: {str(error).removesuffix('.')}.") from error
    if not any(reference_calls(row["completion"]) for row in read):
        raise ValueError(
            "No row calls a tool: give data whose messages have `tool_calls`, beside a column `tools`; calls written in a "
            "message's text are not read, as nothing says which tools they are of."
        )
    return read


def reference_calls(completion: list[dict[str, Any]]) -> list[ToolCall]:
    """The calls of a completion of [`read_rows`]."""
    return [read_call(call) for message in completion for call in message.get("tool_calls", [])]


def _read_row(row: dict[str, Any]) -> dict[str, Any]:
    if row.get("messages") is not None and row.get("completion") is None:
        prompt, completion = _last_calls(_messages("messages", row["messages"]))
    else:
        prompt, completion = (_messages(name, row.get(name)) for name in ("prompt", "completion"))
    tools = as_tools(row.get("tools"))
    offered_tools(tools)  # each has a name
    tools = [{"type": "function", "function": tool.get("function", tool)} for tool in tools or []]
    _check_schemas(tools)
    accepted = row.get("accepted")
    accepted = parsed("`accepted`", accepted) if isinstance(accepted, str) else accepted
    if accepted is None:
        accepted = as_accepted(reference_calls(completion))
    elif not _are_accepted(accepted):
        raise ValueError(f"`accepted` must be a list of {{name: {{argument: [values]}}}}; got {short(accepted)}")
    # No list at all where there is none: some templates announce an empty one.
    return {"prompt": prompt, "completion": completion, "tools": tools or None, "accepted": accepted}


def _messages(name: str, value: Any) -> list[dict[str, Any]]:
    value = parsed(f"`{name}`", value) if isinstance(value, str) else value
    check_messages(name, value)
    return list(map(_message, value))


def _last_calls(messages: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What precedes the last turn of the assistant that calls a tool (where none does, the last at all), and that turn."""
    turns = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
    last = max((number for number in turns if "tool_calls" in messages[number]), default=max(turns, default=0))
    if not turns or last == 0:
        raise ValueError("`messages` has no turn of the assistant after another message")
    return messages[:last], [messages[last]]


def _check_schemas(tools: list[dict[str, Any]]) -> None:
    for tool in tools:
        name, schema = tool["function"]["name"], tool["function"].get("parameters") or {}
        if isinstance(schema, dict) and not isinstance(schema.get("$schema", ""), str):
            raise ValueError(f"`tools`: the parameters of {name!r} are no JSON Schema: `$schema` must be a text")
        try:
            validator_for(schema, Draft202012Validator).check_schema(schema)
        except SchemaError as error:
            path = "/".join(map(str, error.absolute_path)) or "its top"
            raise ValueError(
                f"`tools`: the parameters of {name!r} are no JSON Schema: at {path}, {error.message}"
            ) from error


def _are_accepted(value: Any) -> bool:
    def is_object(arguments: Any) -> bool:
        return isinstance(arguments, dict) and all(
            isinstance(values, list) and all(is_value(v) for v in values) for values in arguments.values()
        )

    def is_value(value: Any) -> bool:
        if isinstance(value, list):
            return all(map(is_value, value))
        return is_object(value) if isinstance(value, dict) else True

    return isinstance(value, list) and all(
        isinstance(call, dict) and len(call) == 1 and is_object(*call.values()) for call in value
    )


def _message(message: dict[str, Any]) -> dict[str, Any]:
    """
    Without the nulls that a table has where a message lacks a field, and that templates take for the field; the
    arguments of its calls as objects, which templates write as JSON.
    """
    message = {key: value for key, value in message.items() if value is not None or key == "content"}
    if calls := [read_call(call) for call in message.pop("tool_calls", [])]:
        message["tool_calls"] = [{"type": "function", "function": call._asdict()} for call in calls]
    return message
