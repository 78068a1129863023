"""
The whole task of this package, without a network: train a new base agent, fine-tune it in four ways with the same
number of steps, and compare the agents under attack. `bash scripts/quickstart.sh` installs everything and runs this
script.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path

import yaml

from aajr_hf.cli.main import main as aajr

RECIPES = Path(__file__).resolve().parent.parent / "recipes" / "congestion"
VARIANTS = ("sft", "adversarial", "global", "aajr")


def step(title: str, *arguments: str) -> None:
    """Print one `aajr` command and run it; exit if it fails."""
    print(f"\n== {title}\n$ aajr {' '.join(arguments)}", flush=True)
    status = aajr(list(arguments))
    if status:
        sys.exit(status)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="outputs/quickstart", help="folder, made anew (default: %(default)s)")
    output = Path(parser.parse_args().output)
    started = time.monotonic()
    # Remove only this script's own outputs of an earlier run, and no other files in the folder.
    for name in ("base", *VARIANTS):
        shutil.rmtree(output / name, ignore_errors=True)
    base = str(output / "base")
    step("Train a base agent", "init-agent", base)
    for variant in VARIANTS:
        recipe = str(RECIPES / f"{variant}.yaml")
        where = ("--model_name_or_path", base, "--output_dir", str(output / variant))
        step(f"Fine-tune: {variant}", "train", "--config", recipe, *where)
    models = [f"{name}={output / name}" for name in ("base", *VARIANTS)]
    epsilon = str(yaml.safe_load((RECIPES / "aajr.yaml").read_text())["epsilon"])
    evaluation = ("--epsilon", epsilon, "--examples", "128", "--output", str(output))
    step("Evaluate all of them under attack", "evaluate", *models, *evaluation)
    print(f"Finished in {(time.monotonic() - started) / 60:.1f} minutes; report: {output / 'report.html'}")


if __name__ == "__main__":
    main()
