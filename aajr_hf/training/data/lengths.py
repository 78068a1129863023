"""The lengths of prepared examples, compared with the number of positions that a model has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pyarrow.compute as pc
from datasets import Dataset, IterableDataset
from transformers import logging

logger = logging.get_logger(__name__)

# Columns of prepared examples with their tokens: of SFT (documents of packed rows have positions of their own) and DPO.
_PACKED, _TOKENS, _PAIR = "seq_lengths", "input_ids", ("prompt_ids", "chosen_ids", "rejected_ids")


def check_lengths(
    dataset: Dataset | IterableDataset, limit: int, is_fixed: bool, max_length: int | None, what: str
) -> Dataset | IterableDataset:
    """
    Compare the lengths of prepared examples with a model's number of positions: refuse longer examples if the model
    cannot compute further positions (`is_fixed`), and otherwise warn once. Return the dataset; a streamed one is
    compared while it is read. Lengths of other columns than those of SFT and DPO are not known.

    Args:
        limit: The model's number of positions, `max_position_embeddings`.
        max_length: Number of tokens after which examples are cut; None if they are not.
        what: What the examples are, such as `training`, for the message.

    Raises:
        ValueError: if an example is longer and `is_fixed`; names `max_length`.
    """
    if max_length is not None and max_length <= limit:
        return dataset
    if isinstance(dataset, Dataset):
        lengths = list(_lengths(dataset, max_length))
        longer = [row for row, length in enumerate(lengths) if length > limit]
        if longer:
            first = f"the first is example {longer[0]} with {lengths[longer[0]]} tokens"
            _tell(f"{len(longer)} of {len(lengths)} {what} examples are", first, limit, is_fixed, _remedy(limit))
        return dataset

    def length_of(example: dict[str, Any]) -> int:
        return len(example.get(_TOKENS, ()))

    def tell(row: int, length: int) -> None:
        _tell(f"Example {row} of the {what} data is", f"it has {length} tokens", limit, is_fixed, _remedy(limit))

    return dataset if _PACKED in (dataset.column_names or ()) else _watched(dataset, length_of, limit, tell)


def check_answers(
    dataset: Dataset | IterableDataset,
    length_of: Callable[[dict[str, Any]], int],
    answer: int,
    limit: int,
    is_fixed: bool,
    what: str,
) -> Dataset | IterableDataset:
    """
    The same for prompts whose answers are sampled: the tokens of a prompt and of its longest answer are compared.

    Args:
        length_of: Function from an example to the number of tokens of its prompt.
        answer: `max_completion_length`, the number of tokens after which an answer ends.

    Raises:
        ValueError: if a prompt and its answer can be longer and `is_fixed`; names `max_completion_length`.
    """

    def tell(subject: str, first: str, longest: int) -> None:
        room = limit - longest
        remedy = f"set `max_completion_length` to {room} or less" if room > 0 else "leave out the longest prompts"
        _tell(f"{subject}, with `max_completion_length` = {answer}, can be", first, limit, is_fixed, remedy)

    if not isinstance(dataset, Dataset):
        return _watched(
            dataset,
            length_of,
            limit - answer,
            lambda row, length: tell(f"Prompt {row} of the {what} data", f"it has {length} tokens", length),
        )
    lengths = list(map(length_of, dataset.select_columns(["prompt"])))
    longer = [row for row, length in enumerate(lengths) if length + answer > limit]
    if longer:
        first = f"the first is prompt {longer[0]} with {lengths[longer[0]]} tokens"
        tell(f"{len(longer)} of {len(lengths)} {what} prompts", first, max(lengths))
    return dataset


def _watched(
    dataset: IterableDataset, length_of: Callable[[dict[str, Any]], int], limit: int, tell: Callable[[int, int], None]
) -> IterableDataset:
    """A stream that tells the first example above the limit, with its number and its length, when it is read."""
    told = []

    def check(example: dict[str, Any], row: int) -> dict[str, Any]:
        length = length_of(example)
        if length > limit and not told:
            told.append(row)
            tell(row, length)
        return example

    return dataset.map(check, with_indices=True)


def _remedy(limit: int) -> str:
    return f"set `max_length` to {limit} or less"


def _tell(subject: str, where: str, limit: int, is_fixed: bool, remedy: str) -> None:
    message = f"{subject} longer than the {limit} positions of the model (`max_position_embeddings`; {where})"
    if is_fixed:
        raise ValueError(f"{message}, and it has no further ones: {remedy}, or use a model with a longer context.")
    logger.warning(
        f"{message}; it was not trained on such lengths, so {remedy} unless you mean to extend its context."
    )


def _lengths(dataset: Dataset, max_length: int | None) -> Iterator[int]:
    """The number of tokens of each example, or of the longest document of each packed row."""
    names = [name for name in (_PACKED, _TOKENS, *_PAIR) if name in dataset.column_names]
    for batch in dataset.select_columns(names).with_format("arrow").iter(1000):
        if _PACKED in names:
            yield from (max(documents, default=0) for documents in batch[_PACKED].to_pylist())
        elif _TOKENS in names:
            yield from pc.list_value_length(batch[_TOKENS]).to_pylist()
        elif set(_PAIR) <= set(names):
            prompt, chosen, rejected = (pc.list_value_length(batch[name]).to_pylist() for name in _PAIR)
            for parts in zip(prompt, chosen, rejected, strict=True):
                yield min(parts[0] + max(parts[1:]), max_length or sum(parts))
