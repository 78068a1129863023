"""The tools that a row offers and the calls that it makes, in TRL's formats."""

from __future__ import annotations

from typing import Any

from .reading.values import RowError, is_list_of, kind_of, parsed


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
