"""`aajr init-agent`: make a base agent from scratch, without a download."""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path

from ...environments import WORLDS
from ...training.data.formats.table import FORMATS
from ...training.data.sources import DataArguments, load_data
from ..arguments.options import ArgumentParser
from ..arguments.validators import check_at_least_one, check_seed
from ..arguments.worlds import check_agents
from ..common.errors import UserError, user_errors
from ..common.new_folder import check_new_folder, new_folder

DESCRIPTION = """Make a base agent from nothing: a tokenizer trained on the text of a world or of a dataset, and a Llama of 1 to
1.5 million parameters trained on the world's experts, or for a few steps on the dataset. The folder loads as any Hugging Face
model does.

    aajr init-agent outputs/agent
    aajr init-agent outputs/tool-agent --dataset_name data/bfcl --dataset_format bfcl

From a dataset, the agent learns the form of the answers only: it is a start for recipes such as
recipes/tiny/bfcl/aajr.yaml. Its chat template renders tools, calls and results.
"""
TARGET_SUCCESS = 99.0


def run(argv: list[str]) -> int:
    parser = ArgumentParser("init-agent", description=DESCRIPTION)
    parser.add_argument("output", metavar="OUT", type=Path, help="folder to make; must not exist, or be empty")
    parser.add_argument(
        "--environment", choices=list(WORLDS), help="world of the agent (default: congestion, without --dataset_name)"
    )
    parser.add_argument(
        "--dataset_name",
        help="instead of a world: folder or file with a dataset, or one on the Hub, as `aajr train` takes it",
    )
    parser.add_argument("--dataset_format", choices=FORMATS, default="auto", help="its format (default: %(default)s)")
    parser.add_argument("--skip_invalid_rows", action="store_true", help="leave its invalid rows out")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, data and order (default: 0)")
    parser.add_argument(
        "--steps",
        type=int,
        help="optimizer steps (default: 1200 of 64 examples of a world, 100 of 8 of a dataset)",
    )
    parser.add_argument("--examples", type=int, help="training examples of a world (default: 24000)")
    parser.add_argument("--agents", type=int, help="number of agents in the world (default: 10)")
    parser.add_argument(
        "--share_cache",
        action="store_true",
        help="teach the agent to read messages of peers, too, in every second example: for `aajr guard` and `aajr simulate --share_cache`",
    )
    arguments = parser.parse_args(argv)
    _check(arguments)
    if arguments.dataset_name is not None:
        data = DataArguments(
            dataset_name=arguments.dataset_name,
            dataset_format=arguments.dataset_format,
            skip_invalid_rows=arguments.skip_invalid_rows,
        )
        loss = init_tool_agent(arguments.output, data, seed=arguments.seed, steps=arguments.steps or 100)
        print(f"Base agent saved to {arguments.output}: its loss is {loss:.2f} nats per answer token.")
        return 0
    success = init_agent(
        arguments.output,
        arguments.environment or "congestion",
        seed=arguments.seed,
        steps=arguments.steps or 1200,
        examples=arguments.examples or 24000,
        agents=arguments.agents or 10,
        share_cache=arguments.share_cache,
    )
    print(f"Base agent saved to {arguments.output}: {success:.1f} % of held-out answers equal the expert's.")
    if success < TARGET_SUCCESS:
        print(f"warning: success is below {TARGET_SUCCESS:.0f} %: train longer with --steps.", file=sys.stderr)
    return 0


def _check(arguments: argparse.Namespace) -> None:
    if arguments.dataset_name is None:
        for name in ("dataset_format", "skip_invalid_rows"):
            if getattr(arguments, name) not in ("auto", False):
                raise UserError(f"`--{name}` needs `--dataset_name`.")
    for name in ("environment", "examples", "agents", "share_cache"):
        if arguments.dataset_name is not None and getattr(arguments, name) not in (None, False):
            raise UserError(f"`--{name}` and `--dataset_name` cannot be used together: leave one of them out.")
    world = WORLDS[arguments.environment or "congestion"]
    if arguments.agents is not None:
        check_agents(world, arguments.agents)
    if arguments.share_cache and world.own_from is None:
        raise UserError(
            f"`--share_cache`: in {arguments.environment}, no words of an observation come from peers: choose another world."
        )
    check_at_least_one(arguments, "steps", "examples")
    check_seed(arguments.seed, "--seed")
    check_new_folder(arguments.output)


def init_agent(
    output: Path, world: str, *, seed: int, steps: int, examples: int, agents: int = 10, share_cache: bool = False
) -> float:
    """
    Train a base agent and save it to `output`. The folder appears only when it is complete.

    Returns:
        The nominal success of the agent on held-out observations, in percent; with `share_cache`, on observations that
        begin with messages of peers.
    """
    from datasets import Dataset
    from transformers import set_seed

    from ...environments import expert_rows, held_out_rows
    from ...evaluation.robustness.evaluate import nominal_success
    from ...training.models.base_agent import small_llama, train_tokenizer

    set_seed(seed)
    rows = expert_rows(world, examples, seed=seed, agents=agents)
    if share_cache:
        rows[1::2] = expert_rows(world, examples, seed=seed, agents=agents, messages=True)[1::2]
    observations = [message["content"] for row in rows for message in row["prompt"]]
    tokenizer = train_tokenizer(observations + [action for row in rows for action in row["actions"]])
    model = small_llama(tokenizer, seed)
    model.config.aajr_environment = world  # tells other commands the world of the agent
    dataset = Dataset.from_list(rows).select_columns(["prompt", "completion"])
    _train(
        model, tokenizer, dataset, output, seed=seed, max_steps=steps, per_device_train_batch_size=64, warmup_steps=50
    )
    return nominal_success(
        model, tokenizer, held_out_rows(world, 1000, seed=seed, agents=agents, messages=share_cache)
    )


def init_tool_agent(output: Path, data: DataArguments, *, seed: int, steps: int) -> float:
    """
    Train a base agent on the training split of a dataset, with a chat template that renders tools, and save it to
    `output`. The folder appears only when it is complete.

    Returns:
        The mean loss per answer token (per token of any kind, if the rows are plain texts) over the last tenth of the
        steps.
    """
    from transformers import set_seed

    from ...training.models.base_agent import render, small_llama, train_tool_tokenizer

    set_seed(seed)
    with user_errors():
        dataset = load_data(data).read(data.dataset_train_split, "dataset_train_split")
    if "input_ids" in dataset.column_names:
        raise UserError(
            "`--dataset_name`: the rows are tokens (`input_ids`) of another tokenizer: give a dataset of texts."
        )
    with user_errors():
        tokenizer = train_tool_tokenizer(dataset)
        longest = max(len(ids) for ids in tokenizer([render(tokenizer, row) for row in dataset])["input_ids"])
    # Leave room for an answer after the longest text.
    context = max(512, 2 ** math.ceil(math.log2(longest + 64)))
    model = small_llama(tokenizer, seed, context)
    logged = _train(
        model,
        tokenizer,
        dataset,
        output,
        seed=seed,
        max_steps=steps,
        per_device_train_batch_size=8,
        warmup_steps=10,
        logging_steps=max(steps // 10, 1),
        max_length=context,
        assistant_only_loss="messages" in dataset.column_names,
        skip_invalid_rows=data.skip_invalid_rows,
        perturbed_tokens="all",  # nothing is perturbed, but plain texts have no prompt to select
    )
    return next(log["aajr/clean_loss"] for log in reversed(logged) if "aajr/clean_loss" in log)


def _train(
    model, tokenizer, dataset, output: Path, skip_invalid_rows: bool = False, **settings
) -> list[dict[str, float]]:
    """Fine-tune without adversary or penalty, save the agent in `output`, and return the log history."""
    from ...training.config.sft import AAJRConfig
    from ...training.trainers.sft import AAJRTrainer
    from ..common.progress import TrainingProgress

    with new_folder(output) as whole:
        with user_errors():
            trainer = AAJRTrainer(
                model,
                AAJRConfig(
                    str(whole.parent),
                    # Plain fine-tuning with a doubled loss: both terms are the clean loss, so the clipping threshold
                    # is doubled, too. Unlike SFTTrainer, it computes logits only at action positions, which saves a
                    # third.
                    epsilon=0.0,
                    regularizer="none",
                    clean_loss_weight=1.0,
                    max_grad_norm=2.0,
                    learning_rate=3e-3,
                    adam_beta2=0.98,
                    lr_scheduler_type="cosine",
                    gradient_checkpointing=False,
                    bf16=False,
                    save_strategy="no",
                    **{"logging_steps": 200} | settings,
                ),
                train_dataset=dataset,
                processing_class=tokenizer,
                skip_invalid_rows=skip_invalid_rows,
            )
        with TrainingProgress(trainer):
            result = trainer.train()
        model.save_pretrained(whole)
        tokenizer.save_pretrained(whole)
        # `aajr train` writes the same file, and `aajr evaluate` reads it.
        (whole / "train_results.json").write_text(json.dumps(result.metrics, indent=4) + "\n")
    return trainer.state.log_history
