"""Checks the rows of a dataset on the Hub, with one kind of error for anything that is wrong with them."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

from datasets import Dataset, LargeList, List

from .formats.table import has_a_format, in_trl_format, readable
from .reading.values import Item, RowError
from .row_datasets import RowCount, dataset_of, valid_rows
from .schema import remedy

# Columns with objects whose fields can differ in each row.
_CHOSEN = {"tool_calls", "tools", "functions", "answers", "accepted", "chat_template_kwargs"}


def check_rows(
    dataset: Dataset, name: str, dataset_format: str = "auto", text_field: str = "text"
) -> tuple[Dataset, RowCount]:
    """
    Return the valid rows of a dataset, in one of TRL's formats for fine-tuning, and the numbers of rows.

    Calls, tools and template arguments that are Arrow structs have the fields of all rows, filled with nulls. The
    nulls are removed, so that the objects are the same as in a JSON file. A null that a row really had cannot be
    distinguished, and is removed, too.

    Raises:
        ValueError: if the columns match no format; the message names the columns.
    """
    columns = dataset.column_names
    if dataset_format in ("auto", "trl") and not has_a_format(columns, text_field):
        raise ValueError(f"{name} has the columns {', '.join(columns)}: {remedy(columns, text_field)}")
    read = dataset.select_columns(readable(columns, text_field))
    unread = {column: name for column in columns if column not in read.column_names}
    filled = _has_structs(read.features)

    convert = functools.partial(in_trl_format, dataset_format=dataset_format, text_field=text_field, unread=unread)
    count, kept, held, changed = RowCount(), [], set(), filled or "chat_template_kwargs" in columns

    def watched() -> Iterator[Item]:
        nonlocal changed
        for place, row in _items(read, name):
            ((_, made),) = convert([(place, row)])
            changed |= isinstance(made, dict) and any(row.get(key) != value for key, value in made.items())
            if changed:
                return
            yield place, made

    for number, row in valid_rows(watched(), count, text_field):
        kept.append(number)
        held |= row.keys()
    if changed:
        made, count = dataset_of(lambda: convert(_items(read, name, filled)), text_field)
    else:
        made = dataset.select(kept) if count.invalid else dataset
        # TRL recognises formats by their columns, even if these are empty.
        left = [column for column in columns if kept and column not in held]
        made = made.remove_columns(left) if left else made
    count.unread = unread
    return made, count


def _has_structs(feature: object, chosen: bool = False) -> bool:
    """Whether objects whose fields differ in each row are stored as Arrow structs, with the fields of all rows."""
    if isinstance(feature, dict):
        return chosen or any(_has_structs(part, name in _CHOSEN) for name, part in feature.items())
    return isinstance(feature, List | LargeList) and _has_structs(feature.feature, chosen)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        said = {"content"} & value.keys() if "role" in value else set()  # templates look it up in every message
        return {name: _without_nulls(part) for name, part in value.items() if part is not None or name in said}
    return [_without_nulls(part) for part in value] if isinstance(value, list) else value


def _items(dataset: Dataset, name: str, without_nulls: bool = False) -> Iterator[Item]:
    for number in range(len(dataset)):
        place = f"row {number} of {name}"
        try:
            yield place, _without_nulls(dataset[number]) if without_nulls else dataset[number]
        except UnicodeDecodeError as error:
            yield place, RowError(f"is not UTF-8: {error.reason} at byte {error.start}")
