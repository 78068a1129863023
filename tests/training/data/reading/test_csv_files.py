"""Rows of CSV files, each with its line or its error."""

from __future__ import annotations

import gzip

import pytest

from aajr_hf.training.data.reading.csv_files import csv_rows
from aajr_hf.training.data.reading.values import RowError
from aajr_hf.training.data.row_datasets import dataset_of


def places(items) -> list[tuple[str, object]]:
    """What was read, with the reason in place of the error."""
    return [(place, str(row) if isinstance(row, RowError) else row) for place, row in items]


def test_rows_of_values_that_are_too_many_or_too_few(tmp_path):
    file = tmp_path / "a.csv"
    file.write_bytes(b'prompt,completion\n"a\nb",c\nd\n\ne,f,g\nh,i\n"j"k,l\nm,n\n')
    read = places(csv_rows(file))
    assert read[0] == ("a.csv line 2", {"prompt": "a\nb", "completion": "c"})
    assert read[1] == ("a.csv line 4", "has 1 values for 2 fields")
    assert read[2] == ("a.csv line 6", "has 3 values for 2 fields")
    assert read[3] == ("a.csv line 7", {"prompt": "h", "completion": "i"})
    assert read[4][0] == "a.csv line 8" and read[4][1].startswith("is not CSV")
    assert read[5] == ("a.csv line 9", {"prompt": "m", "completion": "n"})


def test_values_may_be_long_and_must_be_unicode(tmp_path):
    file = tmp_path / "a.csv"
    file.write_bytes(b"text\n" + b"a" * 200_000 + b"\ncaf\xe9\n")
    dataset, count = dataset_of(lambda: csv_rows(file))
    assert len(dataset[0]["text"]) == 200_000 and count.shown == [
        "a.csv line 3: is not UTF-8: it holds half a character"
    ]


@pytest.mark.parametrize("header", ["text,text", "text,", "text, "])
def test_a_header_must_name_each_field_once(tmp_path, header):
    file = tmp_path / "a.csv"
    file.write_text(f"{header}\na,b\n")
    with pytest.raises(ValueError, match="a.csv has the field '.*' more than once, or without a name"):
        list(csv_rows(file))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_tables_of_every_encoding_are_read(tmp_path, encoding, pack):
    file = tmp_path / "a.csv"
    file.write_bytes(pack('prompt,completion\r\n"é\r\n,",漢\r\n'.encode(encoding)))
    assert list(csv_rows(file)) == [("a.csv line 2", {"prompt": "é\r\n,", "completion": "漢"})]


def test_empty_files_have_no_rows(tmp_path):
    file = tmp_path / "a.csv"
    for text in ("", "\n\n", "text\n"):
        file.write_text(text)
        assert not [row for _, row in csv_rows(file) if not isinstance(row, RowError)]
