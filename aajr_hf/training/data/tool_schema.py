"""The tools that a row offers and the calls that it makes, in TRL's formats."""

from __future__ import annotations

import json
from typing import Any


class RowError(ValueError):
    """Error of an invalid row of data; its message continues a sentence that begins with the row's place."""


def as_tools(tools: object) -> list[dict[str, Any]] | None:
    """
    Return a row's `tools`, which may be a JSON text, as TRL passes them to the chat template.

    Raises:
        RowError: if they are neither a list of schemas nor a JSON text of one.
    """
    tools = parsed("`tools`", tools) if isinstance(tools, str) else tools
    if tools is not None and tools != [] and not is_list_of(tools, dict):
        raise RowError(f"`tools` must be a list of schemas, or a JSON text of one; it is {kind_of(tools)}")
    return tools


def offered_tools(tools: object) -> set[str] | None:
    """
    The names of a row's `tools`; None if it has no tools.

    Raises:
        RowError: as in [`as_tools`], and if a tool has no name.
    """
    tools = as_tools(tools)
    if not tools:
        return None
    functions = [tool.get("function", tool) for tool in tools]
    names = [function.get("name") for function in functions if isinstance(function, dict)]
    if len(names) < len(tools) or not is_list_of(names, str):
        raise RowError("`tools` has a schema without a `name`")
    return set(names)


def check_call(where: str, call: dict[str, Any], offered: set[str] | None) -> None:
    """
    Check one call of a canonical message.

    Raises:
        RowError: if it calls a tool that is not `offered` (None allows any tool).
    """
    name = call["function"]["name"]
    if offered is not None and name not in offered:
        raise RowError(f"{where} calls the tool {name!r}, which is not offered: {', '.join(sorted(offered))}")


def parsed(name: str, text: str) -> Any:
    """Parse a JSON text; the error calls it `name`."""
    try:
        return json.loads(text, parse_constant=no_constant)
    except (ValueError, RecursionError) as error:
        raise RowError(f"{name} must be JSON: {error}") from None


def no_constant(name: str) -> None:
    """Refuse NaN and Infinity, which Python's parser accepts."""
    raise ValueError(f"{name} is not a JSON value")


def is_list_of(value: object, kind: type) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, kind) for item in value)


def kind_of(value: object) -> str:
    """Description of a value for error messages."""
    if value is None:
        return "missing"
    names = {str: "a text", list: "a list", dict: "an object", bool: "true or false"}
    name = names.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)
    return f"{name} without content" if isinstance(value, list | dict) and not value else name
