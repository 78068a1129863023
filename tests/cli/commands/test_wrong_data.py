"""Data that cannot be read, and fields that do not fit it: one line, which names the field."""

from __future__ import annotations

import pytest

from aajr_hf.training.data.sources import DataArguments, DataError, load_data
from tests.support.rows import QUESTION, TEXTS, lines, read, write


def wrong(folder, name: str):
    """What the test's name says, and the fields that point at it."""
    file = folder / "a.jsonl"
    if name == "no rows":
        file.write_text("\n")
    elif name == "all invalid":
        file.write_text("{\n")
        return file, {"skip_invalid_rows": True}
    elif name == "a suffix":
        file = folder / "a.txt"
        file.write_text("a")
    elif name == "a folder without data":
        file = folder / "docs"
        file.mkdir()
        (file / "a.txt").write_text("a")
    elif name == "a list cut off":
        file = folder / "a.json"
        file.write_text("[{}\n")
    elif name == "a folder that is not there":
        file = folder / "nowhere"
    elif name == "no questions":
        return folder, {"dataset_format": "bfcl"}
    elif name == "no answers":
        file.with_suffix(".json").write_text(lines(QUESTION))
        return folder, {"dataset_format": "bfcl"}
    elif name == "the wrong format":
        write(file, TEXTS)
        return file, {"dataset_format": "toolbench"}
    elif name == "broken parquet":
        file = folder / "a.parquet"
        file.write_bytes(b"PAR1")
    elif name == "no name":
        return "", {}
    elif name == "questions without their format":
        write(file, [QUESTION])
    elif name == "two formats":
        write(file, [{"text": "a"}, *TEXTS])
        return file, {"skip_invalid_rows": True}
    elif name == "a header":
        file = folder / "a.csv"
        file.write_text("text,text\na,b\n")
    return file, {}


WRONG = {
    "no rows": "a.jsonl has no rows",
    "all invalid": "has no row that can be trained on: 1 of 1 rows are invalid: a.jsonl line 1: is not JSON",
    "a suffix": "must be a folder, or a file that ends in .json, .jsonl, .ndjson, .csv, .parquet",
    "a folder without data": "docs holds no file that ends in .json",
    "a list cut off": "a.json is a JSON list that cannot be read from line 1 on",
    "a folder that is not there": "there is no file or folder",
    "no questions": "holds no file of questions: give a folder with files X.json and X.answers.json",
    "no answers": "for rows of another format, set `dataset_format` to auto",
    "the wrong format": "6 of 6 rows are invalid: a.jsonl line 1: needs `conversations`, a list",
    "broken parquet": "a.parquet cannot be loaded",
    "no name": "is empty",
    "questions without their format": "a.jsonl line 1: has the fields id, question, function: set `dataset_format` to bfcl",
    "two formats": "a.jsonl line 2 holds prompt and completion as texts, but a.jsonl line 1 holds text: give rows of one format",
    "a header": "a.csv has the field 'text' more than once",
}


@pytest.mark.parametrize("name", WRONG)
def test_data_that_is_wrong_is_one_line_that_names_the_field(tmp_path, name):
    path, fields = wrong(tmp_path, name)
    with pytest.raises(DataError) as error:
        read(path, **fields)
    assert str(error.value).startswith("`dataset_name`") and WRONG[name] in str(error.value)
    assert "\n" not in str(error.value)


def test_fields_that_would_change_nothing_are_refused():
    for field, value in (("dataset_format", "bfcl"), ("skip_invalid_rows", True)):
        with pytest.raises(DataError, match=f"`{field}` works only with `dataset_name`"):
            load_data(DataArguments(environment="congestion", **{field: value}))


@pytest.mark.parametrize("dataset_format", ["trl", "bfcl"])
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_files_have_no_configurations(tmp_path, suffix, dataset_format):
    write(tmp_path / f"a{suffix}", TEXTS)
    with pytest.raises(DataError, match="`dataset_config` .*a[.].* is local: unset it"):
        read(tmp_path / f"a{suffix}", dataset_config="en", dataset_format=dataset_format)
