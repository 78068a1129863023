"""Messages of turns with `from` and `value`."""

from __future__ import annotations

from typing import Any

from ..reading.values import RowError
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
