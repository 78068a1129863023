"""What attacks that rewrite the texts of a row have in common."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Rewritings of each row by attacks that draw at random; the worst counts.
TRIES = 2


@dataclass(frozen=True)
class Rewritten:
    """
    A rewritten row.

    Attributes:
        row: The row with what is right for it: its `completion` and the `accepted` calls.
        wanted: The call that the attack asks for, in the canonical form, or None.
    """

    row: dict[str, Any]
    wanted: dict[str, Any] | None = None


@dataclass(frozen=True)
class Attacked:
    """
    The agent under attack, and what may be rewritten.

    Attributes:
        model, tokenizer: The agent.
        roles: The roles whose messages may be rewritten.
        seed: Seed of the random choices.
        texts: File with the texts of injections; None for the package's own.
        triggers: Triggers of a bank.
        batch_size: Rows in a forward pass.
    """

    model: PreTrainedModel | None
    tokenizer: PreTrainedTokenizerBase
    roles: Collection[str]
    seed: int = 0
    texts: Path | None = None
    triggers: tuple[str, ...] = ()
    batch_size: int = 16


class TextAttack(Protocol):
    """
    An attack that rewrites what users and tools say, so that it has no radius.

    Attributes:
        name: Name of the attack in `--attacks`, tables and results.
        kinds: Names of its kinds, each measured by itself. One may be a control.
        control: The kind that is a control, and does not count for what all attacks leave together; None without one.
        on_worlds: Whether it attacks rows of worlds, too, and not only tool calls.
    """

    name: str
    kinds: tuple[str, ...]
    control: str | None
    on_worlds: bool

    def tries(self, kind: str, triggers: int) -> int:
        """Return how often each row is rewritten by a kind, given the number of triggers of a bank."""

    def __call__(self, kind: str, attempt: int, rows: list[dict[str, Any]], on: Attacked) -> list[Rewritten | None]:
        """
        Rewrite each row once; None for a row that cannot be attacked. Each `attempt`, counted from 0, gives other texts.
        """
