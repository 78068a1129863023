"""`aajr adapter-rank`: which rank an adapter needs, measured on held-out observations."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from ..._compat.transformers import CHECKPOINTING
from ...training.config.sft import AAJRConfig
from ...training.config.without_effects import WITHOUT_EFFECTS
from ...training.data.sources import load_data, system_prompt_of
from ...training.data.system_prompts import with_system_prompt
from ..arguments.model_and_data import COMMON_FIELDS, TrainArguments
from ..arguments.parsing import RecipeParser, options_of
from ..arguments.train_checks import check_seeds
from ..arguments.trainers import trainer_named
from ..arguments.validators import check_output
from ..common.errors import UserError, user_errors
from ..launching.launch import LaunchArguments

DESCRIPTION = """Measure which rank an adapter needs, from singular spectra: of the adversary's directions, of their images, of the
penalty's gradient with respect to each weight, and, for a trained model, of the weights' change in training. Prints a
table and a recommendation; writes rank.json and rank.png.

    aajr adapter-rank --model outputs/congestion-aajr --config recipes/congestion/aajr.yaml
"""


@dataclass
class RankArguments:
    """The model, and the size of the measurement."""

    _argument_group_name = "measurement"

    model: str | None = field(default=None, metadata={"help": "Folder of a model or an adapter, or name on the Hub."})
    base: str | None = field(
        default=None,
        metadata={"help": "Model before training. Default: the adapter's base, or the recipe's `model_name_or_path`."},
    )
    output: str = field(default="outputs/rank", metadata={"help": "Folder of rank.json and rank.png."})
    examples: int = field(default=256, metadata={"help": "Number of held-out observations."})
    batch_size: int = field(default=32, metadata={"help": "Observations in a forward pass."})


def run(argv: list[str]) -> int:
    if trainer_named(argv) != "sft":
        raise UserError("`trainer` must be sft here: ranks are measured by supervised fine-tuning.")
    parser = RecipeParser(
        (RankArguments, TrainArguments, LaunchArguments, AAJRConfig),
        common=COMMON_FIELDS,
        prog="aajr adapter-rank",
        usage="aajr adapter-rank --model DIR --config RECIPE [--FIELD VALUE ...]",
        description=DESCRIPTION,
    )
    with tempfile.TemporaryDirectory() as folder:
        # Measure the model as it is, with its adapter merged. The trainer needs a folder, but writes nothing.
        fixed = WITHOUT_EFFECTS | {CHECKPOINTING: False, "bf16": False, "output_dir": folder}
        arguments, data, _, config = parser.parse([*argv, *options_of(fixed)])
        config.per_device_train_batch_size = arguments.batch_size
        rank(arguments, data, config)
    return 0


def rank(arguments: RankArguments, data: TrainArguments, config: AAJRConfig) -> None:
    """
    Measure the spectra, print them, and write the files.

    Raises:
        UserError: if the model or the data cannot be measured; nothing is written then.
    """
    from rich.console import Console

    from ...evaluation.adapter_rank.measure import measure_rank
    from ...evaluation.adapter_rank.report import rank_plot, rank_table
    from ..common.progress import bars

    _check(arguments, config)
    check_seeds(data, config)
    with user_errors():
        trainer, base = _prepared(arguments, data, config)
    with bars() as progress, user_errors():
        task = progress.add_task("Measuring", total=len(trainer.get_train_dataloader()))
        result = measure_rank(trainer, base, on_progress=lambda: progress.advance(task))
    measured = {
        "kind": "adapter_rank",
        "model": arguments.model,
        "base": None if base is None else base.name_or_path,
        "examples": arguments.examples,
    }
    result = measured | {"epsilon": config.epsilon, "ascent_steps": config.ascent_steps} | result
    output = Path(arguments.output)
    with user_errors():
        output.mkdir(parents=True, exist_ok=True)
        (output / "rank.json").write_text(json.dumps(result, indent=2, allow_nan=False) + "\n")
        (output / "rank.png").write_bytes(rank_plot(result))
    console = Console(markup=False)  # paths must not be read as markup
    console.print(rank_table(result))
    console.print(result["recommendation"]["sentence"], soft_wrap=True)
    console.print(f"Written: {output / 'rank.json'}, {output / 'rank.png'}", soft_wrap=True)


def _check(arguments: RankArguments, config: AAJRConfig) -> None:
    if not arguments.model:
        raise UserError("`model` is missing: give --model with the folder of a model or an adapter.")
    for name in ("examples", "batch_size"):
        if getattr(arguments, name) < 1:
            raise UserError(f"`{name}` must be at least 1; got {getattr(arguments, name)}.")
    if config.regularizer != "aajr" or config.epsilon == 0:
        raise UserError("`config` must be the recipe of an agent with `regularizer` aajr and `epsilon` above 0.")
    check_output(Path(arguments.output), "output")


def _prepared(arguments: RankArguments, data: TrainArguments, config: AAJRConfig):
    """Return a trainer for the merged model, with trainable weights, on held-out data; and the base model or None."""
    from peft import PeftModel

    from ...evaluation.agents import load_agent
    from ...training.trainers.sft import AAJRTrainer

    model, tokenizer = load_agent(arguments.model)
    if isinstance(model, PeftModel):
        raise UserError(
            f"`model`: the adapter in {arguments.model} cannot be merged, so it has no weights to measure."
        )
    base_name = arguments.base or _base_of(arguments.model, data.model_name_or_path)
    base = None if base_name is None else load_agent(base_name)[0]
    rows = _held_out(arguments.examples, data, config.dataset_text_field)
    return AAJRTrainer(model.requires_grad_(True), config, train_dataset=rows, processing_class=tokenizer), base


def _base_of(model: str, recipe_model: str | None) -> str | None:
    """Return the model before training: the adapter's base, or the model of the recipe unless it is the same."""
    file = Path(model) / "adapter_config.json"
    if file.is_file():
        return json.loads(file.read_text())["base_model_name_or_path"]
    if recipe_model is None or Path(recipe_model).resolve() == Path(model).resolve():
        return None
    return recipe_model


def _held_out(examples: int, data: TrainArguments, text_field: str):
    from datasets import Dataset

    from ...environments import held_out_rows

    if data.environment is not None:
        # Take one of the ten observations of each round, as `aajr evaluate` does.
        rows = held_out_rows(data.environment, examples, seed=data.environment_seed)
        return Dataset.from_list(with_system_prompt(rows, system_prompt_of(data)))
    rows = load_data(data, text_field).read(data.dataset_test_split, "dataset_test_split")
    return rows.select(range(min(examples, len(rows))))
