"""Reads the rows of local files, each with its line number or its error, and makes datasets of them."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Json, List, Value

from .canonical import canonical_row
from .exact_json import use_exact_json
from .schema import check_row
from .tool_schema import RowError, no_constant

# The place of a row, and the row itself or its error.
Item = tuple[str, object]
_SHOWN = 5
_LONGEST = 300


@dataclass
class RowCount:
    """
    Numbers of valid and invalid rows.

    Attributes:
        valid: Number of rows that can be trained on.
        invalid: Number of all other rows.
        shown: The place and the error of the first invalid rows.
    """

    valid: int = 0
    invalid: int = 0
    shown: list[str] = field(default_factory=list)

    def add(self, place: str, error: RowError) -> None:
        self.invalid += 1
        if len(self.shown) < _SHOWN:
            self.shown.append(f"{place}: {' '.join(str(error).split())[:_LONGEST]}")

    def __str__(self) -> str:
        rest = self.invalid - len(self.shown)
        more = [f"and {rest} more"] if rest else []
        return f"{self.invalid} of {self.valid + self.invalid} rows are invalid: {'; '.join(self.shown + more)}"


def json_rows(file: Path) -> Iterator[Item]:
    """
    Read the rows of a file of JSON objects: one object per line or, unless the file is named .jsonl, one list.

    Raises:
        ValueError: if a list cannot be read to its end, because the lost rows cannot be counted.
    """
    with file.open("rb") as lines:
        start = lines.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
        lines.seek(0)
        if start == b"[" and file.suffix != ".jsonl":
            yield from _listed_rows(file)
            return
        for number, line in enumerate(lines, 1):
            place = f"{file.name} line {number}"
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                if text.strip():
                    yield place, json.loads(text, parse_constant=no_constant)
            except UnicodeDecodeError as error:
                yield place, RowError(f"is not UTF-8: {error.reason} at byte {error.start}")
            except (ValueError, RecursionError) as error:
                yield place, RowError(f"is not JSON: {error}")


def _listed_rows(file: Path) -> Iterator[Item]:
    decoder = json.JSONDecoder(parse_constant=no_constant)
    position = line = 0
    try:
        text = file.read_text(encoding="utf-8-sig")
        position, line = text.index("[") + 1, 1 + text[: text.index("[")].count("\n")
        while True:
            start = _after_space(text, position)
            line += text.count("\n", position, start)
            if text[start : start + 1] == "]":
                return
            row, position = decoder.raw_decode(text, start)
            yield f"{file.name} line {line}", row
            line += text.count("\n", start, position)
            comma = _after_space(text, position)
            if text[comma : comma + 1] not in (",", "]"):
                raise ValueError("a comma is missing")
            line += text.count("\n", position, comma)
            position = comma + (text[comma] == ",")
    except (ValueError, RecursionError) as error:
        where = f"from line {line} on" if line else "at all"
        raise ValueError(
            f"{file} is a JSON list that cannot be read {where} ({error}): repair it, or write one object per line"
        ) from None


def _after_space(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position


def csv_rows(file: Path) -> Iterator[Item]:
    """
    Read the rows of a file of comma-separated values, whose first line names the fields.

    Raises:
        ValueError: if a field has no name, or two fields have the same name: one of them would be lost.
    """
    csv.field_size_limit(2**31 - 1)  # the default is too small for a page of text
    # Bytes that are not UTF-8 become surrogates, which `dataset_of` finds.
    with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
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


def valid_rows(
    items: Iterable[Item], count: RowCount, text_field: str = "text"
) -> Iterator[tuple[int, dict[str, Any]]]:
    """
    Yield the valid rows and their indices; `count` counts all rows and keeps the errors.

    Raises:
        ValueError: if a row has another format than the first row, because it is not clear which format is meant.
    """
    first = None
    for number, (place, row) in enumerate(items):
        try:
            if isinstance(row, RowError):
                raise row
            row = canonical_row(row) if isinstance(row, dict) else row
            kind = check_row(row, text_field)
        except RowError as error:
            count.add(place, error)
            continue
        first = first or (place, kind)
        if kind != first[1]:
            raise ValueError(f"{place} holds {kind}, but {first[0]} holds {first[1]}: give rows of one format")
        count.valid += 1
        yield number, row


def dataset_of(items: Callable[[], Iterable[Item]], text_field: str = "text") -> tuple[Dataset, RowCount]:
    """
    Return the dataset of the valid rows of `items()`, which is called twice, and the numbers of rows. Messages are
    kept unchanged: in Arrow columns, each message would get the fields of all other messages. Columns without a value
    in any valid row are left out.
    """
    use_exact_json()
    count, digest, kinds = RowCount(), hashlib.sha256(), {}
    for _, row in valid_rows(_encodable(items()), count, text_field):
        digest.update(json.dumps(row).encode())
        for name, value in row.items():
            kinds.setdefault(name, set()).update(_kinds(value))
    features = Features({name: _feature(found) for name, found in kinds.items() if found})
    if not count.valid:
        return Dataset.from_dict({}), count

    def rows() -> Iterator[dict[str, Any]]:
        for _, row in valid_rows(_encodable(items()), RowCount(), text_field):
            if "chat_template_kwargs" in features and row.get("chat_template_kwargs") is None:
                row = row | {"chat_template_kwargs": {}}  # TRL unpacks it
            # A text in a JSON column stays a text, even if it is valid JSON.
            yield {
                name: json.dumps(value) if isinstance(feature, Json) and isinstance(value, str) else value
                for name, feature in features.items()
                for value in [row.get(name)]
            }

    digest.update(repr(features).encode())
    # The fingerprint depends on the content, so that a cached dataset of the same rows is used again.
    return Dataset.from_generator(rows, features=features, fingerprint=digest.hexdigest()), count


def _encodable(items: Iterable[Item]) -> Iterator[Item]:
    """
    Replace rows whose texts are not valid Unicode by errors: JSON can hold half a surrogate pair, and CSV any byte.
    """
    for place, row in items:
        try:
            if not isinstance(row, RowError):
                json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            row = RowError("is not UTF-8: it holds half a character")
        yield place, row


def _kinds(value: object) -> set[Any]:
    if value is None:
        return set()
    return {("list", frozenset(map(_type, value)))} if isinstance(value, list) else {_type(value)}


def _type(value: object) -> type:
    """Type of a value; `object` for integers that Arrow cannot hold."""
    return object if isinstance(value, int) and not -(2**63) <= value < 2**63 else type(value)


def _feature(kinds: set[Any]) -> Any:
    """Feature of a column: plain for texts, numbers and lists of these; JSON for anything that Arrow would rewrite."""
    simple = {frozenset({kind}): Value(name) for kind, name in ((str, "string"), (bool, "bool"), (int, "int64"))}
    simple |= {frozenset({float}): Value("float64"), frozenset({int, float}): Value("float64")}
    if all(isinstance(kind, tuple) for kind in kinds):
        parts = frozenset().union(*(parts for _, parts in kinds)) - {type(None)}
        if parts == {dict}:
            return List(Json())
        return List(simple[parts]) if parts in simple else Json()
    return simple.get(frozenset(kinds), Json())
