"""The scripts in examples/ run, and print what is recorded beside them, but for the numbers."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest

from tests.support import ROOT
from tests.support.tiny import TOKENIZER, tiny_model

pytestmark = pytest.mark.slow
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
SMALLER = {
    "fine_tune_and_compare": ["--model", "agent", "--steps", "2", "--examples", "4"],
    "objective_alone": ["--steps", "3"],
    "own_tool_calls": ["--start", "2", "--steps", "2", "--examples", "2"],
}


def shape(text: str) -> list[str]:
    """The script's own lines, without numbers and spaces; tables of commands vary with what they found."""
    return [re.sub(r"[\d.]+|\s+", "", line) for line in text.splitlines() if line.strip()]


def run(example: Path, arguments: list[str], monkeypatch, capsys) -> str:
    monkeypatch.setattr(sys, "argv", [str(example), *arguments])
    runpy.run_path(str(example), run_name="__main__")
    return capsys.readouterr().out


def test_every_example_is_run_and_described():
    assert {example.stem for example in EXAMPLES} == set(SMALLER)
    page = (ROOT / "docs" / "examples.md").read_text(encoding="utf-8")
    for example in EXAMPLES:
        assert f"(../examples/{example.name})" in page and recorded(example) in page


def recorded(example: Path) -> str:
    return (example.parent / "recorded" / f"{example.stem}.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.stem)
def test_an_example_prints_what_is_recorded(example, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tiny_model(vocab_size=len(TOKENIZER)).float().save_pretrained("agent")
    TOKENIZER.save_pretrained("agent")
    printed = shape(run(example, SMALLER[example.stem], monkeypatch, capsys))
    lines = shape(recorded(example))
    assert lines and [line for line in lines if line not in printed] == []
