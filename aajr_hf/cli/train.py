"""`aajr train`: fine-tune an agent from a recipe."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from trl import ModelConfig

from ..training.checkpoints import DiskFullError, newest_checkpoint, why_not_whole
from ..training.config import AAJRConfig
from ..training.recipe import SECRETS
from .errors import Interrupted, RunError, UserError, one_line, user_errors
from .launch import LaunchArguments, is_wanted, launch, launch_arguments, split_flags
from .launched import shard_on_cpu
from .parsing import RecipeParser

if TYPE_CHECKING:
    from datasets import DatasetDict

logger = logging.getLogger(__name__)

DESCRIPTION = """Fine-tune an agent with Adversarially-Aligned Jacobian Regularization.

    aajr train --config recipes/congestion/aajr.yaml
    aajr train --config recipes/congestion/aajr.yaml --epsilon 0.2 --adapter lora --adapter_rank 32
    aajr train --config recipes/congestion/aajr.yaml --model_name_or_path Qwen/Qwen3-0.6B
    aajr train --accelerate_config fsdp2 --num_processes 8 --config recipes/congestion/aajr.yaml

Any field below may stand in the recipe or on the command line; the command line wins.
"""
COMMON_FIELDS = (
    "model_name_or_path",
    "model_revision",
    "dtype",
    "use_peft",
    "lora_r",
    "lora_alpha",
    "lora_target_modules",
    "use_rslora",
    "use_dora",
    "load_in_4bit",
    "output_dir",
    "max_steps",
    "num_train_epochs",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "max_length",
    "gradient_checkpointing",
    "bf16",
    "seed",
    "logging_steps",
    "save_steps",
    "resume_from_checkpoint",
    "push_to_hub",
    "hub_model_id",
)
# Of the recipe as run: where a run begins, and what is nobody else's.
_NOT_OF_THE_RUN = (*SECRETS, "resume_from_checkpoint", "overwrite")


@dataclass
class TrainArguments(ModelConfig):
    """What is trained on what: TRL's [`~trl.ModelConfig`] and the data; everything else is in [`AAJRConfig`]."""

    _argument_group_name = "model and data"

    attn_implementation: str = field(
        default="sdpa",
        metadata={"help": "Attention: sdpa and eager have exact Jacobian products, others are estimated."},
    )
    environment: str | None = field(
        default=None, metadata={"help": "World whose expert data to train on: congestion.", "choices": ["congestion"]}
    )
    environment_examples: int = field(default=8000, metadata={"help": "Examples generated from the world."})
    environment_seed: int = field(default=0, metadata={"help": "Seed of the generated examples."})
    dataset_name: str | None = field(
        default=None, metadata={"help": "Instead of `environment`: dataset on the Hub, folder, or .json/.jsonl file."}
    )
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of a dataset on the Hub."})
    dataset_train_split: str = field(default="train", metadata={"help": "Split to train on."})
    dataset_test_split: str = field(default="test", metadata={"help": "Split for `eval_strategy`."})
    overwrite: bool = field(default=False, metadata={"help": "Replace the model that `output_dir` holds."})


def run(argv: list[str]) -> int:
    import argparse

    parser = RecipeParser(
        (TrainArguments, LaunchArguments, AAJRConfig),
        common=COMMON_FIELDS,
        prog="aajr train",
        usage="aajr train --config RECIPE [--FIELD VALUE ...]",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    argv, flags = split_flags(parser, argv)
    launching = launch_arguments(parser.check(argv))
    if is_wanted(launching, flags):
        # A mistake is found once, before anything is launched. On the CPU: the GPUs are the launched processes' alone.
        arguments, _, config = parser.parse([*argv, "--use_cpu", "true"])
        check_arguments(arguments, config)
        return launch(launching, flags, argv, config.mixed_precision)
    arguments, _, config = parser.parse(argv)
    if config.use_cpu:
        shard_on_cpu()
    # So that the choice of the estimator and its reason are seen, which the library logs as information.
    logging.basicConfig(format="%(message)s")
    logging.getLogger("aajr_hf").setLevel(logging.INFO)
    given = parser.given(argv, (arguments, config))
    train(arguments, config, {name: value for name, value in given.items() if name not in _NOT_OF_THE_RUN})
    return 0


def check_arguments(arguments: TrainArguments, config: AAJRConfig) -> None:
    """Refuse to train on nothing, over a model, or an adapter that is asked for in two ways."""
    if not arguments.model_name_or_path:
        raise UserError("`model_name_or_path` is missing: give a model folder (see aajr init-agent) or a Hub name.")
    _check_places(config)
    if arguments.environment_examples < 1:
        raise UserError(f"`environment_examples` must be at least 1; got {arguments.environment_examples}.")
    if _holds_model(Path(config.output_dir)) and not arguments.overwrite and not config.resume_from_checkpoint:
        raise UserError(
            f"`output_dir` {config.output_dir} holds a model already: choose another, or set `overwrite` to true."
        )
    if arguments.use_peft and config.adapter != "full":
        raise UserError("Give either `adapter` or TRL's `use_peft`, not both.")
    if not arguments.use_peft:
        for item in fields(ModelConfig):
            of_lora = item.name.startswith("lora_") or item.name in ("use_rslora", "use_dora")
            if of_lora and getattr(arguments, item.name) != item.default:
                raise UserError(
                    f"`{item.name}` is TRL's and needs `use_peft`: set that to true, or use `adapter`, `adapter_rank` and "
                    "`adapter_options`."
                )
    for name in ("load_in_4bit", "load_in_8bit"):
        if getattr(arguments, name) and find_spec("bitsandbytes") is None:
            raise UserError(f"`{name}` needs bitsandbytes: pip install bitsandbytes, or unset `{name}`.")


def _check_places(config: AAJRConfig) -> None:
    """Refuse folders and names that nothing can be written to."""
    output = Path(config.output_dir)
    if not config.output_dir.strip():
        raise UserError("`output_dir` is empty: give the folder that the run is to be written to.")
    blocking = next((path for path in (output, *output.parents) if path.exists() and not path.is_dir()), None)
    if blocking is not None:
        raise UserError(f"`output_dir`: {blocking} is a file; give another folder.")
    if config.hub_model_id is not None:
        try:
            validate_repo_id(config.hub_model_id)
        except HFValidationError as error:
            raise UserError(f"`hub_model_id`: {one_line(error)}") from error


def train(arguments: TrainArguments, config: AAJRConfig, recipe: dict[str, Any]) -> None:
    """
    Fine-tune and save to `config.output_dir`, with `train_results.json` and the `recipe` as `recipe.yaml` beside the weights.

    Raises:
        UserError: for arguments, a model or data that cannot be trained on; nothing is written then.
        Interrupted: by Ctrl-C or SIGTERM, after the step that was under way and with a checkpoint.
        RunError: where training cannot go on: see [`AAJRTrainer`] for numbers that are not finite, and `DiskFullError`.
    """
    from rich.console import Console
    from trl import get_peft_config, get_quantization_config

    from ..training.adapter_report import adapter_report
    from ..training.interruption import StopOnSignal
    from ..training.loading import load_tokenizer
    from ..training.trainer import AAJRTrainer

    output = Path(config.output_dir)
    check_arguments(arguments, config)
    resume = checkpoint_to_resume(config)
    with user_errors(), _no_empty_folder(output):
        dataset = load_data(arguments)
        if not isinstance(config.model_init_kwargs, dict | None):
            raise UserError(f"`model_init_kwargs` must be a mapping; got {config.model_init_kwargs!r}.")
        config.model_init_kwargs = {
            "revision": arguments.model_revision,
            "dtype": arguments.dtype,
            "attn_implementation": arguments.attn_implementation,
            # Reading pickled weights can run code: whoever wants that says so in `model_init_kwargs`.
            "use_safetensors": True,
            **(config.model_init_kwargs or {}),
        }
        tokenizer = load_tokenizer(
            arguments.model_name_or_path,
            revision=arguments.model_revision,
            trust_remote_code=config.trust_remote_code,
            padding_side="right",
        )
        trainer = AAJRTrainer(
            arguments.model_name_or_path,
            config,
            train_dataset=split(dataset, arguments.dataset_train_split, "dataset_train_split"),
            eval_dataset=None
            if config.eval_strategy == "no"
            else split(dataset, arguments.dataset_test_split, "dataset_test_split"),
            processing_class=tokenizer,
            quantization_config=get_quantization_config(arguments),
            peft_config=get_peft_config(arguments),
        )
    trainer.recipe = recipe
    report = adapter_report(trainer.model, trainer.estimator)
    if trainer.accelerator.is_main_process:
        Console().print(report.table())
    try:
        with StopOnSignal() as stop:
            trainer.add_callback(stop)
            result = trainer.train(resume_from_checkpoint=resume)
    except KeyboardInterrupt:
        raise Interrupted(_how_to_resume(trainer)) from None
    except (FloatingPointError, DiskFullError) as error:
        raise RunError(str(error)) from error
    if stop.signal is not None:
        trainer.accelerator.end_training()
        raise Interrupted(_how_to_resume(trainer), stop.signal)
    # Trainer pushes what is saved from outside of it; the push below is after everything is in the folder.
    trainer.save_model(config.output_dir, _internal_call=True)
    trainer.save_metrics("train", result.metrics | {"trainable_parameters": report.trainable})
    trainer.save_state()
    trainer.accelerator.print(f"Model saved to {output}.")
    if config.push_to_hub and (pushed := trainer.push_to_hub()) is not None:
        print(f"Model pushed: {pushed.commit_url}")
    # Trackers and the process group, as at the end of TRL's own scripts.
    trainer.accelerator.end_training()


def load_data(arguments: TrainArguments) -> DatasetDict:
    """The generated examples of a world, or a dataset from the Hub or from files."""
    from datasets import Dataset, DatasetDict, load_dataset

    from ..environments import congestion_rows

    if (arguments.environment is None) == (arguments.dataset_name is None):
        raise UserError("Give either `environment` or `dataset_name`.")
    if arguments.environment is not None:
        examples, seed = arguments.environment_examples, arguments.environment_seed
        # The test split's seed is far from any that counts up from 0.
        return DatasetDict(
            {
                "train": Dataset.from_list(congestion_rows(examples, seed=seed)),
                "test": Dataset.from_list(congestion_rows(max(examples // 20, 1), seed=seed + 10**6)),
            }
        )
    name = arguments.dataset_name
    try:
        if name.endswith((".json", ".jsonl")):
            return load_dataset("json", data_files={arguments.dataset_train_split: name})
        return load_dataset(name, name=arguments.dataset_config)
    except Exception as error:  # the library has errors of many kinds for what it cannot read
        raise UserError(f"`dataset_name`: {name} cannot be loaded: {one_line(error.__cause__ or error)}") from error


def split(dataset: DatasetDict, name: str, field_name: str):
    """One split of a dataset; a `UserError` that names the field where there is none, a `ValueError` for its rows."""
    from ..training.loading import check_rows

    if name not in dataset:
        raise UserError(f"`{field_name}`: the dataset has no split {name!r}, only {', '.join(dataset)}.")
    check_rows(dataset[name], f"the split {name!r} of the data")
    return dataset[name]


def checkpoint_to_resume(config: AAJRConfig) -> str | None:
    """
    The checkpoint that `resume_from_checkpoint` means: a folder, or with `auto` (or `true`, as in Transformers) the newest
    whole one in `output_dir`; None to start from the beginning.

    Raises:
        UserError: for a folder that is not a whole checkpoint.
    """
    if config.resume_from_checkpoint is None:
        return None
    wanted = str(config.resume_from_checkpoint)
    if wanted.lower() == "false":
        return None
    if wanted.lower() in ("auto", "true", "last"):
        newest = newest_checkpoint(config.output_dir)
        logger.info(
            f"Resuming from {newest}."
            if newest
            else f"There is no checkpoint in {config.output_dir}: training starts from the beginning."
        )
        return None if newest is None else str(newest)
    reason = why_not_whole(Path(wanted))
    if reason is not None:
        raise UserError(
            f"`resume_from_checkpoint`: {wanted} is no checkpoint that a run can be resumed from ({reason}): give another, "
            "or auto for the newest whole one in `output_dir`."
        )
    return wanted


@contextlib.contextmanager
def _no_empty_folder(output: Path) -> Iterator[None]:
    """Trainer makes its folder before the last mistakes are found: leave none behind that was not there."""
    new = [path for path in (output, *output.parents) if not path.exists()]
    try:
        yield
    except Exception:
        for path in new:
            with contextlib.suppress(OSError):  # not made, or not empty
                path.rmdir()
        raise


def _holds_model(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("config.json", "adapter_config.json"))


def _how_to_resume(trainer) -> str:
    newest, step = newest_checkpoint(trainer.args.output_dir), trainer.state.global_step
    if newest is None:
        return f"at step {step}, before the first checkpoint (see `save_steps`); no model was written."
    return f"at step {step}; go on with --resume_from_checkpoint {newest} (or auto)"
