"""Fixtures of the tests of commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from aajr_hf.training.models.base_agent import small_llama, train_tokenizer

from ..support.commands import fails, snapshot


@pytest.fixture(scope="module")
def agent(tmp_path_factory) -> Path:
    """An untrained agent folder."""
    from aajr_hf.environments import expert_rows

    folder = tmp_path_factory.mktemp("agent") / "base"
    rows = expert_rows("congestion", 200, seed=0)
    tokenizer = train_tokenizer(m["content"] for row in rows for m in row["prompt"] + row["completion"])
    small_llama(tokenizer, seed=0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """`refused(arguments...)`: the one line of error of a command that leaves the folder as it was."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def run(*arguments: object) -> str:
        before = snapshot(tmp_path)
        message = fails(capsys, *map(str, arguments))
        assert snapshot(tmp_path) == before
        return message

    return run
