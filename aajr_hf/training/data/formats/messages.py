"""Messages: of turns with `from` and `value`, of JSON texts, and with a system prompt from a column of its own."""

from __future__ import annotations

from typing import Any

from ..reading.values import RowError, is_list_of, kind_of, parsed
from .calls import as_calls

_ROLES = {
    **{name: name for name in ("system", "user", "assistant", "tool")},
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    **dict.fromkeys(("observation", "function", "function_response", "tool_response"), "tool"),
}
_CALLS = ("function_call", "tool_call")


def message_of(name: str, turn: object) -> Any:
    """
    Return the message of a turn of `from` and `value`. Other fields of the turn stay fields of the message, and
    whatever has neither `from` nor `value` stays as it is.

    Raises:
        RowError: if the turn is invalid; the message calls it `name`.
    """
    if not isinstance(turn, dict) or not {"from", "value"} & turn.keys():
        return turn
    for one, other in (("from", "role"), ("value", "content")):
        if turn.get(one) is not None and turn.get(other) is not None:
            raise RowError(f"{name} has both `{one}` and `{other}`: keep one of them")
    role = turn.get("from")
    value = turn["value"] if turn.get("value") is not None else turn.get("content")
    rest = {key: part for key, part in turn.items() if key not in ("from", "value", "role", "content")}
    if role is None and isinstance(turn.get("role"), str):
        return {"role": turn["role"], "content": value, **rest}
    if role not in (*_ROLES, *_CALLS) or not isinstance(value, str if role in _ROLES else str | list | dict):
        known = ", ".join((*_ROLES, *_CALLS))
        raise RowError(f"{name} must have `from`, one of {known}, and a text `value`; it has {str(turn)[:80]}")
    if role in _CALLS:
        return {"role": "assistant", "content": "", "tool_calls": as_calls(name, value), **rest}
    return {"role": _ROLES[role], "content": value, **rest}


def messages_of_texts(row: dict[str, Any]) -> dict[str, Any]:
    """A row of `prompt` and `completion` whose messages are JSON texts, with lists; any other row as it is."""
    found = {}
    for name in ("prompt", "completion"):
        value = row[name]
        if isinstance(value, str) and value.lstrip().startswith("["):
            try:
                value = parsed(name, value)
            except RowError:
                return row
        if not is_list_of(value, dict) or not all("role" in part or "from" in part for part in value):
            return row
        found[name] = value
    return row | found


def with_system(row: dict[str, Any]) -> dict[str, Any]:
    """
    Put the text of the column `system` before the messages of a row with `messages` or `prompt`.

    Raises:
        RowError: if the column is no text, if the prompt is a text, or if the messages begin with another system
            prompt.
    """
    system = row.get("system")
    row = {name: value for name, value in row.items() if name != "system"}
    if system is None or isinstance(system, str) and not system.strip():
        return row
    if not isinstance(system, str):
        raise RowError(f"`system` must be a text; it is {kind_of(system)}")
    column = "prompt" if {"prompt", "completion"} <= row.keys() else "messages"
    messages = row[column]
    if not isinstance(messages, list):
        raise RowError(f"`system` cannot stand before a text: write `{column}` as messages, or leave `system` out")
    first = messages[0] if messages and isinstance(messages[0], dict) else {}
    if first.get("role") not in ("system", "developer"):
        return row | {column: [{"role": "system", "content": system}, *messages]}
    if first.get("content") != system:
        raise RowError(f"has a `system`, and another system prompt in `{column}`: keep one of them")
    return row
