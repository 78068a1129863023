"""The attack `incidental`: words that the right call does not use are swapped or masked."""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from ...training.data.incidental import (
    MARKER,
    copies_its_values,
    marked,
    names_in,
    swapped,
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
        names = sorted({name for row in rows for name in names_in(row["prompt"], on.roles, used_words(row))})
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
        if kind == "masked":
            prompt, count = with_words(row["prompt"], roles, used, lambda _, of_type: marked(MARKER, of_type))
        else:
            prompt, count = swapped(row["prompt"], roles, used, names, drawn)
        return Rewritten(row | {"prompt": prompt}) if count and prompt != row["prompt"] else None
