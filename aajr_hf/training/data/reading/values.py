"""Errors of rows, and JSON that is kept as it was written: what Python's parser would change or drop is refused."""

from __future__ import annotations

import json
import math
from typing import Any


class RowError(ValueError):
    """Error of an invalid row of data; its message continues a sentence that begins with the row's place."""


# The place of a row, and the row itself or its error.
Item = tuple[str, object]


def parsed(name: str, text: str) -> Any:
    """Parse a JSON text; the error calls it `name`."""
    try:
        return DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        raise RowError(f"{name} must be JSON: {error}") from None


def no_constant(name: str) -> None:
    """Refuse NaN and Infinity, which Python's parser accepts."""
    raise ValueError(f"{name} is not a JSON value")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is too large for a number")
    return number


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} stands twice in one object")
    return found


# Refuses NaN, numbers that overflow, and objects with the same key twice.
DECODER = json.JSONDecoder(parse_constant=no_constant, parse_float=_finite, object_pairs_hook=_each_key_once)


def is_list_of(value: object, kind: type) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, kind) for item in value)


def kind_of(value: object) -> str:
    """Description of a value for error messages."""
    if value is None:
        return "missing"
    names = {str: "a text", list: "a list", dict: "an object", bool: "true or false"}
    name = names.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)
    return f"{name} without content" if isinstance(value, list | dict) and not value else name


def field(row: object, name: str, kind: type) -> Any:
    """
    Return a field of a row: a text that is not empty, a list or an object.

    Raises:
        RowError: if the field is missing or of another kind; the message names it.
    """
    value = row.get(name) if isinstance(row, dict) else None
    if not isinstance(value, kind) or not value and kind is not list and kind is not dict:
        described = {str: "a text", list: "a list", dict: "an object"}[kind]
        raise RowError(f"needs `{name}`, {described}")
    return value
