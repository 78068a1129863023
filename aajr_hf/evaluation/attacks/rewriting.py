"""What attacks that rewrite the texts of a row have in common."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from transformers import PreTrainedTokenizerBase


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


class TextAttack(Protocol):
    """
    An attack on tool calls that rewrites what users and tools say, so that it has no radius.

    Attributes:
        name: Name of the attack in `--attacks`, tables and results.
        kinds: Names of its kinds, each measured by itself. One may be a control.
    """

    name: str
    kinds: tuple[str, ...]

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
        """
        Rewrite each row once; None for a row that cannot be attacked.

        Args:
            rows: Rows of `read_rows`.
            roles: The roles whose messages may be rewritten.
            seed: Seed of the random choices. Those of a row do not depend on the rows after it.
            texts: A file with the texts of injections; None for the package's own.
        """
