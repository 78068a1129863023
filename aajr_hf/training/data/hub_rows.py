"""Checks the rows of a dataset on the Hub, with one kind of error for anything that is wrong with them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

from datasets import Dataset

from .formats.table import has_a_format, in_trl_format, readable
from .nulls import has_structs, without_nulls
from .reading.values import Item, RowError
from .row_datasets import RowCount, dataset_of, valid_rows
from .schema import remedy


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
    convert = functools.partial(in_trl_format, dataset_format=dataset_format, text_field=text_field, unread=unread)
    filled, count = has_structs(read.features), RowCount()
    found = (
        None if filled or "chat_template_kwargs" in columns else _as_they_are(read, name, convert, count, text_field)
    )
    if found is None:
        made, count = dataset_of(lambda: convert(_items(read, name, filled)), text_field)
    else:
        kept, held = found
        count.fields.clear()  # they are still in the rows, and are named by whoever reads these
        made = dataset.select(kept) if count.invalid else dataset
        # TRL recognises formats by their columns, even if these are empty.
        left = [column for column in columns if kept and column not in held]
        made = made.remove_columns(left) if left else made
    count.unread = unread
    return made, count


def _as_they_are(
    dataset: Dataset, name: str, convert: Callable, count: RowCount, text_field: str
) -> tuple[list[int], set[str]] | None:
    """
    The numbers of the valid rows and the columns that they have, if the conversion changes no column of any row; None
    if it does. `count` counts the rows.
    """
    changed, columns = False, []

    def watched() -> Iterator[Item]:
        nonlocal changed
        for place, row in _items(dataset, name):
            ((_, made),) = convert([(place, row)])
            changed = isinstance(made, dict) and any(row.get(key) != value for key, value in made.items())
            if changed:
                return
            columns.append(set(made) if isinstance(made, dict) else set())
            yield place, made

    kept = [number for number, _ in valid_rows(watched(), count, text_field)]
    return None if changed else (kept, set().union(*(columns[number] for number in kept)))


def _items(dataset: Dataset, name: str, filled: bool = False) -> Iterator[Item]:
    for number in range(len(dataset)):
        place = f"row {number} of {name}"
        try:
            yield place, without_nulls(dataset[number]) if filled else dataset[number]
        except UnicodeDecodeError as error:
            yield place, RowError(f"is not UTF-8: {error.reason} at byte {error.start}")
