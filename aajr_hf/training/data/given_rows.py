"""Datasets that are given to a trainer in Python: other formats are converted as those of files are, and checked."""

from __future__ import annotations

import logging
from typing import Any

from datasets import Dataset, IterableDataset

from .canonical import CONVERSATIONS, is_conversation
from .collation import column_names
from .formats.table import has_a_format, trl_row
from .hub_rows import check_rows
from .reading.values import RowError
from .row_datasets import RowCount
from .schema import remedy

logger = logging.getLogger(__name__)


def in_formats_of_trl(
    dataset: Dataset | IterableDataset, name: str, text_field: str, skip_invalid_rows: bool
) -> tuple[Dataset | IterableDataset, RowCount]:
    """
    Return a dataset in one of TRL's formats, whose rows are texts, messages or tokens, and the numbers of its rows.
    Messages and tokens stay as they are, and are read later; texts are checked.

    Args:
        name: How messages call the dataset.
        text_field: Column of rows that are plain text.
        skip_invalid_rows: Whether invalid rows are left out, with a warning that counts them. In a stream they become
            empty, and are left out when they are read.

    Raises:
        ValueError: if the dataset is in no known format (the message names the columns), has no rows, or has invalid
            rows that may not be left out.
    """
    columns, first = column_names(dataset), next(iter(dataset), {})
    if "input_ids" in columns or any(map(_is_trl, map(first.get, CONVERSATIONS))):
        return dataset, RowCount()
    if not has_a_format(columns, text_field):
        raise ValueError(f"The {name} data have the columns {', '.join(columns)}: {remedy(columns, text_field)}.")
    if isinstance(dataset, IterableDataset):
        return _streamed(dataset, columns, first, name, text_field, skip_invalid_rows), RowCount()
    made, count = check_rows(dataset, f"the {name} data", "auto", text_field)
    if count.invalid and not (skip_invalid_rows and count.valid):
        raise ValueError(f"{count}. Correct them, or set `skip_invalid_rows` to true to leave them out.")
    if not count.invalid and all(
        column in columns and made[0][column] == first[column] for column in made.column_names
    ):
        return dataset, count  # with all its columns
    if count.invalid:
        logger.warning(f"Invalid rows are skipped. {count}.")
    if count.unread:
        logger.warning(f"Columns of the {name} data that nothing uses are left out: `{'`, `'.join(count.unread)}`.")
    count.warn_unread_fields()
    return made, count


def _streamed(
    dataset: IterableDataset, columns: list[str], first: dict, name: str, text_field: str, skip_invalid_rows: bool
) -> IterableDataset:
    made, _ = trl_row(first, "auto", text_field)
    if all(first.get(column) == value for column, value in made.items()):
        return dataset

    def convert(row: dict[str, Any], number: int) -> dict[str, Any]:
        try:
            return dict.fromkeys(made) | trl_row(row, "auto", text_field)[0]
        except RowError as error:
            if skip_invalid_rows:
                return dict.fromkeys(made)
            raise ValueError(
                f"A row is invalid: row {number} of the {name} data: {error}. Correct it, or set `skip_invalid_rows` to "
                "true to leave it out."
            ) from error

    return dataset.map(convert, with_indices=True, remove_columns=[column for column in columns if column not in made])


def _is_trl(value: object) -> bool:
    return is_conversation(value) and "role" in value[0]
