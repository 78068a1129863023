"""Counts what happens to the rows of a streamed dataset while they are read, in whichever process reads them."""

from __future__ import annotations

import logging

import torch
from accelerate import Accelerator
from torch.utils.data import get_worker_info
from transformers import TrainerCallback

logger = logging.getLogger(__name__)

# What is counted, and the sentence about it. `rows` are all rows of messages that were read, `examples` what became of
# them and of rows of other kinds.
_SENTENCES = {
    "invalid": "{invalid} of {rows} rows were invalid and were left out.",
    "left_out": "The chat template left reasoning out of earlier turns of {left_out} of {rows} rows.",
    "cut": "`max_length` cut the answers of {cut} of {examples} examples: {tokens} tokens were not trained on.",
    "dropped": "{dropped} of {examples} examples were dropped, because with `max_length` nothing of them is trained on.",
}
_NAMES = ("rows", "examples", "tokens", *_SENTENCES)
# The main process and the workers of a DataLoader; of more workers, some count in the same place.
_READERS = 257


class StreamCount:
    """
    Numbers of the rows that are read from a stream. The workers of a DataLoader count in memory that they share with
    the process that started them, each in a place of its own, so that none waits for another.

    Args:
        name: How messages call the dataset.
    """

    def __init__(self, name: str):
        self.name = name
        self._numbers = torch.zeros(len(_NAMES), _READERS, dtype=torch.int64).share_memory_()
        self._told: set[str] = set()

    def add(self, **numbers: int) -> None:
        """Add to some of the numbers, by their names."""
        worker = get_worker_info()
        place = 0 if worker is None else 1 + worker.id % (_READERS - 1)
        for name, number in numbers.items():
            self._numbers[_NAMES.index(name), place] += number

    def tell(self, kind: str, text: str) -> None:
        """Log a warning, if this process has not logged one of this kind yet."""
        if kind not in self._told:
            self._told.add(kind)
            logger.warning(text)

    def place(self, what: str, number: int) -> str:
        """How messages call a row or an example. A worker counts those that it reads itself."""
        worker = get_worker_info()
        return f"{what} {number} of the {self.name} data" + ("" if worker is None else f" of worker {worker.id}")

    def restart(self) -> None:
        """Set all numbers to 0."""
        self._numbers.zero_()

    @property
    def numbers(self) -> torch.Tensor:
        """The numbers of this process and its workers, (number of names,)."""
        return self._numbers.sum(dim=1)


class StreamTotals(TrainerCallback):
    """
    Logs at the end of training what was counted, over all processes. Rows count whenever they are read: in each epoch,
    and also if they are read ahead and training ends before they are used.
    """

    def __init__(self, count: StreamCount, accelerator: Accelerator):
        self.count, self.accelerator = count, accelerator

    def on_train_begin(self, args, state, control, **kwargs):
        self.count.restart()  # rows were looked at before

    def on_train_end(self, args, state, control, **kwargs):
        numbers = self.accelerator.reduce(self.count.numbers.to(self.accelerator.device), "sum")
        found = dict(zip(_NAMES, numbers.tolist(), strict=True))
        for kind, sentence in _SENTENCES.items():
            if found[kind] and self.accelerator.is_main_process:
                logger.warning(f"Of the {self.count.name} data, as far as they were read: {sentence.format(**found)}")
