"""The attack `injection`: a text in what a user or a tool says asks for another call."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from ...training.data.injections import OWN_TEXTS, Injector, read_injection_texts
from .rewriting import TRIES, Attacked, Rewritten


@dataclass(frozen=True)
class InjectedRequests:
    """
    A request for another call between the words of a message (`plain`), or after the template's own end of the turn
    (`completion`). The control has the same words in random order (`shuffled`).
    """

    name: str = "injection"
    kinds: tuple[str, ...] = ("plain", "completion", "shuffled")
    control = "shuffled"
    on_worlds = False

    def tries(self, kind: str, triggers: int) -> int:
        return TRIES

    def __call__(self, kind: str, attempt: int, rows: list[dict[str, Any]], on: Attacked) -> list[Rewritten | None]:
        injector = Injector(on.tokenizer, rows, read_injection_texts(on.texts or OWN_TEXTS), on.roles)
        found, seed = [], on.seed * TRIES + attempt
        for number, row in enumerate(rows):
            injection = injector.inject(row, kind, random.Random(f"{seed} {number}"))
            found.append(injection and Rewritten(row | {"prompt": injection.prompt}, injection.call))
        return found
