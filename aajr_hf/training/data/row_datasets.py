"""Counts valid and invalid rows, and makes datasets of the valid ones."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from datasets import Dataset, Features, Json, List, Value

from .canonical import canonical_row
from .exact_json import use_exact_json
from .reading.values import Item, RowError
from .schema import check_row

logger = logging.getLogger(__name__)

_SHOWN = 5
_LONGEST = 450


@dataclass
class RowCount:
    """
    Numbers of valid and invalid rows.

    Attributes:
        valid: Number of rows that can be trained on.
        invalid: Number of all other rows.
        reasons: Each reason, without its numbers -> the first place and error, and the number of rows.
        unread: The columns that nothing reads -> their first place.
        fields: The keys inside messages that are left out, as [`canonical_row`] names them -> their first place.
    """

    valid: int = 0
    invalid: int = 0
    reasons: dict[str, tuple[str, int]] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)
    fields: dict[str, str] = field(default_factory=dict)

    def add(self, place: str, error: RowError) -> None:
        self.invalid += 1
        text = " ".join(str(error).split())
        text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
        # Numbers are left out, so that "line 1 column 5" and "line 1 column 7" are the same reason.
        kind = re.sub(r"\d+", "#", text)
        first, rows = self.reasons.get(kind, (f"{place}: {text}", 0))
        self.reasons[kind] = first, rows + 1

    @property
    def shown(self) -> list[str]:
        """The first reasons: the place and the error of the first row, and the number of further rows."""
        return [
            first if rows == 1 else f"{first} (and {rows - 1} more like it)"
            for first, rows in list(self.reasons.values())[:_SHOWN]
        ]

    def warn_unread_fields(self) -> None:
        """Log a warning for each key inside messages that is left out."""
        for name, place in self.fields.items():
            logger.warning(nothing_reads(name, place))

    def __str__(self) -> str:
        rest = sum(rows for _, rows in list(self.reasons.values())[_SHOWN:])
        more = [f"and {rest} more"] if rest else []
        return f"{self.invalid} of {self.valid + self.invalid} rows are invalid: {'; '.join(self.shown + more)}"


def nothing_reads(field: str, place: str) -> str:
    """Warning about a field that is not trained on, with the place of the first one."""
    return f"Nothing reads the field {field} (first in {place}): it is not trained on."


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
        unread: set[str] = set()
        try:
            if isinstance(row, RowError):
                raise row
            row = canonical_row(row, unread) if isinstance(row, dict) else row
            kind = check_row(row, text_field)
        except RowError as error:
            count.add(place, error)
            continue
        first = first or (place, kind)
        if kind != first[1]:
            raise ValueError(f"{place} holds {kind}, but {first[0]} holds {first[1]}: give rows of one format")
        count.valid += 1
        for name in sorted(unread):
            count.fields.setdefault(name, place)
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
