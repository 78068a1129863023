"""Alpaca's instructions with one answer, and LLaMA-Factory's columns beside them."""

from __future__ import annotations

from typing import Any

from ..reading.values import RowError, field


def alpaca_row(row: dict[str, Any]) -> dict[str, Any]:
    """
    Convert `instruction`, and the `input` in a line below it, to the last message of the user, and `output` to the
    answer. `history` is a list of pairs of a question and an answer that come before; its answers are trained on, as
    in LLaMA-Factory.

    Raises:
        RowError: if a column is invalid.
    """
    instruction, given = field(row, "instruction", str), row.get("input")
    if not isinstance(given, str | None):
        raise RowError("`input` must be a text")
    question = f"{instruction}\n{given}" if given and given.strip() else instruction
    history = row.get("history")
    history = [] if history is None else history
    pairs = [*history, [question, field(row, "output", str)]] if isinstance(history, list) else [None]
    for pair in pairs:
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise RowError("`history` must be a list of pairs of a question and an answer")
    used = ("instruction", "input", "output", "history")
    made = {name: value for name, value in row.items() if name not in used}
    prompt, *completion = [
        {"role": role, "content": text}
        for pair in pairs
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    return made | {"prompt": [prompt], "completion": completion}
