"""The rows of a dataset of the Hub, with one error for whatever may be wrong with them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from datasets import Dataset, LargeList, List

from .files import Item, RowCount, dataset_of, valid_rows
from .formats import in_trl_format
from .schema import PER_TOKEN, remedy
from .tool_schema import RowError

# In which the data chooses the fields of objects, in each row others.
_CHOSEN = {"tool_calls", "tools", "accepted", "chat_template_kwargs"}


# That TRL does not take as data has them.
_REWRITTEN = {"conversations", "chat_template_kwargs"}


def check_rows(
    dataset: Dataset, name: str, dataset_format: str = "trl", text_field: str = "text"
) -> tuple[Dataset, RowCount]:
    """
    The rows of a dataset that can be trained on, in one of TRL's formats for fine-tuning, and how many cannot.

    Calls, tools and arguments of the template that are structs of Arrow have the fields of all rows, as nulls. They become
    what they are in a file of JSON, without nulls; one that a row really had cannot be told apart, and goes, too.

    Raises:
        ValueError: names the columns, where they are those of no format.
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
    # TRL tells formats by their columns, whatever these hold.
    empty = [column for column in checked if kept and column not in held]
    return dataset.remove_columns(empty) if empty else dataset, count


def _has_structs(feature: object, chosen: bool = False) -> bool:
    """Whether what the data has chosen the fields of are structs of Arrow, with the fields of all rows."""
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
