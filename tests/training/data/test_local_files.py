"""Files and folders as people have them: which files are read, and into which splits."""

from __future__ import annotations

import gzip
import json

import pytest
from datasets import Dataset, DatasetDict

from aajr_hf.training.data.local_files import kind_of_file
from aajr_hf.training.data.sources import DataError
from tests.support.rows import ANSWER, QUESTION, TEXTS, lines, read, write

LINES = lines(*TEXTS).encode()


@pytest.mark.parametrize(
    "name", ["a.JSONL", "A.Json", "a.ndjson", "a.jsonl.gz", "a.JSONL.GZ", "a.csv.gz", "a.PARQUET"]
)
@pytest.mark.parametrize("in_folder", [False, True])
def test_a_file_is_read_whatever_its_name(tmp_path, caplog, name, in_folder):
    kind = kind_of_file(name)
    made = tmp_path / f"made.{'jsonl' if kind == 'json' else kind}"
    write(made, TEXTS)
    data = made.read_bytes()
    made.unlink()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.lower().endswith("gz") else data)
    assert read(tmp_path if in_folder else tmp_path / name).to_list() == TEXTS
    assert "is read as" not in caplog.text


@pytest.mark.parametrize("name", ["a.txt", "a.json.zip", "a.parquet.gz", "a", "a.gz", ".json"])
def test_other_files_are_one_sentence(tmp_path, name):
    (tmp_path / name).write_bytes(LINES)
    with pytest.raises(DataError, match="`dataset_name`: .* must be a folder, or a file that ends in .json, .jsonl"):
        read(tmp_path / name)


def test_files_of_a_folder_have_their_splits_in_upper_case_too(tmp_path, caplog):
    (tmp_path / "train.JSONL").write_bytes(LINES)
    (tmp_path / "test.jsonl").write_bytes(lines(*TEXTS[:2]).encode())
    assert len(read(tmp_path)) == 6 and len(read(tmp_path, "test")) == 2
    (tmp_path / "train2.CSV").write_text("text\na\n")
    assert len(read(tmp_path)) == 6 and "is read as json, without train2.CSV" in caplog.text


def test_folders_of_save_to_disk_are_read_as_they_were_saved(tmp_path, caplog):
    one = Dataset.from_list(TEXTS)
    one.save_to_disk(str(tmp_path / "one"))
    DatasetDict(train=one, dev=one.select([0])).save_to_disk(str(tmp_path / "many"))
    assert read(tmp_path / "one").to_list() == read(tmp_path / "many").to_list() == TEXTS
    assert read(tmp_path / "many", "dev").to_list() == TEXTS[:1]
    assert read(tmp_path / "one", "dev", dataset_train_split="dev").to_list() == TEXTS
    assert not caplog.text
    with pytest.raises(DataError, match="no split 'test', only train, dev"):
        read(tmp_path / "many", "test")
    with pytest.raises(DataError, match="`dataset_config` works only with datasets on the Hub"):
        read(tmp_path / "one", dataset_config="en")


def test_questions_with_answers_are_recognised_and_questions_alone_are_not(tmp_path, caplog):
    (tmp_path / "X.json").write_text(lines(QUESTION | {"level": 3}))
    with pytest.raises(DataError, match="set `dataset_format` to bfcl"):
        read(tmp_path)
    (tmp_path / "X.answers.json").write_text(lines({"id": "one", "ground_truth": [ANSWER]}))
    for path in (tmp_path, tmp_path / "X.json"):
        assert list(read(path)) == list(read(path, dataset_format="bfcl")) and len(read(path)) == 1
    assert caplog.messages == ["Columns that nothing uses are left out: `level` (first in X.json line 1)."] * 6


def test_columns_and_fields_that_nothing_reads_are_named_once(tmp_path, caplog):
    file = tmp_path / "a.json"
    file.write_text(json.dumps({"version": 1, "data": [row | {"score": 1, "id": 2} for row in TEXTS]}))
    assert read(file).column_names == ["prompt", "completion", "id"]
    said = [record.message for record in caplog.records]
    assert said == ["Columns that nothing uses are left out: `version`, `score` (first in a.json line 1)."]
