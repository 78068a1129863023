"""Each block of shell and Python in README.md and in the tutorial runs, in order, as written, with smaller numbers."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from aajr_hf.cli.main import main
from tests.support import ROOT
from tests.support.commands import FAST
from tests.support.tiny import TOKENIZER, tiny_model

pytestmark = pytest.mark.slow
# Options that the text does not show: the last one of a name counts.
SMALLER = {
    "init-agent": ["--steps", "2", "--examples", "32"],
    "inspect": [],
    "train": FAST,
    "evaluate": ["--examples", "2", "--attack_steps", "1", "--attack_restarts", "1", "--multiples", "1"],
    "simulate": ["--agents", "2", "--steps", "2"],
}
# Not run: a test of its own runs the script, or builds and installs the package.
ELSEWHERE = {
    "pip install -c constraints.txt -e .": "pyproject.toml",
    "bash scripts/quickstart.sh": "scripts/quickstart.sh",
    "bash scripts/test.sh": "scripts/test.sh",
}


def blocks(page: Path) -> list[tuple[str, str]]:
    """The language and the text of each block of code, in order."""
    return re.findall(
        r"^```(bash|python)\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    )


def run_shell(text: str) -> list[str]:
    """Run each command in this process; return the names of those that ran."""
    ran = []
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["aajr"]:
            assert main([*words[1:], *SMALLER[words[1]]]) == 0, line
            ran.append(words[1])
        elif words:
            assert (ROOT / ELSEWHERE[shlex.join(words)]).is_file()
    return ran


@pytest.mark.parametrize(
    ("page", "commands"),
    [
        ("README.md", ["python", "train", "train", "evaluate"]),
        ("docs/get-started.md", ["init-agent", "inspect", "train", "train", "evaluate", "simulate", "python"]),
    ],
)
def test_the_blocks_of_a_page_run(page, commands, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    # In place of the real model, and of what `aajr fetch smollm2-135m` writes.
    for folder in ("HuggingFaceTB/SmolLM2-135M-Instruct", "outputs/smollm2-135m"):
        tiny_model(vocab_size=len(TOKENIZER)).float().save_pretrained(folder)
        TOKENIZER.save_pretrained(folder)
    ran = []
    for language, text in blocks(ROOT / page):
        if language == "python":
            exec(compile(text, page, "exec"), {})
            ran.append("python")
        else:
            ran += run_shell(text)
    assert ran == commands
    assert any((tmp_path / "outputs").glob("*/model.safetensors"))
    assert (tmp_path / "outputs" / "evaluation" / "report.html").is_file()
