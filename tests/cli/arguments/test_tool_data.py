"""Agents that are evaluated on the rows they were trained on are named."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import yaml

from aajr_hf.cli.arguments.tool_data import trained_on
from aajr_hf.training.config.recipe import RECIPE


@pytest.mark.parametrize(
    ("trained", "asked", "names"),
    [
        ({"dataset_name": "a.jsonl"}, {"dataset_name": "a.jsonl"}, ["agent"]),
        ({"dataset_name": "a.jsonl"}, {"dataset_name": "./folder/../a.jsonl"}, ["agent"]),
        ({"dataset_name": "a.jsonl"}, {"dataset_name": "b.jsonl"}, []),
        ({"environment": "congestion"}, {"dataset_name": "a.jsonl"}, []),
        ({"dataset_name": "user/calls"}, {"dataset_name": "user/calls"}, []),  # reads the split test
        ({"dataset_name": "user/calls"}, {"dataset_name": "user/calls", "dataset_split": "train"}, ["agent"]),
        (
            {"dataset_name": "user/calls", "dataset_config": "x"},
            {"dataset_name": "user/calls", "dataset_split": "train"},
            [],
        ),
    ],
)
def test_agents_that_know_the_rows_are_named(trained, asked, names, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for file in ("a.jsonl", "b.jsonl"):
        (tmp_path / file).touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / RECIPE).write_text(yaml.safe_dump(trained))
    options = SimpleNamespace(**({"dataset_config": None, "dataset_split": None} | asked))
    assert trained_on(options, {"agent": "folder", "base": "user/model"}) == names
