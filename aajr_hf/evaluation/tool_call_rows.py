"""Rows that ask an agent to call tools, as an evaluation reads them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from jsonschema import Draft202012Validator, SchemaError
from jsonschema.validators import validator_for

from .tool_calls import ToolCall, as_accepted, parse_json, read_call, short


def read_rows(rows: list[dict[str, Any]], numbers: Sequence[int] | None = None) -> list[dict[str, Any]]:
    """
    Rows with `prompt`, `completion` (messages), `tools` and perhaps `accepted`, each of them or its JSON text, as rows
    whose columns are Python objects: `tools` a list or None, the arguments of calls objects, messages without null
    fields. Where nothing is said about what is accepted, it is the completion's own calls.

    Args:
        numbers: By which errors name the rows; None for their places in the list.

    Raises:
        ValueError: for no rows, and for the first row that cannot be used; names its number, the column and what is wrong.
    """
    if not rows:
        raise ValueError("There is no row to evaluate: give data that has some.")
    read = [_read_row(row, f"Row {n}") for n, row in zip(numbers or range(len(rows)), rows, strict=True)]
    if not any(reference_calls(row["completion"]) for row in read):
        raise ValueError("No row's `completion` calls a tool: give data with `tool_calls`.")
    return read


def reference_calls(completion: list[dict[str, Any]]) -> list[ToolCall]:
    """The calls of a completion of [`read_rows`]."""
    return [read_call(call) for message in completion for call in message.get("tool_calls", [])]


def _read_row(row: dict[str, Any], where: str) -> dict[str, Any]:
    def column(name: str, kind: str, fits: Callable[[Any], bool]) -> Any:
        value = row.get(name)
        try:
            value = parse_json(value) if isinstance(value, str) else value
        except ValueError as error:
            raise ValueError(f"{where}: `{name}` is no JSON: {error}.") from error
        if not fits(value):
            raise ValueError(f"{where}: `{name}` must be {kind}; got {short(value)}.")
        return value

    def messages(name: str) -> list[dict[str, Any]]:
        try:
            return [_message(message) for message in column(name, "a list of messages", _are_messages)]
        except ValueError as error:
            raise ValueError(f"{where}: `{name}`: {error}.") from error

    prompt, completion = messages("prompt"), messages("completion")
    tools = column("tools", "a list of tools, each with a `name`", lambda tools: tools is None or _are_tools(tools))
    tools = [{"type": "function", "function": tool.get("function", tool)} for tool in tools or []]
    _check_schemas(tools, where)
    accepted = column("accepted", "a list of {name: {argument: [values]}}", lambda a: a is None or _are_accepted(a))
    accepted = as_accepted(reference_calls(completion)) if accepted is None else accepted
    # No list at all where there is none: some templates announce an empty one.
    return {"prompt": prompt, "completion": completion, "tools": tools or None, "accepted": accepted}


def _check_schemas(tools: list[dict[str, Any]], where: str) -> None:
    for tool in tools:
        name, schema = tool["function"]["name"], tool["function"].get("parameters") or {}
        try:
            validator_for(schema, Draft202012Validator).check_schema(schema)
        except SchemaError as error:
            path = "/".join(map(str, error.absolute_path)) or "its top"
            raise ValueError(
                f"{where}: `tools`: the parameters of {name!r} are no JSON Schema: at {path}, {error.message}."
            ) from error


def _are_messages(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(m, dict) and m.get("role") for m in value)


def _are_tools(value: Any) -> bool:
    functions = (
        [t.get("function", t) if isinstance(t, dict) else t for t in value] if isinstance(value, list) else [None]
    )
    return all(isinstance(f, dict) and isinstance(f.get("name"), str) for f in functions)


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
