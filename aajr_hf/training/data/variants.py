"""Variants of a row: what users or tools could say instead without changing its right answer."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

from .canonical import canonical_row, is_conversation
from .incidental import is_known, names_in, swapped, used_words
from .roles import OBSERVED_ROLES

# Column of a row that holds texts in place of the last message of its user.
VARIANTS = "variants"
# Number of variants of each row.
DRAWS = 4
_USERS, _OBSERVED = OBSERVED_ROLES["user"], OBSERVED_ROLES["observation"]


def with_variants(rows: Iterable[dict[str, Any]], seed: int) -> list[list[dict[str, Any]]]:
    """
    Return for each row that has variants a list of the row and its variants, as rows with `prompt` and `completion`. The
    variants are those of the column `variants`. Without this column, at most [`DRAWS`] are drawn from the seed, in which
    other words stand in place of incidental ones: numbers with as many digits, and in half of them names of all rows.
    """
    split = [found for row in rows if (found := _split(row)) is not None]
    names = sorted({n for row, _ in split for n in names_in(row["prompt"], _OBSERVED, used_words(row))})
    groups = []
    for number, (row, given) in enumerate(split):
        if given:
            prompts = [_with_last_said(row["prompt"], text) for text in given[:DRAWS]]
        elif is_known(row):
            drawn = random.Random(f"variants {seed} {number}")
            used = used_words(row)
            # Half of them with other numbers alone: names seldom have as many tokens as others.
            choices = [names if draw % 2 else [] for draw in range(DRAWS)]
            prompts = [swapped(row["prompt"], _OBSERVED, used, some, drawn)[0] for some in choices]
        else:
            continue
        others = [row | {"prompt": prompt} for prompt in prompts if prompt != row["prompt"]]
        if others:
            groups.append([row, *others])
    return groups


def _split(row: dict[str, Any]) -> tuple[dict[str, Any], list[str]] | None:
    """A row with `prompt` and `completion`, and its given variants; None if it does not end with an answer."""
    given = row.get(VARIANTS) or []
    row = canonical_row({name: value for name, value in row.items() if name != VARIANTS})
    if is_conversation(row.get("messages")):
        messages = row.pop("messages")
        row |= {"prompt": messages[:-1], "completion": messages[-1:]}
    if not (is_conversation(row.get("prompt")) and is_conversation(row.get("completion"))):
        return None
    return (row, given) if row["completion"][-1]["role"] == "assistant" else None


def _with_last_said(prompt: list[dict[str, Any]], text: str) -> list[dict[str, Any]]:
    """The messages with another text of the last one of the user; unchanged if there is none."""
    places = [number for number, message in enumerate(prompt) if message["role"] in _USERS]
    return [
        message | {"content": text} if places and number == places[-1] else message
        for number, message in enumerate(prompt)
    ]
