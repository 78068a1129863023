"""The attack `injection`: a text in what a user or a tool says asks for another call."""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from ...training.data.injections import OWN_TEXTS, Injector, read_injection_texts
from .rewriting import Rewritten


@dataclass(frozen=True)
class InjectedRequests:
    """
    A request for another call between the words of a message (`plain`), or after the template's own end of the turn
    (`completion`). The control has the same words in random order (`shuffled`).
    """

    name: str = "injection"
    kinds: tuple[str, ...] = ("plain", "completion", "shuffled")

    def __call__(
        self,
        kind: str,
        tokenizer: PreTrainedTokenizerBase,
        rows: list[dict[str, Any]],
        *,
        roles: Collection[str],
        seed: int,
        texts: Path | None,
    ) -> list[Rewritten | None]:
        injector = Injector(tokenizer, rows, read_injection_texts(texts or OWN_TEXTS), roles)
        found = []
        for number, row in enumerate(rows):
            injection = injector.inject(row, kind, random.Random(f"{seed} {number}"))
            found.append(injection and Rewritten(row | {"prompt": injection.prompt}, injection.call))
        return found
