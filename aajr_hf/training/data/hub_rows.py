"""Checks the rows of a dataset on the Hub, with one kind of error for anything that is wrong with them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from datasets import Dataset, LargeList, List

from .files import Item, RowCount, dataset_of, valid_rows
from .formats import in_trl_format
from .schema import PER_TOKEN, remedy
from .tool_schema import RowError

# Columns with objects whose fields can differ in each row.
_CHOSEN = {"tool_calls", "tools", "accepted", "chat_template_kwargs"}


# Columns that must be converted for TRL.
_REWRITTEN = {"conversations", "chat_template_kwargs"}


def check_rows(
    dataset: Dataset, name: str, dataset_format: str = "trl", text_field: str = "text"
) -> tuple[Dataset, RowCount]:
    """
    Return the valid rows of a dataset, in one of TRL's formats for fine-tuning, and the numbers of rows.

    Calls, tools and template arguments that are Arrow structs have the fields of all rows, filled with nulls. The
    nulls are removed, so that the objects are the same as in a JSON file. A null that a row really had cannot be
    distinguished, and is removed, too.

    Raises:
        ValueError: if the columns match no format; the message names the columns.
    """
    columns, filled = set(dataset.column_names), _has_structs(dataset.features)
    formats = ({"input_ids"}, {"prompt", "completion"}, {"messages"}, {text_field})
    if dataset_format == "trl" and not any(wanted <= columns for wanted in (*formats, {"conversations"})):
        fields = ", ".join(dataset.column_names)
        raise ValueError(f"{name} has the columns {fields}: {remedy(columns, text_field)}")
    checked = [c for c in dataset.column_names if c in {*set().union(*formats), *PER_TOKEN, "tools"}]
    if dataset_format != "trl" or filled or columns & _REWRITTEN:
        kept = dataset.select_columns(
            [c for c in dataset.column_names if c in {*checked, *_REWRITTEN, "id", "accepted"}]
        )
        return dataset_of(lambda: in_trl_format(_items(kept, name, filled), dataset_format), text_field)
    count, kept, held = RowCount(), [], set()
    for number, row in valid_rows(_items(dataset.select_columns(checked), name), count, text_field):
        kept.append(number)
        held |= {column for column in checked if row[column] is not None}
    dataset = dataset.select(kept) if count.invalid else dataset
    # TRL recognises formats by their columns, even if these are empty.
    empty = [column for column in checked if kept and column not in held]
    return dataset.remove_columns(empty) if empty else dataset, count


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
