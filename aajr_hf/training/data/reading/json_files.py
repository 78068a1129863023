"""Reads files of JSON: one object per line, or one JSON value in the whole file."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .texts import opened
from .values import DECODER, Item, RowError, is_list_of

# Fields of one row that hold a list of objects: an object with one of them is a row, and not a file's only object
# around a list of rows.
_OF_A_ROW = {
    *("messages", "conversations", "prompt", "completion", "chosen", "rejected", "tools", "functions"),
    *("question", "function", "ground_truth", "answers"),
}


def json_rows(file: Path, unread: dict[str, str] | None = None) -> Iterator[Item]:
    """
    Read the rows of a file of JSON, whatever its name: one object per line, objects that span lines, one list, or one
    object with a field that holds the list, as in `{"data": [...]}`.

    Args:
        unread: Receives the other fields of such an object, each with its place.

    Raises:
        ValueError: if a file that is not JSON Lines cannot be read to its end, because the lost rows cannot be
            counted.
    """
    with opened(file) as text:
        lines = ((number, line) for number, line in enumerate(text, 1) if line.strip())
        first = list(itertools.islice(lines, 2))
        if not _may_be_one_value([line for _, line in first]):
            yield from _lines(file, itertools.chain(first, lines))
            return
    with opened(file) as whole:
        text = whole.read()
    if text.lstrip().startswith("["):
        yield from _listed_rows(file, text)
        return
    try:
        values = list(_values(text))
    except (ValueError, RecursionError) as error:
        lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
        if len(lines) > 1 and not any(line[0] == "{" and line.rstrip()[-1] == "}" for _, line in lines):
            raise ValueError(
                f"{file} cannot be read as JSON, neither line by line nor as a whole ({error}): repair it, or write "
                "one object per line"
            ) from None
        yield from _lines(file, lines)
        return
    yield from _rows_in(file, *values[0][::-1], unread) if len(values) == 1 else _places(file, values)


def _may_be_one_value(lines: list[str]) -> bool:
    """Whether the first lines that are not blank may begin a value that spans lines, or hold the only value."""
    if len(lines) < 2:
        return bool(lines)
    try:
        DECODER.decode(lines[0])
    except (ValueError, RecursionError):
        return True
    return False


def _lines(file: Path, lines: Iterator[tuple[int, str]]) -> Iterator[Item]:
    for number, line in lines:
        place = f"{file.name} line {number}"
        try:
            line.encode()
            yield place, DECODER.decode(line.strip())
        except UnicodeEncodeError as error:
            yield place, RowError(f"is not UTF-8: its character {error.start + 1} cannot be read")
        except (ValueError, RecursionError) as error:
            yield place, RowError(f"is not JSON: {error}")


def _values(text: str) -> Iterator[tuple[int, Any]]:
    """All values of a text, one after the other, each with the line where it begins."""
    position, line = 0, 1
    while (start := _after_space(text, position)) < len(text):
        line += text.count("\n", position, start)
        value, position = DECODER.raw_decode(text, start)
        yield line, value
        line += text.count("\n", start, position)


def _places(file: Path, values: list[tuple[int, Any]]) -> Iterator[Item]:
    return ((f"{file.name} line {line}", value) for line, value in values)


def _rows_in(file: Path, value: Any, line: int, unread: dict[str, str] | None) -> Iterator[Item]:
    """The rows in a file's only value: it is the row, or it holds a list of rows."""
    lists = [name for name, part in value.items() if is_list_of(part, dict)] if isinstance(value, dict) else []
    if isinstance(value, dict) and list(value) == ["data"] and value["data"] == []:
        return
    if not lists or _OF_A_ROW & value.keys():
        yield f"{file.name} line {line}", value
        return
    if len(lists) > 1:
        raise ValueError(f"{file} is an object with several lists ({', '.join(lists)}): give each its own file")
    for name in value.keys() - set(lists) if unread is not None else ():
        unread.setdefault(name, f"{file.name} line {line}")
    for number, row in enumerate(value[lists[0]]):
        yield f"{file.name} {lists[0]}[{number}]", row


def _listed_rows(file: Path, text: str) -> Iterator[Item]:
    """The rows of one list, each with the line where it begins."""
    position = text.index("[") + 1
    line = 1 + text.count("\n", 0, position)
    try:
        while True:
            start = _after_space(text, position)
            line += text.count("\n", position, start)
            if text[start : start + 1] == "]":
                break
            row, position = DECODER.raw_decode(text, start)
            yield f"{file.name} line {line}", row
            line += text.count("\n", start, position)
            comma = _after_space(text, position)
            if text[comma : comma + 1] not in (",", "]"):
                raise ValueError("a comma is missing")
            line += text.count("\n", position, comma)
            position = comma + (text[comma] == ",")
        if text[start + 1 :].strip():
            raise ValueError("something follows the list")
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{file} is a JSON list that cannot be read from line {line} on ({error}): repair it, or write one object "
            "per line"
        ) from None


def _after_space(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position
