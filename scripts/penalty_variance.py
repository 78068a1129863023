"""
Measure the noise of the amortised penalty: the spread of its gradient over draws, and the work that each setting saves.

    aajr init-agent outputs/agent
    python scripts/penalty_variance.py --model outputs/agent --output penalty_variance.json

The script uses one batch of the recipe's examples and fixed weights. The spread is `sqrt(E ||g - E g||^2) / ||E g||`,
where g is the penalty's gradient with respect to all trained weights. Each setting is measured alone and with the
control variate that a clean loss provides (`clean_loss_weight`). If the penalty is evaluated at every n-th step and
multiplied by n, the spread is that of one step, averaged over all n steps. The spread between batches, without
amortising, is the noise that training has in any case.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import torch
import yaml
from datasets import Dataset
from transformers.utils import logging

from aajr_hf import AAJRConfig, AAJRTrainer
from aajr_hf.environments import expert_rows

RECIPE = Path(__file__).resolve().parent.parent / "recipes" / "congestion" / "aajr.yaml"
# (penalty_trajectory, penalty_fraction, penalty_interval)
SETTINGS = [
    ("all", 1.0, 1),
    ("sample", 1.0, 1),
    ("sample", 0.5, 1),
    ("sample", 0.0625, 1),
    ("sample", 0.125, 2),
    ("sample", 0.125, 4),  # recipes/congestion/aajr-amortised.yaml
]


def trainer_for(model: str, batch_size: int, batches: int, folder: str) -> AAJRTrainer:
    """Return a trainer with the recipe's adversary and penalty, at full strength on every batch."""
    recipe = yaml.safe_load(RECIPE.read_text())
    names = ("epsilon", "regularizer", "regularizer_lambda", "freeze_embeddings", "seed")
    settings = {name: recipe[name] for name in names} | {
        "ascent_steps": 3
    }  # so that there are several points to sample from
    config = AAJRConfig(
        folder,
        per_device_train_batch_size=batch_size,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        disable_tqdm=True,
        **settings,
    )
    return AAJRTrainer(
        model, config, train_dataset=Dataset.from_list(expert_rows("congestion", batches * batch_size, seed=1))
    )


def gradients(trainer: AAJRTrainer, inputs: dict, draws: int) -> list[torch.Tensor]:
    """Return the gradient of `lambda R` for some draws: the gradient with the penalty, minus the one without it."""
    weights = [p for p in trainer.model.parameters() if p.requires_grad]

    def flat() -> torch.Tensor:
        loss = trainer.compute_loss(trainer.model, inputs)
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights)])

    strength, trainer.args.regularizer_lambda = trainer.args.regularizer_lambda, 0.0
    without = flat()
    trainer.args.regularizer_lambda = strength
    return [flat() - without for _ in range(draws)]


def spread(draws: list[torch.Tensor], mean: torch.Tensor) -> float:
    squares = torch.stack([(draw - mean).square().sum() for draw in draws])
    return float(squares.mean().sqrt() / mean.norm())


def setting_spread(trainer: AAJRTrainer, inputs: dict, exact: torch.Tensor, draws: int) -> float:
    """
    Return the spread of one step with the trainer's setting, over steps with the penalty and the steps between them.
    """
    interval = trainer.args.penalty_interval
    trainer.state.global_step = 0
    penalised = spread(gradients(trainer, inputs, draws), exact)
    trainer.state.global_step = 1
    between = spread(gradients(trainer, inputs, 1), exact) if interval > 1 else 0.0
    return ((penalised**2 + (interval - 1) * between**2) / interval) ** 0.5


def measure(model: str, batch_size: int, draws: int) -> list[dict]:
    """Return one row for each setting; the first row is the spread between batches."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_for(model, batch_size, draws + 1, folder)
    trainer.model.train()
    batches = iter(trainer.get_train_dataloader())
    inputs = trainer._prepare_inputs(next(batches))
    (exact,) = gradients(trainer, inputs, 1)
    others = [gradients(trainer, trainer._prepare_inputs(next(batches)), 1)[0] for _ in range(draws)]
    rows = [{"setting": "other batches", "relative_spread": spread(others, torch.stack(others).mean(dim=0))}]
    args = trainer.args
    for points, fraction, interval in SETTINGS:
        args.penalty_trajectory, args.penalty_fraction, args.penalty_interval = points, fraction, interval
        share = fraction / interval / (1 if points == "all" else args.ascent_steps)
        row = {"setting": f"{points}, {fraction:g}, {interval}", "share_of_the_work": share}
        for name, args.clean_loss_weight in (("drawn_alone", 0.0), ("relative_spread", 1.0)):
            row[name] = setting_spread(trainer, inputs, exact, draws)
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of an agent")
    parser.add_argument("--batch_size", type=int, default=32, help="examples (default: %(default)s)")
    parser.add_argument("--draws", type=int, default=60, help="of each setting (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="JSON file for the numbers")
    arguments = parser.parse_args()
    if not (Path(arguments.model) / "config.json").is_file():
        print(
            f"error: `--model`: there is no model in {arguments.model}: make one with `aajr init-agent`.",
            file=sys.stderr,
        )
        sys.exit(2)
    logging.set_verbosity_error()
    rows = measure(arguments.model, arguments.batch_size, arguments.draws)
    print(f"{'points, fraction, interval':<28} {'share of the work':>18} {'drawn alone':>12} {'control variate':>16}")
    for row in rows:
        share, alone = (f"{row[name]:.3g}" if name in row else "" for name in ("share_of_the_work", "drawn_alone"))
        print(f"{row['setting']:<28} {share:>18} {alone:>12} {row['relative_spread']:>16.2f}")
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
