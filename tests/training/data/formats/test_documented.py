"""docs/data.md has a row for each format, and its example is a row of that format."""

from __future__ import annotations

import json
import re

import pytest

from aajr_hf.training.data.canonical import canonical_row
from aajr_hf.training.data.formats.bfcl import bfcl_row
from aajr_hf.training.data.formats.table import FORMATS, trl_row
from aajr_hf.training.data.reading.values import DECODER
from aajr_hf.training.data.schema import check_row
from tests.support import ROOT
from tests.support.rows import read

TABLE = (
    (ROOT / "docs" / "data.md").read_text().split("## Formats")[1].split("\n## ")[0].split("What the conversion")[0]
)
EXAMPLES = [
    (found[1], DECODER.decode(found[3]))
    for line in TABLE.splitlines()
    if (found := re.match(r"\| `(\w+)`([^|]*)\|.*\| `(\{.*\})` \|", line))
]


def test_every_format_is_documented():
    assert {name for name, _ in EXAMPLES} == set(FORMATS) - {"auto"} and len(EXAMPLES) == 9


@pytest.mark.parametrize(("name", "row"), EXAMPLES, ids=lambda value: value if isinstance(value, str) else "")
def test_every_example_can_be_trained_on(tmp_path, name, row):
    if name == "bfcl":
        assert check_row(bfcl_row(row, [{"forecast": {"town": ["Aarau"]}}]))
        return
    for dataset_format in ("auto", name):
        made, left = trl_row(row, dataset_format)
        made = canonical_row(made)
        assert check_row(made) and left == []
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    assert read(tmp_path / "a.jsonl").to_list() == [made]


@pytest.mark.parametrize("column", ["messages", "conversations", "answers", "history"])
def test_a_cell_of_a_csv_file_may_be_json(tmp_path, column):
    row = next(row for _, row in EXAMPLES if column in row)
    cells = {name: value if isinstance(value, str) else json.dumps(value) for name, value in row.items()}
    quoted = ['"' + cell.replace('"', '""') + '"' for cell in cells.values()]
    (tmp_path / "a.csv").write_text(f"{','.join(cells)}\n{','.join(quoted)}\n")
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    assert read(tmp_path / "a.csv").to_list() == read(tmp_path / "a.jsonl").to_list()
