"""What is a name on the Hub, and what is a place on a disk, there or not."""

from __future__ import annotations

import pytest

from aajr_hf.training.sharing.hub_names import is_hub_name


@pytest.mark.parametrize("name", ["gpt2", "squad", "Qwen/Qwen2.5-0.5B", "me/agent_1"])
def test_names_on_the_hub(name):
    assert is_hub_name(name)


@pytest.mark.parametrize("name", ["", "rows.jsonl", "data/rows.jsonl", "data/rows.csv", "data/rows.NDJSON", "data/rows.jsonl.gz", "/data/rows", "./rows", "~/rows", "a/b/c"])  # fmt: skip
def test_places_on_a_disk_even_if_they_are_absent(name):
    assert not is_hub_name(name)


def test_a_folder_that_is_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs" / "agent").mkdir(parents=True)
    assert not is_hub_name("outputs/agent") and is_hub_name("outputs/another")
