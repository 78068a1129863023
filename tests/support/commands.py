"""Commands run in the test's own process."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import yaml

from aajr_hf.cli.main import main

FAST = ["--max_steps", "2", "--per_device_train_batch_size", "4", "--environment_examples", "16", "--use_cpu", "true"]


# An evaluation of few examples, and attacks of each kind that several agents make possible.
SMALL = ["--examples", "5", "--batch_size", "3", "--attack_steps", "2", "--attack_restarts", "1"]
FEW = ["--attacks", "nll", "transferred", "from_others"]


def fails(capsys, *arguments: str) -> str:
    """The one line of error of a command that a user got wrong."""
    assert main(list(arguments)) == 2
    # Progress bars end with a carriage return, or stand on lines of their own.
    lines = [line for line in re.split(r"[\r\n]", capsys.readouterr().err) if line.strip()]
    lines = [line for line in lines if line.startswith("error: ") or not ("|" in line or "examples/s" in line)]
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0]


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else b"" for p in sorted(folder.rglob("*"))}


def with_recipe(agent, folder, **fields):
    """A copy of an agent with this recipe beside it."""
    shutil.copytree(agent, folder)
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"model_name_or_path": "base"} | fields))
    return str(folder)
