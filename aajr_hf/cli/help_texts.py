"""
The help texts of the commands, stored as files so that they are shown at once. Half of the parsers are built from
classes of TRL and Transformers, whose import takes seconds. A cache would be as slow the first time, and would need a
writable place.

After a change of options, run `python -m aajr_hf.cli.help_texts` to write the files again. A test fails until this is
done.
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

FOLDER = Path(__file__).parent / "help-texts"  # the hyphen shows that this is not a package
_WIDTH = "80"  # terminal width; the lines are two characters shorter


def written_help(command: str) -> str | None:
    """Return the stored help text of a command; None if the versions of TRL or Transformers have changed since."""
    versions, _, text = (FOLDER / f"{command}.txt").read_text(encoding="utf-8").partition("\n")
    return text if versions == _versions() else None


def parsed_help(command: str) -> str:
    """Return the help text that the parser of the command prints."""
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
    """Write all help texts, from the parsers."""
    FOLDER.mkdir(exist_ok=True)
    for command in COMMANDS:
        (FOLDER / f"{command}.txt").write_text(f"{_versions()}\n{parsed_help(command)}", encoding="utf-8")


if __name__ == "__main__":
    write_all()
