"""Access to the metrics and token counts that TRL's trainers record in private attributes."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator

from transformers import Trainer


def recorded(trainer: Trainer) -> dict[str, list[float]]:
    """Training metrics since the last log, by name. TRL logs the mean of each."""
    return trainer._metrics["train"]


@contextlib.contextmanager
def recorded_apart(trainer: Trainer) -> Iterator[dict[str, list[float]]]:
    """
    Context in which the trainer records into the mapping that is yielded. Afterwards, its own records are as before.
    """
    kept = trainer._metrics["train"], trainer._total_train_tokens
    trainer._metrics["train"] = found = defaultdict(list)
    try:
        yield found
    finally:
        trainer._metrics["train"], trainer._total_train_tokens = kept


def count_tokens(trainer: Trainer, count: int) -> None:
    """Add `count` tokens, of all processes, to the number of trained tokens, as TRL counts and logs them."""
    trainer._total_train_tokens += count // trainer.get_tp_size()
    recorded(trainer)["num_tokens"] = [trainer._total_train_tokens]
