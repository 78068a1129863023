"""xLAM's questions with calls (`query`, `answers`, `tools`), as in xlam-function-calling-60k."""

from __future__ import annotations

import re
from typing import Any

from ..reading.values import RowError, field
from .calls import as_calls, as_tools

# From the names of Python's types, which begin the description of a type, to JSON Schema's.
_TYPES = {
    "str": "string",
    "int": "integer",
    "float": "number",
    "complex": "number",
    "bool": "boolean",
    "list": "array",
    "tuple": "array",
    "set": "array",
    "dict": "object",
    **{name: name for name in ("string", "integer", "number", "boolean", "array", "object")},
}


def xlam_row(row: dict[str, Any]) -> dict[str, Any]:
    """
    Convert `query` to a `prompt`, and `answers` to a `completion` with calls; `answers` and `tools` may be JSON texts.

    Raises:
        RowError: if a column is invalid, or there is no call.
    """
    query = field(row, "query", str)
    if row.get("answers") in ([], "[]"):
        raise RowError("`answers` has no call, so that there is nothing to train on")
    calls = as_calls("`answers`", row.get("answers"))
    made = {name: value for name, value in row.items() if name not in ("query", "answers")}
    if made.get("tools") is not None:
        made["tools"] = [_with_schema(tool["function"]) for tool in as_tools(made["tools"])]
    return made | {
        "prompt": [{"role": "user", "content": query}],
        "completion": [{"role": "assistant", "content": "", "tool_calls": calls}],
    }


def _with_schema(function: dict[str, Any]) -> dict[str, Any]:
    """A tool whose `parameters` are JSON Schema: xLAM's are one object for each parameter."""
    parameters = function.get("parameters")
    if isinstance(parameters, dict) and not _is_schema(parameters):
        function = function | {"parameters": _schema(function["name"], parameters)}
    return {"type": "function", "function": function}


def _is_schema(parameters: dict[str, Any]) -> bool:
    """Whether the fields are those of a schema. A parameter of xLAM is an object, even if its name is `type`."""
    return isinstance(parameters.get("type"), str) or isinstance(parameters.get("required"), list)


def _schema(name: str, parameters: dict[str, Any]) -> dict[str, Any]:
    required, properties = [], {}
    for parameter, described in parameters.items():
        if not isinstance(described, dict):
            raise RowError(f"`tools`: the parameter {parameter!r} of {name} must be an object with a `type`")
        properties[parameter], is_optional = _property(described)
        if not is_optional and "default" not in described:
            required.append(parameter)
    return {"type": "object", "properties": properties} | ({"required": required} if required else {})


def _property(described: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """
    The JSON Schema of one parameter, and whether it is optional. A type is written as in Python, for example
    "List[int], optional". A type that JSON Schema lacks is kept in the description.
    """
    kind = described.get("type")
    if not isinstance(kind, str):
        return described, False
    whole, optional = re.fullmatch(r"\s*(.*?)\s*(,\s*optional)?\s*", kind, re.DOTALL).groups()
    if inside := re.fullmatch(r"Optional\[(.*)\]", whole):
        whole, optional = inside[1], True
    is_optional = bool(optional)
    base, _, items = whole.partition("[")
    result = {key: value for key, value in described.items() if key != "type"}
    known = _TYPES.get(base.strip().lower())
    if known is None:
        return result | {"description": f"{described.get('description', '')} ({whole})".strip()}, is_optional
    element = _TYPES.get(items.removesuffix("]").strip().lower())
    typed = {"type": known} | ({"items": {"type": element}} if known == "array" and element else {})
    return typed | result, is_optional
