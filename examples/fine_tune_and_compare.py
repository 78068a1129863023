"""
Fine-tune one agent in two ways, attack both, and compare what it gained with what it cost.

    aajr init-agent outputs/agent
    python examples/fine_tune_and_compare.py

Any causal language model can take the place of `outputs/agent`; give steps to suit it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from datasets import Dataset

from aajr_hf import AAJRConfig, AAJRTrainer
from aajr_hf.cli.main import main as aajr
from aajr_hf.environments import expert_rows

# What differs between the two; everything else is the same.
METHODS = {"adversarial": {"regularizer": "none"}, "aajr": {"regularizer": "aajr", "regularizer_lambda": 0.03}}


def train(model: str, folder: Path, rows: Dataset, steps: int, **method) -> float:
    """Train one agent, and return the duration of its training in seconds."""
    config = AAJRConfig(
        str(folder),
        epsilon=0.25,
        ascent_steps=1,
        clean_loss_weight=1.0,
        lambda_mode="relative",
        aajr_warmup_ratio=0.3,
        freeze_embeddings=True,  # otherwise a model can meet a penalty by changing them
        max_steps=steps,
        per_device_train_batch_size=32,
        learning_rate=1e-3,
        lr_scheduler_type="cosine",
        logging_steps=steps,
        save_strategy="no",
        bf16=False,
        **method,
    )
    trainer = AAJRTrainer(model, config, train_dataset=rows)
    trainer.train()
    trainer.save_final()  # the agent with its recipe, so that `aajr evaluate` knows how it was trained
    return trainer.state.log_history[-1]["train_runtime"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[1])
    parser.add_argument("--model", default="outputs/agent", help="the agent to begin with")
    parser.add_argument("--output", type=Path, default=Path("outputs/compared"), help="folder of all outputs")
    parser.add_argument("--steps", type=int, default=60, help="optimizer steps of each training")
    parser.add_argument("--examples", type=int, default=32, help="held-out observations that are attacked")
    arguments = parser.parse_args()

    rows = Dataset.from_list(expert_rows("congestion", 32 * arguments.steps, seed=1))
    folders = {name: arguments.output / name for name in METHODS}
    seconds = {
        name: train(arguments.model, folders[name], rows, arguments.steps, **method)
        for name, method in METHODS.items()
    }

    # Together, because what breaks one is also tried on the other.
    models = [f"base={arguments.model}", *(f"{name}={folder}" for name, folder in folders.items())]
    report = arguments.output / "evaluation"
    size = ["--examples", str(arguments.examples), "--multiples", "0.5", "1", "--output", str(report)]
    if status := aajr(["evaluate", *models, *size]):
        raise SystemExit(status)

    print(f"{'agent':<12} {'nominal %':>10} {'worst 1x %':>11} {'amplification':>14}")
    for name, run in json.loads((report / "results.json").read_text())["runs"].items():
        worst = run["worst_case_success"]["1"]
        print(f"{name:<12} {run['nominal_success']:>10.1f} {worst:>11.1f} {run['amplification']:>14.1f}")
    print(f"Training took {seconds['aajr'] / seconds['adversarial']:.1f} times as long with the penalty.")


if __name__ == "__main__":
    main()
