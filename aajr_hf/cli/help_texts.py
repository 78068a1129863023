"""
The commands' help texts as files, so that a help text comes at once. Half of the parsers are made from classes of TRL and Transformers,
whose import takes seconds; a cache would be as slow the first time, and would need a place to write to.

After a change of options `python -m aajr_hf.cli.help_texts` writes the files anew; a test says when that is due.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import sys
from importlib.metadata import version
from pathlib import Path

from .main import COMMANDS

FOLDER = Path(__file__).parent / "help-texts"  # no name of a package, which it is not
_WIDTH = "80"  # of a terminal; the lines are two characters shorter


def written_help(command: str) -> str | None:
    """A command's help text; None where the libraries whose options it shows have other versions than when it was written."""
    versions, _, text = (FOLDER / f"{command}.txt").read_text(encoding="utf-8").partition("\n")
    return text if versions == _versions() else None


def parsed_help(command: str) -> str:
    """What the command's own parser prints."""
    from unittest import mock

    module = importlib.import_module(f".commands.{COMMANDS[command][0]}", package=__package__)
    printed = io.StringIO()
    as_called = mock.patch.object(sys, "argv", ["aajr", command, "--help"])
    with as_called, mock.patch.dict(os.environ, COLUMNS=_WIDTH), contextlib.redirect_stdout(printed):
        with contextlib.suppress(SystemExit):
            module.run(["--help"])
    return printed.getvalue()


def _versions() -> str:
    return ", ".join(f"{package} {version(package)}" for package in ("transformers", "trl"))


def write_all() -> None:
    """All help texts, from the parsers."""
    FOLDER.mkdir(exist_ok=True)
    for command in COMMANDS:
        (FOLDER / f"{command}.txt").write_text(f"{_versions()}\n{parsed_help(command)}", encoding="utf-8")


if __name__ == "__main__":
    write_all()
