"""Checks of the arguments of `aajr train`, before anything is read or written."""

from __future__ import annotations

import logging
import os
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from peft import PeftConfig, PeftType
from transformers import SchedulerType
from trl import ModelConfig, get_peft_config

from ..._errors import one_line
from ...training.config.base import AAJRConfigMixin
from ...training.config.late_settings import check_attention, check_settings
from ...training.data.sources import DataArguments
from ...training.models.bfloat16 import slow_bfloat16
from ...training.models.loading import check_weights
from ...training.models.saved_adapters import base_model, differing_field, saved_adapter, why_another
from ...training.runs.checkpoints import newest_checkpoint, why_incomplete
from ..common.errors import UserError, user_errors
from .model_and_data import TrainArguments
from .validators import check_model_given, check_seed
from .worlds import world_for

logger = logging.getLogger(__name__)

ALLOW_PICKLED = "set `model_init_kwargs` to {use_safetensors: false}"
# Fields of PEFT's LoRA that must be those of a checkpoint -> their names in TRL.
_OF_LORA = {
    "r": "`lora_r`",
    "lora_alpha": "`lora_alpha`",
    "use_dora": "`use_dora`",
    "use_rslora": "`use_rslora`",
    "target_modules": "`lora_target_modules`",
}


def check_arguments(arguments: TrainArguments, config: AAJRConfigMixin) -> str | None:
    """
    Check the arguments: a model is given, the output folder is free and writable, seeds and world are valid, at most
    one kind of adapter is given, and required packages are installed.

    Returns:
        The checkpoint to resume from, see [`checkpoint_to_resume`].

    Raises:
        UserError: if a check fails; names the field.
    """
    check_model_given(arguments.model_name_or_path)
    _check_places(config)
    check_seeds(arguments, config)
    if arguments.environment is not None:
        world_for([arguments.model_name_or_path], arguments.environment, "`environment`")
    if arguments.environment_examples < 1:
        raise UserError(f"`environment_examples` must be at least 1; got {arguments.environment_examples}.")
    if not isinstance(config.model_init_kwargs, dict | None):
        raise UserError(f"`model_init_kwargs` must be a mapping; got {config.model_init_kwargs!r}.")
    resume = checkpoint_to_resume(config)
    held = _held(Path(config.output_dir))
    if held and resume is None and not arguments.overwrite:
        goes_on = "" if held == "a model" else "resume with --resume_from_checkpoint auto, "
        raise UserError(
            f"`output_dir` {config.output_dir} already contains {held}: {goes_on}choose another, or set `overwrite` to true."
        )
    if arguments.use_peft and config.adapter != "full":
        raise UserError("`adapter` and TRL's `use_peft` are both set: set only one of them.")
    if not arguments.use_peft:
        for item in fields(ModelConfig):
            of_lora = item.name.startswith("lora_") or item.name in ("use_rslora", "use_dora")
            if of_lora and getattr(arguments, item.name) != item.default:
                raise UserError(
                    f"`{item.name}` belongs to TRL and needs `use_peft`: set `use_peft` to true, or use `adapter`, "
                    "`adapter_rank` and `adapter_options`."
                )
    if config.bf16 and config.device.type == "cpu" and slow_bfloat16():
        logger.warning(
            "This CPU has no fast instructions for bfloat16: training takes several times as long as with `bf16` false."
        )
    with user_errors():
        check_attention(arguments.attn_implementation)
        check_settings(config)
    _check_evaluation(config)
    with user_errors():
        _check_adapter(arguments, config, resume)
        if (config.model_init_kwargs or {}).get("use_safetensors", True):
            check_weights(base_model(arguments.model_name_or_path, _revision(arguments, config)), ALLOW_PICKLED)
    for name in ("load_in_4bit", "load_in_8bit"):
        if getattr(arguments, name) and find_spec("bitsandbytes") is None:
            raise UserError(f"`{name}` needs bitsandbytes: pip install bitsandbytes, or unset `{name}`.")
    return resume


def _check_adapter(arguments: TrainArguments, config: AAJRConfigMixin, resume: str | None) -> None:
    """Check the settings of the adapter against the adapter that training goes on with, or is resumed with."""
    model = arguments.model_name_or_path
    start = saved_adapter(model, _revision(arguments, config))
    if start is not None and arguments.use_peft:
        raise UserError(
            f"`use_peft` adds an adapter, but `model_name_or_path` {model} is an adapter: unset `use_peft` to go on "
            f"training that one, or write that one into its base model with aajr merge {model} OUT."
        )
    if start is not None and config.adapter != "full":
        reason, remedy = why_another(config, start.base_model_name_or_path, start), ", or unset `adapter`"
    elif start is None and resume is not None:
        reason, remedy = _why_not_resumed(arguments, config, Path(resume)), f" to resume from {resume}"
    else:
        return
    if reason is not None:
        raise UserError(f"{reason}: choose the saved one{remedy}.")


def lora_of(arguments: TrainArguments) -> PeftConfig | None:
    """TRL's LoRA of `use_peft`, in which the name of one layer is a name, as the names of several are, and no pattern."""
    config = get_peft_config(arguments)
    if config is not None and isinstance(config.target_modules, str) and config.target_modules.isidentifier():
        config.target_modules = {config.target_modules}
    return config


def _revision(arguments: TrainArguments, config: AAJRConfigMixin) -> str | None:
    return (config.model_init_kwargs or {}).get("revision", arguments.model_revision)


def _why_not_resumed(arguments: TrainArguments, config: AAJRConfigMixin, checkpoint: Path) -> str | None:
    """Which field describes other weights than those of a checkpoint; None if none does, as far as it tells."""
    held = saved_adapter(checkpoint)
    if held is None and not (checkpoint / "config.json").is_file():
        return None  # the shards of several processes
    if not arguments.use_peft:
        return why_another(config, arguments.model_name_or_path, held)
    if held is None or held.peft_type != PeftType.LORA:
        found = "a whole model" if held is None else held.peft_type.value
        return f"`use_peft` trains a LoRA, but the weights that were saved are those of {found}"
    return differing_field(lora_of(arguments), held, _OF_LORA)


def _check_evaluation(config: AAJRConfigMixin) -> None:
    """Check the settings of evaluations during training, which need `eval_strategy`."""
    if config.eval_on_start and config.eval_strategy == "no":
        raise UserError(
            "`eval_on_start` needs evaluations: set `eval_strategy` to steps or epoch, or set it to false."
        )
    is_used = config.load_best_model_at_end or config.save_strategy == "best"
    if is_used and config.eval_strategy == "no":
        raise UserError(
            "`save_strategy` best and `load_best_model_at_end` need `eval_strategy`: set it to steps or epoch."
        )
    is_used |= config.lr_scheduler_type in (SchedulerType.REDUCE_ON_PLATEAU, SchedulerType.GREEDY)
    if is_used and config.metric_for_best_model not in ("loss", "eval_loss"):
        raise UserError(
            f"`metric_for_best_model` must be loss, the only metric of evaluations; got {config.metric_for_best_model}."
        )


def check_seeds(arguments: DataArguments, config: AAJRConfigMixin) -> None:
    """
    Check that random generators accept the seeds.

    Raises:
        UserError: if a seed is out of range; names the field.
    """
    check_seed(config.seed, "seed")
    check_seed(config.data_seed or 0, "data_seed")
    check_seed(arguments.environment_seed, "environment_seed")


def _check_places(config: AAJRConfigMixin) -> None:
    """Check the output folder and the name on the Hub."""
    output = Path(config.output_dir)
    if not config.output_dir.strip():
        raise UserError("`output_dir` is empty: give the output folder of the run.")
    blocking = next((path for path in (output, *output.parents) if path.exists() and not path.is_dir()), None)
    if blocking is not None:
        raise UserError(f"`output_dir`: {blocking} is a file: give another folder.")
    nearest = next(path for path in (output, *output.absolute().parents) if path.exists())
    if not os.access(nearest, os.W_OK):
        raise UserError(f"`output_dir`: {nearest} cannot be written to: give another folder.")
    if config.hub_model_id is not None:
        try:
            validate_repo_id(config.hub_model_id)
        except HFValidationError as error:
            raise UserError(f"`hub_model_id`: {one_line(error)}") from error


def checkpoint_to_resume(config: AAJRConfigMixin) -> str | None:
    """
    Return the checkpoint that `resume_from_checkpoint` selects: the given folder or, with `auto` (or `true`, as in
    Transformers), the newest complete checkpoint in `output_dir`. Return None to start from the beginning.

    Raises:
        UserError: for a folder that is not a complete checkpoint.
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
    reason = why_incomplete(Path(wanted))
    if reason is not None:
        raise UserError(
            f"`resume_from_checkpoint`: {wanted} is not a complete checkpoint ({reason}): give another, or auto for "
            "the newest complete checkpoint in `output_dir`."
        )
    return wanted


def _held(folder: Path) -> str | None:
    """Return what a new run would replace, if anything."""
    if newest_checkpoint(folder) is not None:
        return "a run"
    return "a model" if any((folder / name).exists() for name in ("config.json", "adapter_config.json")) else None
