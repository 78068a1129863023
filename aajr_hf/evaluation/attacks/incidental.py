"""The attack `incidental`: words that the right call does not use are swapped or masked."""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from ...training.data.incidental import (
    MARKER,
    NUMBER,
    copies_its_values,
    incidental_words,
    marked,
    used_words,
    with_words,
)
from .rewriting import TRIES, Attacked, Rewritten


@dataclass(frozen=True)
class IncidentalWords:
    """
    Numbers and names in what users and tools say become others of their type, from the other rows (`swapped`), or a
    marker of the type (`masked`). Only words are changed that neither the accepted calls nor the tools' schemas
    contain, in rows whose calls copy their values from the prompt, so that the right calls stay the same.
    """

    name: str = "incidental"
    kinds: tuple[str, ...] = ("swapped", "masked")
    control = None
    on_worlds = False

    def tries(self, kind: str, triggers: int) -> int:
        return TRIES

    def __call__(self, kind: str, attempt: int, rows: list[dict[str, Any]], on: Attacked) -> list[Rewritten | None]:
        names = sorted({name for row in rows for name in _names(row, on.roles)})
        seed = on.seed * TRIES + attempt
        return [
            self._rewritten(kind, row, on.roles, names, random.Random(f"{seed} {i}")) for i, row in enumerate(rows)
        ]

    def _rewritten(
        self, kind: str, row: dict[str, Any], roles: Collection[str], names: list[str], drawn: random.Random
    ) -> Rewritten | None:
        if not copies_its_values(row):
            return None
        used = used_words(row)
        others = [name for name in names if name.lower() not in used]

        def new(word: str, of_type: str) -> str:
            if kind == "masked":
                return marked(MARKER, of_type)
            if of_type != NUMBER:
                return drawn.choice([name for name in others if name != word] or [word])
            integer, dot, part = word.partition(".")
            return _other_number(integer, used, drawn) + dot + part

        prompt, count = with_words(row["prompt"], roles, used, new)
        return Rewritten(row | {"prompt": prompt}) if count and prompt != row["prompt"] else None


def _names(row: dict[str, Any], roles: Collection[str]) -> list[str]:
    used, found = used_words(row), []
    for message in row["prompt"]:
        if message["role"] in roles:
            text = message["content"]
            found += [text[a:b] for a, b, of_type in incidental_words(text, used) if of_type != NUMBER]
    return found


def _other_number(word: str, used: Collection[str], drawn: random.Random) -> str:
    """A number with as many digits that is not used, if there is one."""
    least = 10 ** (len(word) - 1) if len(word) > 1 else 0
    tried = [str(drawn.randrange(least, 10 ** len(word))) for _ in range(20)]
    return next((number for number in tried if number != word and number not in used), word)
