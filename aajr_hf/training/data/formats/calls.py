"""Tools and calls that other formats write as bare functions, or as JSON texts."""

from __future__ import annotations

from typing import Any

from ..reading.values import RowError, is_list_of, kind_of, parsed


def as_calls(name: str, value: object) -> list[dict[str, Any]]:
    """
    Convert one call, or a list of calls, to `tool_calls`. A call is an object with `name` and `arguments`; the value
    and the arguments may be JSON texts, and no arguments may be an empty text.

    Raises:
        RowError: if the value is no call; the message calls it `name`.
    """
    value = parsed(name, value) if isinstance(value, str) else value
    calls = [value] if isinstance(value, dict) else value
    if not is_list_of(calls, dict):
        raise RowError(
            f"{name} must be a call with `name` and `arguments`, or a list of calls; it is {kind_of(value)}"
        )
    return [_as_call(name, call) for call in calls]


def _as_call(name: str, call: dict[str, Any]) -> dict[str, Any]:
    function = call.get("function", call)
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise RowError(f"{name} has a call without a `name`")
    held = {key for part in (call, function) for key, value in part.items() if value is not None}
    if unknown := held - {"name", "arguments", "type", "id", "function"}:
        raise RowError(f"{name} has a call with the field {min(unknown)!r}: a call has `name` and `arguments`")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        arguments = parsed(f"the arguments of {function['name']} in {name}", arguments) if arguments.strip() else {}
    if not isinstance(arguments, dict | None):
        raise RowError(f"{name} calls {function['name']} with {kind_of(arguments)}: `arguments` must be an object")
    identity = {"id": call["id"]} if call.get("id") is not None else {}
    return identity | {"type": "function", "function": {"name": function["name"], "arguments": arguments or {}}}


def as_tools(value: object) -> list[dict[str, Any]]:
    """
    Convert a list of functions, or a JSON text of one, to `tools`. Each may already be a tool.

    Raises:
        RowError: if the value is no list of functions with a `name`.
    """
    value = parsed("`tools`", value) if isinstance(value, str) else value
    if value != [] and not is_list_of(value, dict):
        raise RowError(f"`tools` must be a list of functions, or a JSON text of one; it is {kind_of(value)}")
    functions = [tool.get("function", tool) for tool in value]
    for function in functions:
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise RowError("`tools` has a function without a `name`")
    return [{"type": "function", "function": function} for function in functions]
