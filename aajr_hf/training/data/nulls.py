"""Nulls that a table invents: it stores objects as structs, which have the fields of all rows."""

from __future__ import annotations

from typing import Any

from datasets import LargeList, List

# Columns and fields with objects whose fields can differ in each row.
_CHOSEN = {"tool_calls", "function_call", "tools", "functions", "answers", "accepted", "chat_template_kwargs"}


def has_structs(feature: object, chosen: bool = False) -> bool:
    """Whether a table's features store objects whose fields differ in each row as structs, with the fields of all rows."""
    if isinstance(feature, dict):
        return chosen or any(has_structs(part, name in _CHOSEN) for name, part in feature.items())
    return isinstance(feature, List | LargeList) and has_structs(feature.feature, chosen)


def without_nulls(value: Any) -> Any:
    """
    Remove the nulls of objects, at any depth. In rows of a table with [`has_structs`], a null does not say whether the
    row has the field.
    """
    if isinstance(value, dict):
        return {name: without_nulls(part) for name, part in value.items() if part is not None}
    return [without_nulls(part) for part in value] if isinstance(value, list) else value
