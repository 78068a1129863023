"""Rows of local files, each with the line on which it stands or what is wrong with it, and datasets made of them."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Json, List, Value

from .exact_json import use_exact_json
from .schema import check_row
from .tool_schema import RowError, no_constant

# Where a row stands, and the row, or why it is none.
Item = tuple[str, object]
_SHOWN = 5
_LONGEST = 300


@dataclass
class RowCount:
    """
    How many rows of some data can be trained on.

    Attributes:
        valid: Rows that can.
        invalid: Rows that cannot.
        shown: Of the first of these, where they stand and what is wrong.
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
    The rows of a file of JSON objects, one a line or, unless it is named .jsonl, as one list.

    Raises:
        ValueError: for a list that cannot be read to its end: what is lost there cannot be counted.
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
            f"{file} is a JSON list that cannot be read {where} ({error}): mend it, or write one object a line"
        ) from None


def _after_space(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position


def csv_rows(file: Path) -> Iterator[Item]:
    """
    The rows of a file of comma-separated values, whose first line names the fields.

    Raises:
        ValueError: where it leaves a field without a name, or names two alike: one of them would be lost.
    """
    csv.field_size_limit(2**31 - 1)  # a page of text is more than its default
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
                            f"{file} has the field {unclear[0]!r} more than once, or without a name: name each once"
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
    The rows that can be trained on, and their numbers; `count` takes the others.

    Raises:
        ValueError: where some are of another format than the first: nothing says which of them are meant.
    """
    first = None
    for number, (place, row) in enumerate(items):
        try:
            if isinstance(row, RowError):
                raise row
            kind = check_row(row, text_field)
        except RowError as error:
            count.add(place, error)
            continue
        first = first or (place, kind)
        if kind != first[1]:
            raise ValueError(f"{place} holds {kind}, and {first[0]} {first[1]}: give rows of one format")
        count.valid += 1
        yield number, row


def dataset_of(items: Callable[[], Iterable[Item]], text_field: str = "text") -> tuple[Dataset, RowCount]:
    """
    The dataset of the valid rows among `items()`, which is called twice, and how many are not. Messages are kept as they
    are: as columns of Arrow, each would get the fields of all others. Columns that no valid row has are left out.
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
                row = row | {"chat_template_kwargs": {}}  # which TRL unpacks
            # A text in a column of JSON is a text, and not what it may say in JSON.
            yield {
                name: json.dumps(value) if isinstance(feature, Json) and isinstance(value, str) else value
                for name, feature in features.items()
                for value in [row.get(name)]
            }

    digest.update(repr(features).encode())
    # By their content: a dataset of the same rows that lies in the cache is this one.
    return Dataset.from_generator(rows, features=features, fingerprint=digest.hexdigest()), count


def _encodable(items: Iterable[Item]) -> Iterator[Item]:
    """Rows with texts that Unicode can express; JSON can hold half a pair of surrogates, and CSV any byte."""
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
    """Of integers, too, only those that Arrow can hold."""
    return object if isinstance(value, int) and not -(2**63) <= value < 2**63 else type(value)


def _feature(kinds: set[Any]) -> Any:
    """Of a column: texts and numbers as they are, lists of these, and what Arrow would rewrite as JSON."""
    simple = {frozenset({kind}): Value(name) for kind, name in ((str, "string"), (bool, "bool"), (int, "int64"))}
    simple |= {frozenset({float}): Value("float64"), frozenset({int, float}): Value("float64")}
    if all(isinstance(kind, tuple) for kind in kinds):
        parts = frozenset().union(*(parts for _, parts in kinds)) - {type(None)}
        if parts == {dict}:
            return List(Json())
        return List(simple[parts]) if parts in simple else Json()
    return simple.get(frozenset(kinds), Json())
