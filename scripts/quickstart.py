"""
The whole task of this package: fine-tune an agent in several ways, and compare the agents under attack. Without
`--model`, the agent is new, small, and needs no network; with it, the agent is a real language model.
`bash scripts/quickstart.sh` installs everything and runs this script.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import yaml

from aajr_hf.cli.common.quiet import be_quiet
from aajr_hf.cli.main import main as aajr

ROOT = Path(__file__).resolve().parent.parent
REAL_MODELS = ("smollm2-135m",)


@dataclass(frozen=True)
class Stage:
    """
    One `aajr` command.

    Attributes:
        title: What it does.
        arguments: The command's arguments.
        minutes: Its time on two idle cores (AVX2; for the real model, AVX-512 with bfloat16), from which the time left is
            estimated.
        folder: The folder of the model that it makes; None if it makes none.
        typical: Whether its time says how fast this machine is; a download's, or that of the rest of a training, does not.
    """

    title: str
    arguments: list[str]
    minutes: float
    folder: Path | None = None
    typical: bool = True

    @property
    def done(self) -> bool:
        """Whether the model is complete."""
        from aajr_hf.training.runs.checkpoints import INCOMPLETE

        folder = self.folder
        return folder is not None and (folder / "config.json").is_file() and not (folder / INCOMPLETE).exists()


def small_agent(output: Path) -> list[Stage]:
    """A new agent of a million parameters, fine-tuned in four ways with the same number of steps."""
    recipes, variants, base = (
        ROOT / "recipes" / "congestion",
        ("sft", "adversarial", "global", "aajr"),
        output / "base",
    )
    # Remove only this script's own outputs of an earlier run, and no other files in the folder.
    for name in ("base", *variants):
        shutil.rmtree(output / name, ignore_errors=True)
    stages = [Stage("Train a base agent", ["init-agent", str(base)], 0.8, base)]
    for name, minutes in zip(variants, (0.3, 0.8, 1.1, 0.7), strict=True):
        where = ["--model_name_or_path", str(base), "--output_dir", str(output / name)]
        recipe = ["--config", str(recipes / f"{name}.yaml")]
        stages.append(Stage(f"Fine-tune: {name}", ["train", *recipe, *where], minutes, output / name))
    models = [f"{name}={output / name}" for name in ("base", *variants)]
    epsilon = str(yaml.safe_load((recipes / "aajr.yaml").read_text())["epsilon"])
    evaluation = ["--epsilon", epsilon, "--examples", "128", "--output", str(output)]
    return [*stages, Stage("Evaluate all of them under attack", ["evaluate", *models, *evaluation], 1.5)]


def real_model(name: str, output: Path) -> list[Stage]:
    """
    A language model that learns the world, and then trains without an adversary, with one, and with the penalty, for
    the same number of steps. What is complete is not made again, and what was interrupted goes on.
    """
    import torch

    from aajr_hf.training.models.bfloat16 import slow_bfloat16

    recipes, model, learned = ROOT / "recipes" / name / "congestion", output / "model", output / "base"
    fast = torch.accelerator.is_available() or not slow_bfloat16()

    def training(title: str, recipe: str, start: Path, folder: Path, minutes: float, *options: str) -> Stage:
        where = ["--model_name_or_path", str(start), "--output_dir", str(folder)]
        # Ctrl-C saves a checkpoint.
        resumed = ["--resume_from_checkpoint", "auto"] if any(folder.glob("checkpoint-*")) else []
        number = [] if fast else ["--bf16", "false"]
        device = ["--use_cpu", "false"] if torch.accelerator.is_available() else []
        config = ["--config", str(recipes / f"{recipe}.yaml")]
        return Stage(
            title, ["train", *config, *where, *resumed, *number, *device, *options], minutes, folder, not resumed
        )

    # After 15 steps, the loss of the world's answers is below 0.1 nats per token.
    short = ["--max_steps", "16"]
    # As many steps as the others, on examples of the same seed.
    further = ["--environment_seed", "1", "--per_device_train_batch_size", "8", "--learning_rate", "1e-4"]
    stages = [
        Stage(f"Get {name}", ["fetch", name, str(model)], 0.5, model, typical=False),
        training("Learn the world", "sft", model, learned, 2.2, *short),
        training("Fine-tune: sft", "sft", learned, output / "sft", 1.0, *short, *further),
        training("Fine-tune: adversarial", "adversarial", learned, output / "adversarial", 1.5, *short),
        training("Fine-tune: aajr", "aajr", learned, output / "aajr", 2.1, *short),
    ]
    models = [f"{variant}={output / variant}" for variant in ("sft", "adversarial", "aajr")]
    attacks = ["--attacks", "warm_nll", "restart", "nll", "margin", "from_others", "--attack_steps", "5"]
    # Small batches, so that little is lost when it is interrupted.
    size = ["--examples", "16", "--multiples", "0.1", "0.25", "1", "--batch_size", "4", "--output", str(output)]
    size += ["--dtype", "bfloat16"] if fast else []
    return [*stages, Stage("Evaluate all of them under attack", ["evaluate", *models, *attacks, *size], 9)]


def run(stages: list[Stage]) -> None:
    """
    Run the commands one after the other, and exit if one fails. The time left is what the remaining ones take
    elsewhere, times how much slower the last finished one was here.
    """
    slower = 1.0
    for i, stage in enumerate(stages):
        if stage.done:
            print(f"\n== {i + 1} of {len(stages)}: {stage.title}: done before, in {stage.folder}", flush=True)
            continue
        left = slower * sum(rest.minutes for rest in stages[i:] if not rest.done)
        print(
            f"\n== {i + 1} of {len(stages)}: {stage.title} (about {max(round(left), 1)} minutes left in all)\n"
            f"$ aajr {' '.join(stage.arguments)}",
            flush=True,
        )
        started = time.monotonic()
        status = aajr(stage.arguments)
        if status:
            sys.exit(status)
        if stage.typical:
            slower = (time.monotonic() - started) / 60 / stage.minutes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=REAL_MODELS, help="a real language model (default: a new agent)")
    parser.add_argument(
        "--output",
        help="folder (default: outputs/quickstart, or outputs/quickstart-MODEL). With --model, a second run goes on "
        "where the first one stopped; without it, the agents are made anew",
    )
    options = parser.parse_args()
    output = Path(options.output or "-".join(filter(None, ("outputs/quickstart", options.model))))
    started = time.monotonic()
    be_quiet()  # before anything imports torch
    run(small_agent(output) if options.model is None else real_model(options.model, output))
    print(f"Finished in {(time.monotonic() - started) / 60:.1f} minutes; report: {output / 'report.html'}")


if __name__ == "__main__":
    main()
