"""What TRL's trainers record while they train, which they keep to themselves."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator

from transformers import Trainer


def recorded(trainer: Trainer) -> dict[str, list[float]]:
    """The training metrics since they were last logged, by name: TRL logs the mean of each."""
    return trainer._metrics["train"]


@contextlib.contextmanager
def recorded_apart(trainer: Trainer) -> Iterator[dict[str, list[float]]]:
    """Inside, the trainer records into the mapping that this gives; afterwards it is as if it had recorded nothing."""
    kept = trainer._metrics["train"], trainer._total_train_tokens
    trainer._metrics["train"] = found = defaultdict(list)
    try:
        yield found
    finally:
        trainer._metrics["train"], trainer._total_train_tokens = kept


def count_tokens(trainer: Trainer, count: int) -> None:
    """Add tokens, of all processes, to those trained on so far, as TRL counts and logs them."""
    trainer._total_train_tokens += count // trainer.get_tp_size()
    recorded(trainer)["num_tokens"] = [trainer._total_train_tokens]
