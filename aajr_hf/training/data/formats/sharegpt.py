"""ShareGPT's conversations of `from` and `value`, as LLaMA-Factory, APIGen-MT and ToolBench write them."""

from __future__ import annotations

from typing import Any

from ..reading.values import field
from .messages import message_of


def sharegpt_row(row: dict[str, Any]) -> dict[str, Any]:
    """
    Convert `conversations` to `messages`. A turn `function_call` is a JSON text
    of one call or of a list of calls, and becomes a message with `tool_calls`.

    Raises:
        RowError: if a turn is invalid; the message names it.
    """
    turns = field(row, "conversations", list)
    made = {name: value for name, value in row.items() if name != "conversations"}
    return made | {"messages": [_message(f"`conversations`[{n}]", turn) for n, turn in enumerate(turns)]}


def _message(name: str, turn: object) -> Any:
    return message_of(name, turn if isinstance(turn, dict) else {"value": turn})
