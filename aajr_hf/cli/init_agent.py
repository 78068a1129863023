"""`aajr init-agent`: a base agent from nothing, for machines without a hub."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from ..environments import WORLDS
from .errors import UserError, user_errors
from .parsing import ArgumentParser

DESCRIPTION = """Make a base agent from nothing: a tokenizer trained on the world's text, and a Llama of one million
parameters trained on the world's experts. The folder loads as any Hugging Face model does.

    aajr init-agent outputs/agent
"""
TARGET_SUCCESS = 99.0


def run(argv: list[str]) -> int:
    import argparse

    parser = ArgumentParser(
        prog="aajr init-agent", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", metavar="OUT", type=Path, help="folder to make; must not exist, or be empty")
    parser.add_argument(
        "--environment", choices=list(WORLDS), default="congestion", help="world of the agent (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, data and order (default: 0)")
    parser.add_argument("--steps", type=int, default=900, help="optimizer steps of 64 examples (default: 900)")
    parser.add_argument("--examples", type=int, default=16000, help="training examples (default: 16000)")
    arguments = parser.parse_args(argv)
    for name in ("steps", "examples"):
        if getattr(arguments, name) < 1:
            raise UserError(f"`--{name}` must be at least 1; got {getattr(arguments, name)}.")
    if arguments.seed < 0:
        raise UserError(f"`--seed` must be at least 0; got {arguments.seed}.")
    if arguments.output.exists() and (not arguments.output.is_dir() or any(arguments.output.iterdir())):
        raise UserError(f"{arguments.output} is not empty: choose another folder, or remove it.")
    with user_errors():
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
    success = init_agent(
        arguments.output,
        arguments.environment,
        seed=arguments.seed,
        steps=arguments.steps,
        examples=arguments.examples,
    )
    print(f"Base agent saved to {arguments.output}: {success:.1f} % of held-out answers are the expert's.")
    if success < TARGET_SUCCESS:
        print(f"warning: below {TARGET_SUCCESS:.0f} %; train longer with --steps.")
    return 0


def init_agent(output: Path, environment: str, *, seed: int, steps: int, examples: int) -> float:
    """
    Train a base agent and save it to `output`, whole or not at all.

    Returns:
        Its nominal success on held-out observations, in percent.
    """
    from datasets import Dataset
    from transformers import set_seed

    from ..environments import expert_rows, held_out_rows
    from ..evaluation.robustness import nominal_success
    from ..training.base_agent import small_llama, train_tokenizer
    from ..training.config import AAJRConfig
    from ..training.trainer import AAJRTrainer
    from .progress import TrainingProgress

    set_seed(seed)
    rows = expert_rows(environment, examples, seed=seed)
    observations = [message["content"] for row in rows for message in row["prompt"]]
    tokenizer = train_tokenizer(observations + [action for row in rows for action in row["actions"]])
    model = small_llama(tokenizer, seed)
    model.config.aajr_environment = environment  # by which other commands know its world
    # Built beside its final place, then renamed: an interruption leaves no half-written model there.
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as building:
        trainer = AAJRTrainer(
            model,
            AAJRConfig(
                building,
                # Plain fine-tuning, twice over: the clean loss stands in both terms, so the clipping threshold doubles,
                # too. Unlike SFTTrainer's, its logits are formed at action positions alone, which saves a third here.
                epsilon=0.0,
                regularizer="none",
                clean_loss_weight=1.0,
                max_grad_norm=2.0,
                max_steps=steps,
                per_device_train_batch_size=64,
                learning_rate=3e-3,
                adam_beta2=0.98,
                lr_scheduler_type="cosine",
                warmup_steps=50,
                gradient_checkpointing=False,
                bf16=False,
                save_strategy="no",
                logging_steps=200,
                seed=seed,
            ),
            train_dataset=Dataset.from_list(rows).select_columns(["prompt", "completion"]),
            processing_class=tokenizer,
        )
        with TrainingProgress(trainer):
            result = trainer.train()
        whole = Path(building) / "agent"
        model.save_pretrained(whole)
        tokenizer.save_pretrained(whole)
        # Where `aajr train` leaves it too, and `aajr evaluate` finds it.
        (whole / "train_results.json").write_text(json.dumps(result.metrics, indent=4) + "\n")
        if output.exists():
            output.rmdir()
        os.replace(whole, output)
    return nominal_success(model, tokenizer, held_out_rows(environment, 1000, seed=seed))
