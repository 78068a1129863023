"""Help texts come at once, and are those of the parsers."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from aajr_hf.cli import help_texts
from aajr_hf.cli.main import COMMANDS, main
from tests.support import ROOT

_HEAVY = {
    "torch",
    "transformers",
    "trl",
    "peft",
    "datasets",
    "accelerate",
    "deepspeed",
    "numpy",
    "scipy",
    "matplotlib",
}
# Help texts, and what else is answered before a command is known; each with its exit status and what has been imported then.
_CALLS = """
import contextlib, io, json, sys
from aajr_hf.cli.main import COMMANDS, main

def status(*arguments):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return main([*arguments])

calls = [[], ["--help"], ["--version"], ["trian"], ["rank", "-h"], *([command, "--help"] for command in COMMANDS)]
print(json.dumps([[call, status(*call), [name for name in sys.modules if "." not in name]] for call in calls]))
"""
written = pytest.mark.skipif(
    help_texts.written_help("train") is None, reason="written with other versions of Transformers and TRL"
)


@written
def test_nothing_large_is_imported_for_a_help_text():
    done = subprocess.run([sys.executable, "-c", _CALLS], capture_output=True, text=True, check=True, cwd=ROOT)
    calls = json.loads(done.stdout)
    assert len(calls) == 5 + len(COMMANDS)
    for call, status, modules in calls:
        assert status == (2 if call in ([], ["trian"]) else 0), call
        assert _HEAVY & set(modules) == set(), call


@written
@pytest.mark.parametrize("command", COMMANDS)
def test_a_help_text_is_that_of_the_parser(command):
    # Lines are broken differently by other versions of Python.
    assert help_texts.written_help(command).split() == help_texts.parsed_help(command).split(), (
        "python -m aajr_hf.cli.help_texts"
    )


def test_there_is_no_help_text_of_a_command_that_is_gone():
    assert {path.stem for path in help_texts.FOLDER.iterdir()} == set(COMMANDS)


def test_with_other_versions_of_the_libraries_the_parser_answers(monkeypatch, capsys):
    monkeypatch.setattr(help_texts, "version", lambda package: "0.1")
    assert main(["adapter-rank", "--help"]) == 0 and "--lora_r" in capsys.readouterr().out
