"""Commands of `aajr`, most of them in new processes with one thread each. What was made before is not made again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from aajr_hf.cli.main import main as aajr

ROOT = Path(__file__).resolve().parents[2]
BASE = ROOT / "docs" / "results" / "agents" / "congestion"


def slug(name: str) -> str:
    """Turn a setting's name into a name that is valid for a folder and for `aajr evaluate`."""
    return "".join(c if c.isalnum() else "-" for c in name)


def train_with(recipe: Path, folder: Path, fields: dict) -> Path:
    """
    Train an agent with a recipe and these fields, in a new process with one thread, unless the agent is there. Return its
    folder.
    """
    if not (folder / "train_results.json").is_file():
        fields = {"output_dir": folder, "overwrite": "true"} | fields
        run_command(["train", "--config", str(recipe), *flags(fields)], folder)
        print(f"trained {folder.name}", flush=True)
    return folder


def flags(fields: dict) -> list[str]:
    """Return fields as options of a command."""
    return [part for field, value in fields.items() for part in (f"--{field}", str(value))]


def train_once(folder: Path, recipe: str, fields: dict, seed: int, steps: int | None) -> Path:
    """Train the base agent with a recipe of `congestion` and these fields, unless the agent is there. Return its folder."""
    fields = {"model_name_or_path": BASE, "seed": seed, "environment_seed": seed} | fields
    fields |= {"max_steps": steps} if steps else {}
    return train_with(ROOT / "recipes" / "congestion" / f"{recipe}.yaml", folder, fields)


def evaluate_once(output: Path, agents: dict[str, Path], options: list[str]) -> dict[str, dict]:
    """Attack the agents together, unless the same was asked for before, and return the numbers of each by its name."""
    models = [f"{slug(name)}={folder}" for name, folder in agents.items()]
    file, asked = output / "results.json", output / "asked.json"
    if not (file.is_file() and asked.is_file() and json.loads(asked.read_text()) == [models, options]):
        run_command(["evaluate", *models, *options, "--output", str(output)], output)
        asked.write_text(json.dumps([models, options]))
        print(f"evaluated {output.name}", flush=True)
    runs = json.loads(file.read_text())["runs"]
    return {name: runs[slug(name)] for name in agents}


def call(*argv: object) -> None:
    """Run a command of `aajr` in this process, and end with its error if it fails."""
    if aajr(list(map(str, argv))) != 0:
        sys.exit(f"aajr {argv[0]} failed")


def run_command(command: list[str], folder: Path) -> None:
    """Run a command of `aajr` in a new process with one thread; its output goes to a file beside the folder."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    folder.parent.mkdir(parents=True, exist_ok=True)
    log = folder.with_suffix(".log")
    with log.open("w") as file:
        done = subprocess.run(
            [sys.executable, "-m", "aajr_hf", *command], env=environment, stdout=file, stderr=subprocess.STDOUT
        )
    if done.returncode:
        sys.exit(f"error: {folder.name} failed: see {log}")
