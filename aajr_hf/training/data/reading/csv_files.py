"""Reads files of comma-separated values."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from .texts import opened
from .values import Item, RowError


def csv_rows(file: Path) -> Iterator[Item]:
    """
    Read the rows of a file of comma-separated values, whose first line names the fields.

    Raises:
        ValueError: if a field has no name, or two fields have the same name: one of them would be lost.
    """
    csv.field_size_limit(2**31 - 1)  # the default is too small for a page of text
    with opened(file, newline="") as lines:
        reader = csv.reader(lines, strict=True)
        names, end = None, 0
        while True:
            place = f"{file.name} line {end + 1}"
            try:
                values = next(reader, None)
                if values is None:
                    return
                if names is None:
                    names = values
                    if unclear := [name for name in names if not name.strip() or names.count(name) > 1]:
                        raise ValueError(
                            f"{file} has the field {unclear[0]!r} more than once, or without a name: give each field "
                            "its own name"
                        )
                elif values and len(values) != len(names):
                    yield place, RowError(f"has {len(values)} values for {len(names)} fields")
                elif values:
                    yield place, dict(zip(names, values, strict=True))
            except csv.Error as error:
                yield place, RowError(f"is not CSV: {error}")
            end = reader.line_num
