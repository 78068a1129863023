"""Checks of the columns of preferences (DPO) and prompts (GRPO), before TRL fails on them."""

from __future__ import annotations

import itertools

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, IterableDataset

from .collation import column_names

_KINDS = {str: "a text", list: "messages", type(None): "empty"}


def check_pairs(dataset: Dataset | IterableDataset) -> None:
    """
    Refuse data that are not pairs: `chosen` and `rejected`, both texts or both messages, and optionally their `prompt`
    of the same kind.

    Raises:
        ValueError: if a column is missing, empty in some rows, or of another kind than the others; names the column.
    """
    names = column_names(dataset)
    missing = [name for name in ("chosen", "rejected") if name not in names]
    if missing:
        others = " (a `prompt` and a `completion` are trained with AAJRTrainer)" if "completion" in names else ""
        raise ValueError(
            f"Preferences need the columns `chosen` and `rejected`, and usually `prompt`, but the data have no "
            f"{' and no '.join(missing)}, only {', '.join(names)}: rename or make the columns{others}."
        )
    given = [name for name in ("prompt", "chosen", "rejected") if name in names]
    _check_filled(dataset, given)
    first = next(iter(dataset))
    kinds = {name: _kind(first[name]) for name in given}
    if len(set(kinds.values())) > 1:
        raise ValueError(
            f"{', '.join(f'`{name}` is {kind}' for name, kind in kinds.items())}: all must be texts, or all lists of "
            f"messages. {_remedy(kinds)}"
        )
    begins = first["chosen"][0].get("role") if kinds["chosen"] == _KINDS[list] else None
    if "prompt" in given and begins in ("system", "user"):
        raise ValueError(
            f"`chosen` begins with a message of the role {begins}, although there is a `prompt`, so the prompt would be "
            "trained on twice: remove the column `prompt`, or the messages of the prompt from `chosen` and `rejected`."
        )


def check_prompts(dataset: Dataset | IterableDataset) -> None:
    """
    Refuse data without prompts, each a text or a list of messages.

    Raises:
        ValueError: if there is no column `prompt`, or it is empty in some rows, or of another kind.
    """
    names = column_names(dataset)
    if "prompt" not in names:
        raise ValueError(
            f"GRPO needs the column `prompt`, a text or a list of messages, but the data have only {', '.join(names)}: "
            "rename or make the column."
        )
    _check_filled(dataset, ["prompt"])
    kind = _kind(next(iter(dataset))["prompt"])
    if kind not in (_KINDS[str], _KINDS[list]):
        raise ValueError(f"`prompt` must be a text or a list of messages with `role` and `content`; it is {kind}.")


def _kind(value: object) -> str:
    if isinstance(value, list) and not all(isinstance(message, dict) and "role" in message for message in value):
        return "a list, but not of messages with `role` and `content`"
    return _KINDS.get(type(value), f"a {type(value).__name__}")


def _remedy(kinds: dict[str, str]) -> str:
    if kinds.get("prompt") == _KINDS[str] and kinds["chosen"] == kinds["rejected"] == _KINDS[list]:
        return (
            "If `chosen` and `rejected` begin with the prompt, remove the column `prompt`; otherwise make it messages."
        )
    return "Convert the others."


def _check_filled(dataset: Dataset | IterableDataset, names: list[str]) -> None:
    """
    Refuse rows without a value or without messages in a column; TRL trains on empty texts. Of a streamed dataset, only
    the first row is read.
    """
    empty: dict[str, list[int]] = {name: [] for name in names}
    if isinstance(dataset, Dataset):
        batches = dataset.select_columns(names).with_format("arrow").iter(1000)
        for start, batch in zip(itertools.count(0, 1000), batches):
            for name in names:
                empty[name] += [start + row for row, is_empty in enumerate(_empty(batch[name])) if is_empty]
    else:
        first = next(iter(dataset))
        empty = {name: [0] if first[name] is None or first[name] == [] else [] for name in names}
    for name, rows in empty.items():
        if rows:
            raise ValueError(
                f"`{name}` is empty in {len(rows)} row{'s' * (len(rows) > 1)} (the first is row {rows[0]}): fill it, "
                "or leave these rows out."
            )


def _empty(column: pa.ChunkedArray) -> list[bool]:
    """Whether each value is null or an empty list."""
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        return [not length for length in pc.list_value_length(column).to_pylist()]
    return pc.is_null(column).to_pylist()
