"""What is taken away from prepared examples: tokens that are no actions, and answers that a length limit cuts."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

from datasets import Dataset, IterableDataset

from .collation import column_names
from .streams import StreamCount

logger = logging.getLogger(__name__)


# The columns of pairs.
_PAIR = ("prompt_ids", "chosen_ids", "rejected_ids")


@dataclass
class Cut:
    """
    What `max_length` cuts off the examples of a dataset.

    Attributes:
        max_length: The limit in tokens, or None.
        truncation_mode: Which end is kept, `keep_start` or `keep_end`.
        examples: Number of all examples.
        answers: Number of examples that lose tokens of their answers, but not all.
        first: Number of the first of these examples, or None.
        tokens: Number of all tokens that they lose.
        actions: Number of tokens of answers that they lose.
        dropped: Numbers of the examples that are left out, because nothing of their answers is left.
    """

    max_length: int | None
    truncation_mode: str = "keep_start"
    examples: int = 0
    answers: int = 0
    first: int | None = None
    tokens: int = 0
    actions: int = 0
    dropped: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, dataset: Dataset, max_length: int | None, truncation_mode: str) -> Cut:
        """
        The cut of examples that are not cut yet: with `labels`, -100 on what is no answer, or pairs of answers to
        prompts, which TRL cuts when it makes a batch.
        """
        cut = cls(max_length, truncation_mode, len(dataset))
        names = column_names(dataset)
        columns = ["labels"] if "labels" in names else list(_PAIR)
        if max_length is not None and set(columns) <= set(names):
            for number, example in enumerate(dataset.select_columns(columns)):
                cut.add(number, example)
        return cut

    def add(self, number: int, example: dict[str, Any]) -> tuple[int, bool]:
        """Add one example. Return how many tokens of its answers are cut off, and whether nothing of them is left."""
        lost, actions, is_left = self._of_labels(example) if "labels" in example else self._of_pair(example)
        if not is_left:
            self.dropped.append(number)
        elif lost:
            self.tokens, self.actions = self.tokens + lost, self.actions + actions
            if actions:
                self.answers, self.first = self.answers + 1, number if self.first is None else self.first
        return actions, not is_left

    def _of_labels(self, example: dict[str, Any]) -> tuple[int, int, bool]:
        labels, at_start = example["labels"], self.truncation_mode == "keep_start"
        lost = labels[self.max_length :] if at_start else labels[: -self.max_length]
        kept = labels[: self.max_length] if at_start else labels[-self.max_length :]
        return len(lost), sum(label != -100 for label in lost), any(label != -100 for label in kept)

    def _of_pair(self, example: dict[str, Any]) -> tuple[int, int, bool]:
        prompt, *answers = (len(example[name]) for name in _PAIR)
        before = prompt if self.truncation_mode == "keep_start" else 0
        lost = sum(max(before + answer - self.max_length, 0) for answer in answers)
        return lost, lost, before < self.max_length

    def warn(self, name: str, first: int = 0) -> None:
        """
        Log a warning if answers are cut, and one if examples are left out.

        Args:
            name: How messages call the dataset.
            first: Number of its first example.

        Raises:
            ValueError: if all examples are left out.
        """
        if self.answers:
            logger.warning(
                f"`max_length` = {self.max_length} cuts the answers of {self.answers} of {self.examples} examples "
                f"(first of example {first + self.first} of the {name} data): {self.actions} tokens are not trained on. "
                "Raise `max_length` to keep them."
            )
        if self.dropped:
            told = (
                f"{len(self.dropped)} of {self.examples} examples are dropped (the first is example "
                f"{first + self.dropped[0]} of the {name} data), because with `max_length` = {self.max_length} nothing "
                "of them is trained on"
            )
            if len(self.dropped) == self.examples:
                raise ValueError(f"{told}, so that none is left: raise `max_length`.")
            logger.warning(f"{told}.")


def counted(
    dataset: IterableDataset, max_length: int | None, truncation_mode: str, count: StreamCount
) -> IterableDataset:
    """Count what `max_length` cuts off the examples of a stream while they are read, with a warning at the first."""

    def add(example: dict[str, Any], number: int) -> dict[str, Any]:
        actions, is_dropped = Cut(max_length, truncation_mode).add(number, example)
        place = count.place("example", number)
        if is_dropped:
            count.add(examples=1, dropped=1)
            count.tell(
                "dropped",
                f"With `max_length` = {max_length}, nothing of {place} is trained on: it is dropped, as others may be.",
            )
        else:
            count.add(examples=1, cut=bool(actions), tokens=actions)
            told = f"`max_length` = {max_length} cuts {actions} tokens off the answer of {place}, and may cut others."
            count.tell("cut", told) if actions else None
        return example

    return dataset if max_length is None else dataset.map(add, with_indices=True)


def only_actions(dataset: Dataset | IterableDataset) -> Dataset | IterableDataset:
    """Take the tokens that `action_mask` marks with 0 out of the `labels`, and remove this column."""
    if "action_mask" not in column_names(dataset):
        return dataset

    def take(example: dict[str, Any]) -> dict[str, Any]:
        labels, mask = example["labels"], example["action_mask"]
        if mask is None:
            return {"labels": labels}
        return {"labels": [label if bit else -100 for label, bit in zip(labels, mask, strict=True)]}

    return dataset.map(take, remove_columns=["action_mask"])
