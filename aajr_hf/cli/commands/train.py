"""`aajr train`: fine-tune an agent from a recipe."""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..._errors import one_line
from ...training.config.base import AAJRConfigMixin
from ...training.config.late_settings import check_machine
from ...training.config.recipe import RECIPE
from ...training.data.sources import load_data, system_prompt_of
from ...training.data.system_prompts import check_system_role
from ...training.data.variants import DRAWS
from ...training.runs.checkpoints import DiskFullError, newest_checkpoint
from ...training.runs.ema import remove_average
from ...training.sharing.model_card import DATA, EVALUATION, is_own_card
from ..arguments.model_and_data import COMMON_FIELDS, TrainArguments
from ..arguments.parsing import RecipeParser
from ..arguments.train_checks import ALLOW_PICKLED, check_arguments, lora_of
from ..arguments.trainers import CONFIGS, trainer_named
from ..common.errors import Interrupted, RunError, UserError, user_errors
from ..common.measured import measured_of
from ..launching.launch import LaunchArguments, is_wanted, launch, launch_arguments, split_flags
from ..launching.worker import shard_on_cpu

logger = logging.getLogger(__name__)

DESCRIPTION = """Fine-tune an agent with Adversarially-Aligned Jacobian Regularization.

    aajr train --config recipes/congestion/aajr.yaml
    aajr train --config recipes/congestion/aajr.yaml --epsilon 0.2 --adapter lora --adapter_rank 32
    aajr train --config recipes/congestion/aajr.yaml --model_name_or_path Qwen/Qwen3-0.6B
    aajr train --trainer dpo --config recipes/tiny/injections/dpo.yaml
    aajr train --accelerate_config fsdp2 --num_processes 8 --config recipes/congestion/aajr.yaml

Any field below may stand in the recipe or on the command line; the command line wins.
"""
# These fields say where a run starts; they are not part of its recipe.
# The trainer writes its own name.
_NOT_OF_THE_RUN = ("resume_from_checkpoint", "overwrite", "trainer")
# What a run writes into its folder: the model (in one file or in shards) or the adapter, the tokenizer, and records.
_FOLDERS = re.compile(r"(checkpoint|_nonfinite)-\d+")
_MODEL_FILES = re.compile(
    r"(adapter_config|config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens)\.json"
    r"|(model|adapter_model)(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?|chat_template\.jinja"
)
_RECORDS = (RECIPE, DATA, "training_args.bin", "trainer_state.json", "train_results.json", "all_results.json")


def run(argv: list[str]) -> int:
    name = trainer_named(argv)
    parser = RecipeParser(
        (TrainArguments, LaunchArguments, CONFIGS[name]),
        common=COMMON_FIELDS,
        prog="aajr train",
        usage="aajr train --config RECIPE [--FIELD VALUE ...]",
        description=DESCRIPTION,
    )
    argv, flags = split_flags(parser, argv)
    argv = parser.check(argv)
    launching = launch_arguments(parser, argv)
    if is_wanted(launching, flags):
        # Find mistakes once, before the launch. Parse on the CPU, because only the launched processes may use the
        # GPUs.
        arguments, _, config = parser.parse([*argv, "--use_cpu", "true"])
        check_arguments(arguments, config)
        return launch(launching, flags, ["train", *argv], config.mixed_precision)
    arguments, _, config = parsed = parser.parse(argv)
    if config.use_cpu:
        shard_on_cpu()
    # Show the log level INFO, at which the library reports the chosen estimator and the reason.
    logging.basicConfig(format="%(message)s")
    logging.getLogger("aajr_hf").setLevel(logging.INFO)
    given = parser.given(argv, parsed)
    train(arguments, config, {name: value for name, value in given.items() if name not in _NOT_OF_THE_RUN})
    return 0


def train(arguments: TrainArguments, config: AAJRConfigMixin, recipe: dict[str, Any]) -> None:
    """
    Fine-tune and save to `config.output_dir`, with `train_results.json` and the `recipe` as `recipe.yaml` beside the weights.

    Raises:
        UserError: if the arguments, the model or the data are invalid; nothing is written then.
        Interrupted: on Ctrl-C or SIGTERM, after the current step and with a checkpoint.
        RunError: if training cannot continue, because numbers are not finite (see [`AAJRTrainer`]) or the disk is full
            (`DiskFullError`).
    """
    from rich.console import Console
    from trl import get_quantization_config

    from ...training.models.adapter_report import adapter_report
    from ...training.models.loading import load_tokenizer
    from ...training.models.saved_adapters import tokenizer_place
    from ...training.runs.interruption import StopOnSignal
    from ..common.progress import TrainingProgress

    output = Path(config.output_dir)
    resume = check_arguments(arguments, config)
    with user_errors(), _no_empty_folder(output):
        check_machine(config, arguments.attn_implementation)
        variants = DRAWS if getattr(config, "needs_variants", False) else 0
        dataset = load_data(arguments, getattr(config, "dataset_text_field", "text"), variants)
        name = trainer_named(["--trainer", arguments.trainer])
        train_rows = dataset.read(arguments.dataset_train_split, "dataset_train_split")
        _check_rows(arguments, train_rows, name)
        config.model_init_kwargs = {
            "revision": arguments.model_revision,
            "dtype": arguments.dtype,
            "attn_implementation": arguments.attn_implementation,
            # Loading pickled weights can run code, so it must be enabled explicitly in `model_init_kwargs`.
            "use_safetensors": True,
            **(config.model_init_kwargs or {}),
        }
        place, revision = tokenizer_place(arguments.model_name_or_path, config.model_init_kwargs["revision"])
        tokenizer = load_tokenizer(place, revision=revision, trust_remote_code=config.trust_remote_code)
        eval_rows = None
        if config.eval_strategy != "no":
            eval_rows = dataset.read(arguments.dataset_test_split, "dataset_test_split")
        quantized = get_quantization_config(arguments)
        with _model_errors_named(config.model_init_kwargs):
            trainer = _trainer(
                name,
                model=arguments.model_name_or_path,
                args=config,
                train_dataset=train_rows,
                eval_dataset=eval_rows,
                processing_class=tokenizer,
                peft_config=lora_of(arguments),
                skip_invalid_rows=arguments.skip_invalid_rows,
                **({} if quantized is None else {"quantization_config": quantized}),
            )
        check_system_role(trainer.processing_class, system_prompt_of(arguments))
        trainer.check_checkpoint(resume)
    trainer.describe_run(recipe, dataset.skipped[arguments.dataset_train_split] + trainer.skipped_rows)
    report = adapter_report(trainer.model, trainer.estimator)
    if trainer.accelerator.is_main_process:
        Console().print(report.table())
        if name == "sft" and (measured := measured_of(config)):
            print(measured)
        if resume is None:
            _clear(output, arguments.model_name_or_path)
    try:
        with StopOnSignal() as stop, TrainingProgress(trainer):
            trainer.add_callback(stop)
            result = trainer.train(resume_from_checkpoint=resume)
            if stop.signal is None:
                trainer.save_final()
    except KeyboardInterrupt:
        raise Interrupted(_how_to_resume(trainer)) from None
    except (FloatingPointError, DiskFullError) as error:
        raise RunError(str(error)) from error
    if stop.signal is not None:
        trainer.accelerator.end_training()
        raise Interrupted(_how_to_resume(trainer), stop.signal)
    trainer.save_metrics("train", result.metrics | {"trainable_parameters": report.trainable})
    trainer.save_state()
    trainer.accelerator.print(f"Model saved to {output}.")
    if config.push_to_hub and (pushed := trainer.upload()) is not None:
        print(f"Model pushed: {pushed.commit_url}")
    # Close trackers and the process group, as TRL's own scripts do.
    trainer.accelerator.end_training()


def _trainer(name: str, **arguments):
    """Return the trainer, by its name in [`CONFIGS`]. Each is imported only where it is used, which takes seconds."""
    if name == "dpo":
        from ...training.trainers.dpo import AAJRDPOTrainer

        return AAJRDPOTrainer(**arguments)
    if name == "grpo":
        from ...training.trainers.grpo import AAJRGRPOTrainer
        from ...training.trainers.rewards import negative_cost

        return AAJRGRPOTrainer(reward_funcs=negative_cost, **arguments)
    from ...training.trainers.sft import AAJRTrainer

    return AAJRTrainer(**arguments)


def _check_rows(arguments: TrainArguments, rows, trainer: str) -> None:
    """Check that the trainer and the rows fit together."""
    if trainer == "grpo" and arguments.environment is None:
        raise UserError(
            "`trainer` grpo needs an `environment`, which knows the costs of answers: give one, or use AAJRGRPOTrainer "
            "in Python with your own reward."
        )
    names = set(rows.column_names or ())
    if (trainer == "dpo") != ({"chosen", "rejected"} <= names):
        found = ", ".join(sorted(names))
        if trainer == "dpo":
            raise UserError(f"`trainer` dpo needs the columns chosen and rejected, but the data has {found}.")
        raise UserError("The data are pairs (chosen and rejected): set `trainer` to dpo.")


def _clear(output: Path, model: str) -> None:
    """
    Remove the files of a replaced run, which would be mistaken for files of the new run: its weights, for example,
    because an adapter in a folder is loaded before other weights. Files that no run writes stay, and so does a model
    that the new run starts from, because an adapter needs it.
    """
    starts_here = Path(model).resolve() == output.resolve()
    for path in list(output.iterdir()) if output.is_dir() else ():
        if path.is_dir():
            if path.name == EVALUATION or _FOLDERS.fullmatch(path.name):
                shutil.rmtree(path, ignore_errors=True)
        elif path.name in _RECORDS or (_MODEL_FILES.fullmatch(path.name) and not starts_here):
            path.unlink()
    remove_average(output)
    if is_own_card(output):
        (output / "README.md").unlink(missing_ok=True)


@contextlib.contextmanager
def _model_errors_named(options: dict[str, Any]) -> Iterator[None]:
    """Name the field with the `options` if the model has no such option, and the remedy if it has no safetensors."""
    try:
        yield
    except TypeError as error:
        unknown = next((name for name in options if f"unexpected keyword argument '{name}'" in str(error)), None)
        if unknown is None:
            raise
        raise UserError(f"`model_init_kwargs`: the model has no option {unknown!r}: remove it.") from error
    except KeyError as error:  # an option of the model's configuration with a value that the model does not know
        if repr(error.args[0]) not in repr(options):
            raise
        raise UserError(f"`model_init_kwargs`: the model does not know {error}: correct it.") from error
    except OSError as error:
        if "safetensors" not in str(error):
            raise
        raise UserError(
            f"{one_line(error)} If its weights are pickled and you trust them, {ALLOW_PICKLED}."
        ) from error


@contextlib.contextmanager
def _no_empty_folder(output: Path) -> Iterator[None]:
    """Remove new empty folders after an error, because Trainer makes its folder before all mistakes are found."""
    new = [path for path in (output, *output.parents) if not path.exists()]
    try:
        yield
    except Exception:
        for path in new:
            with contextlib.suppress(OSError):  # the folder was not made, or is not empty
                path.rmdir()
        raise


def _how_to_resume(trainer) -> str:
    newest, step = newest_checkpoint(trainer.args.output_dir), trainer.state.global_step
    if newest is None:
        return f"at step {step}, before the first checkpoint (see `save_steps`); no model was written."
    return f"at step {step}; resume with --resume_from_checkpoint {newest} (or auto)"
