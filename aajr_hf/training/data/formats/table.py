"""The formats of rows, each recognised by its columns, and the conversion of a row to TRL's formats."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, NamedTuple

from ..reading.values import Item, RowError, field, parsed
from .alpaca import alpaca_row
from .messages import message_of
from .sharegpt import sharegpt_row
from .xlam import xlam_row


class Format(NamedTuple):
    """Columns that every row of a format has, columns that it may have, and the conversion to TRL's columns."""

    needs: tuple[str, ...]
    may_have: tuple[str, ...]
    convert: Callable[[dict[str, Any]], dict[str, Any]]


_CONVERTED = {
    "sharegpt": Format(("conversations",), (), sharegpt_row),
    "xlam": Format(("query", "answers"), (), xlam_row),
    "alpaca": Format(("instruction", "output"), ("input", "history"), alpaca_row),
}
# Other names of formats that are read in the same way.
_SAME = {"toolbench": "sharegpt", "openai": "trl"}
# "bfcl" is a format of files, not of rows: its answers stand in other files.
FORMATS = ("auto", "trl", "openai", *_CONVERTED, "toolbench", "bfcl")
_BESIDE = ("id", "tools", "functions", "chat_template_kwargs", "accepted")
# Columns whose text is JSON. `tools` may stay a text.
_JSON = ("messages", "conversations", "answers", "history", "functions", "chat_template_kwargs")
# Columns that tokenized rows may have for each token; TRL's collator needs them in every row, or in none.
PER_TOKEN = ("labels", "completion_mask", "assistant_masks", "observation_mask")


def _trl(text_field: str) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """TRL's formats in the order in which it looks for them: the columns that make one, and those read with them."""
    return [
        (("input_ids",), (*PER_TOKEN, "seq_lengths")),
        (("prompt", "completion"), ("actions", "action_costs")),
        (("messages",), ()),
        ((text_field,), ()),
    ]


def in_trl_format(
    items: Iterable[Item], dataset_format: str, text_field: str = "text", unread: dict[str, str] | None = None
) -> Iterator[Item]:
    """
    Convert rows of any format to TRL's columns: `messages`, `prompt` and `completion`, a text in `text_field`, or
    tokens, as `canonical_row` reads them. Rows that cannot be converted become their errors; rows of no known format
    stay as they are.

    Args:
        unread: Receives the columns that nothing reads, each with the place of the first. They are left out.
    """
    for place, row in items:
        if isinstance(row, dict):
            try:
                row, left = trl_row(row, dataset_format, text_field)
            except RowError as error:
                row, left = error, []
            for name in left if unread is not None else ():
                unread.setdefault(name, place)
        yield place, row


def trl_row(row: dict[str, Any], dataset_format: str, text_field: str = "text") -> tuple[dict[str, Any], list[str]]:
    """
    Convert one row, and name its columns that nothing reads; these are left out.

    Raises:
        RowError: if the row cannot be converted, or if its columns fit more than one format.
    """
    row = {name: value for name, value in row.items() if value is not None}
    for name in {*_JSON, "tools"} & row.keys():
        if isinstance(row[name], str) and not row[name].strip():
            del row[name]  # an empty cell of a table
        elif isinstance(row[name], str) and name in _JSON:
            row[name] = parsed(f"`{name}`", row[name])
    name, columns, used, replaced = _named(row, dataset_format, text_field), set(row), set(), set()
    if name in _CONVERTED:
        used = {*_CONVERTED[name].needs, *_CONVERTED[name].may_have}
        replaced = {column for needs, _ in _trl(text_field) for column in needs} & columns - used
        row = _CONVERTED[name].convert({column: value for column, value in row.items() if column not in replaced})
    made = _trl_columns(row, text_field)
    if not made:
        return row, []
    for column in {"messages", "prompt", "completion"} & set(made):
        if isinstance(row[column], list):
            row[column] = [message_of(f"`{column}`[{n}]", message) for n, message in enumerate(row[column])]
    beside = (*_BESIDE, "system") if {"messages", "completion"} & set(made) else _BESIDE
    kept = {column: value for column, value in row.items() if column in (*made, *beside)}
    return kept, sorted(columns - used - kept.keys() | replaced)


def has_a_format(columns: Collection[str], text_field: str = "text") -> bool:
    """Whether rows with these columns can be recognised."""
    needed = [needs for needs, _ in _trl(text_field)] + [each.needs for each in _CONVERTED.values()]
    return any(set(needs) <= set(columns) for needs in needed)


def readable(columns: Collection[str], text_field: str = "text") -> list[str]:
    """Those of the columns that one of the formats reads."""
    read = {"system", *_BESIDE}.union(
        *(needs + others for needs, others in _trl(text_field)),
        *(each.needs + each.may_have for each in _CONVERTED.values()),
    )
    return [column for column in columns if column in read]


def _named(row: dict[str, Any], dataset_format: str, text_field: str) -> str:
    """
    The format of a row, as the table names it.

    Raises:
        RowError: if the format is to be recognised, and the columns fit more than one.
    """
    fitting = {name: each.needs for name, each in _CONVERTED.items() if row.keys() >= set(each.needs)}
    if made := _trl_columns(row, text_field):
        fitting["trl"] = tuple(column for column in made if column in row)
    if dataset_format == "openai":
        field(row, "messages", list)
    if dataset_format == "trl" and not made and "sharegpt" in fitting:
        return "sharegpt"  # TRL reads these, too
    if dataset_format != "auto":
        return _SAME.get(dataset_format, dataset_format)
    if len(fitting) > 1:
        found = " and ".join(f"{name} (`{'`, `'.join(needs)}`)" for name, needs in fitting.items())
        raise RowError(f"fits the formats {found}: set `dataset_format` to one of them")
    return next(iter(fitting), "trl")


def _trl_columns(row: Collection[str], text_field: str) -> tuple[str, ...]:
    """The columns of the first of TRL's formats that the row has; empty if it has none."""
    return next((needs + others for needs, others in _trl(text_field) if all(c in row for c in needs)), ())
