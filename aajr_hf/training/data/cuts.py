"""What is taken away from prepared examples: tokens that are no actions, and answers that a length limit cuts."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from datasets import Dataset, IterableDataset

from .collation import column_names

logger = logging.getLogger(__name__)


@dataclass
class Cut:
    """
    What `max_length` cuts off the examples of a dataset.

    Attributes:
        max_length: The limit in tokens, or None.
        examples: Number of all examples.
        answers: Number of examples that lose tokens of their answers.
        first: Number of the first of these examples, or None.
        tokens: Number of all tokens that are lost.
        actions: Number of tokens of answers that are lost.
    """

    max_length: int | None
    examples: int = 0
    answers: int = 0
    first: int | None = None
    tokens: int = 0
    actions: int = 0

    @classmethod
    def of(cls, dataset: Dataset, max_length: int | None, truncation_mode: str) -> Cut:
        """The cut of examples with `labels`, -100 on what is no answer, that are not cut yet."""
        cut = cls(max_length, len(dataset))
        if max_length is None:
            return cut
        for row, example in enumerate(dataset.select_columns(["labels"])):
            labels = example["labels"]
            if len(labels) > max_length:
                lost = labels[max_length:] if truncation_mode == "keep_start" else labels[:-max_length]
                cut._add(row, len(lost), sum(label != -100 for label in lost))
        return cut

    @classmethod
    def of_pairs(cls, dataset: Dataset, max_length: int | None, truncation_mode: str) -> Cut:
        """The cut of pairs of answers to prompts, which TRL cuts when it makes a batch."""
        cut = cls(max_length, len(dataset))
        columns = [name for name in ("prompt_ids", "chosen_ids", "rejected_ids") if name in column_names(dataset)]
        if max_length is None or len(columns) < 3:
            return cut
        for row, pair in enumerate(dataset.select_columns(columns)):
            prompt, *answers = (len(pair[name]) for name in columns)
            before = prompt if truncation_mode == "keep_start" else 0
            lost = [max(before + answer - max_length, 0) for answer in answers]
            if any(lost):
                cut._add(row, sum(lost), sum(lost))
        return cut

    def _add(self, row: int, tokens: int, actions: int) -> None:
        self.tokens, self.actions = self.tokens + tokens, self.actions + actions
        if actions:
            self.answers, self.first = self.answers + 1, row if self.first is None else self.first

    def warn(self, name: str) -> None:
        """Log a warning if answers are cut."""
        if self.answers:
            logger.warning(
                f"`max_length` = {self.max_length} cuts the answers of {self.answers} of {self.examples} examples "
                f"(first of example {self.first} of the {name} data): {self.actions} tokens are not trained on. Raise "
                "`max_length` to keep them."
            )


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
