"""
Settings that Transformers and TRL refuse late: after the model is loaded and the data are prepared, or at the first
step. Here they are refused before that, by the name of the field.
"""

from __future__ import annotations

import inspect
import os
from importlib.util import find_spec
from pathlib import Path

import torch
from accelerate.utils import TorchDynamoPlugin
from torch.utils.checkpoint import checkpoint
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    Trainer,
    TrainingArguments,
    get_scheduler,
)
from transformers.integrations import INTEGRATION_TO_CALLBACK, get_available_reporting_integrations
from transformers.training_args import ParallelMode
from trl import DPOConfig, GRPOConfig

from ..._errors import first_line
from .base import AAJRConfigMixin

# Names in `report_to` whose packages have other names.
_PACKAGES = {"azure_ml": "azureml-sdk", "comet_ml": "comet-ml", "flyte": "flytekit"}
_ATTENTION_PACKAGES = ("flash_attn", "flash_attn_interface", "kernels")
# Options of checkpointing that Transformers and TRL add to PyTorch's.
_CHECKPOINTING = ("every_n_layers", "offload", "selective")
# Suffixes of files that TRL reads as chat templates, and of files that users take for them.
_TEMPLATES, _TEXTS = (".jinja", ".j2"), (".jinja2", ".txt", ".json", ".html")
_SMALLEST = {
    "eval_accumulation_steps": 1,
    "per_device_eval_batch_size": 1,
    "dataloader_num_workers": 0,
    "dataloader_prefetch_factor": 1,
    "dataset_num_proc": 0,
    "pad_to_multiple_of": 1,
    "max_length": 1,
    "max_completion_length": 1,
}
# Choices of DPO and GRPO that TRL looks at in the first step.
_CHOICES = {
    "f_divergence_type": ("reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"),
    "scale_rewards": ("group", "batch", "none"),
    "multi_objective_aggregation": ("sum_then_normalize", "normalize_then_sum"),
}
_LOSSES_OF_DPO = (
    *("sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired"),
    *("apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm"),
)
# Settings of sampling, the value that turns each off, and what Transformers makes of another value.
_SAMPLING = {
    "temperature": (1.0, TemperatureLogitsWarper),
    "top_k": (0, TopKLogitsWarper),
    "top_p": (1.0, TopPLogitsWarper),
    "min_p": (None, MinPLogitsWarper),
    "repetition_penalty": (1.0, RepetitionPenaltyLogitsProcessor),
}


def check_settings(args: AAJRConfigMixin) -> None:
    """
    Check the settings that depend neither on the data nor on the device: numbers, optional packages, the optimizer and
    the schedule of the learning rate.

    Raises:
        ValueError: if a setting does not work; names the field.
    """
    _check_numbers(args)
    _check_choices(args)
    _check_checkpointing(args)
    _check_reporting(args)
    _check_optimizer(args)
    _check_schedule(args)
    _check_compilation(args)
    for name in getattr(args, "dataset_kwargs", None) or ():
        if name != "skip_prepare_dataset":
            raise ValueError(f"`dataset_kwargs` has no option {name!r}, only skip_prepare_dataset.")
    if args.use_liger_kernel and find_spec("liger_kernel") is None:
        raise ValueError(
            "`use_liger_kernel` needs Liger: pip install liger-kernel, or set `use_liger_kernel` to false."
        )
    check_attention(_own_attention(args))
    if (path := getattr(args, "chat_template_path", None)) is not None:
        _check_template_path(path)


def check_machine(args: AAJRConfigMixin, attention: str | None = None) -> None:
    """
    Check the settings that need a GPU or several processes. `attention` is an attention implementation that `args` does
    not hold.

    Raises:
        ValueError: if they are not there; names the field.
    """
    for name, example in (("fsdp", "fsdp2"), ("deepspeed", "zero2")):
        if getattr(args, name) and args.parallel_mode != ParallelMode.DISTRIBUTED and "RANK" not in os.environ:
            raise ValueError(
                f"`{name}` needs several processes: start them with --accelerate_config {example}, or unset `{name}`."
            )
    if args.device.type != "cpu":
        return
    kernel = next((name for name in (attention, _own_attention(args)) if _has_no_cpu_kernel(name)), None)
    if kernel is not None:
        raise ValueError(
            f"`attn_implementation` {kernel} needs a GPU: set it to sdpa, for which the penalty is exact."
        )
    for name in ("activation_offloading", "use_liger_kernel"):
        if getattr(args, name, False):
            raise ValueError(f"`{name}` needs a GPU, and training runs on the CPU: set `{name}` to false.")


def check_attention(attention: str | None) -> None:
    """
    Check that the kernels of an attention implementation are installed.

    Raises:
        ValueError: if not.
    """
    if attention is None or not ("flash" in attention or "/" in attention):
        return
    packages = ("kernels",) if "/" in attention else _ATTENTION_PACKAGES
    if not any(map(find_spec, packages)):
        raise ValueError(
            f"`attn_implementation` {attention} needs a GPU and kernels: install them (pip install kernels), or set it "
            "to sdpa, for which the penalty is exact."
        )


def _check_template_path(path: str) -> None:
    """TRL takes every path that is not of a template's file for the name of a model on the Hub."""
    file = Path(path)
    if file.is_file() and file.suffix not in _TEMPLATES:
        raise ValueError(f"`chat_template_path`: {path} must end in .jinja to be read as a chat template: rename it.")
    is_local = file.is_absolute() or path.startswith((".", "~")) or file.suffix in (*_TEMPLATES, *_TEXTS)
    if is_local and not file.exists():
        raise ValueError(
            f"`chat_template_path`: there is no file {path}: give a file, relative to the working directory, or a model."
        )


def _own_attention(args: AAJRConfigMixin) -> str | None:
    return (getattr(args, "model_init_kwargs", None) or {}).get("attn_implementation")


def _has_no_cpu_kernel(attention: str | None) -> bool:
    """Whether an attention implementation has no backward pass on a CPU."""
    return attention is not None and any(part in attention for part in ("flash", "flex", "/"))


def _check_numbers(args: TrainingArguments) -> None:
    for name, smallest in _SMALLEST.items():
        value = getattr(args, name, None)
        if value is not None and value < smallest:
            raise ValueError(f"`{name}` must be at least {smallest}; got {value}.")
    if args.max_steps == 0 or (args.max_steps < 0 and args.num_train_epochs <= 0):
        name = "max_steps" if args.max_steps == 0 else "num_train_epochs"
        raise ValueError(f"`{name}` must be above 0, because nothing is trained otherwise; got {getattr(args, name)}.")
    if getattr(args, "packing", False) and args.max_length is None:
        raise ValueError("`packing` needs `max_length`, the number of tokens of a row: set it, or `packing` to false.")
    if args.dataloader_persistent_workers and args.dataloader_num_workers == 0:
        raise ValueError(
            "`dataloader_persistent_workers` needs workers: set `dataloader_num_workers` above 0, or set it to false."
        )


def _check_choices(args: AAJRConfigMixin) -> None:
    for name, choices in _CHOICES.items():
        if hasattr(args, name) and getattr(args, name) not in choices:
            raise ValueError(f"`{name}` must be one of {', '.join(choices)}; got {getattr(args, name)!r}.")
    if isinstance(args, DPOConfig):
        for name in [args.loss_type] if isinstance(args.loss_type, str) else args.loss_type:
            if name not in _LOSSES_OF_DPO:
                raise ValueError(f"`loss_type` must be one or several of {', '.join(_LOSSES_OF_DPO)}; got {name!r}.")
    for name, (off, kind) in _SAMPLING.items() if isinstance(args, GRPOConfig) else ():
        value = getattr(args, name)
        try:
            kind(value) if value is not None and value != off else None
        except ValueError as error:
            raise ValueError(f"`{name}`: {first_line(error)}") from error


def _check_checkpointing(args: AAJRConfigMixin) -> None:
    of_torch = {*inspect.signature(checkpoint).parameters, "preserve_rng_state"} - {"function", "args", "kwargs"}
    for field in ("gradient_checkpointing_kwargs", "activation_checkpointing_kwargs"):
        options = getattr(args, field, None) or {}
        for name in options:
            if name not in of_torch.union(_CHECKPOINTING):
                known = ", ".join(sorted(of_torch.union(_CHECKPOINTING)))
                raise ValueError(f"`{field}` has no option {name!r}, only {known}.")
        if options.get("use_reentrant") and args.is_active:
            raise ValueError(
                f"`{field}`: `use_reentrant` must be false while AAJR is active, because the ascent differentiates by the "
                "embeddings alone: set it to false."
            )
        used = {"use_reentrant": False} | {name: value for name, value in options.items() if name in of_torch}
        try:
            checkpoint(torch.nn.Identity(), torch.ones(1, requires_grad=True), **used)
        except Exception as error:  # an option of a wrong type can raise any error
            raise ValueError(f"`{field}` {options} do not work: {first_line(error)}") from error


def _check_reporting(args: TrainingArguments) -> None:
    available = get_available_reporting_integrations()
    for name in args.report_to or ():
        if not isinstance(name, str):
            continue  # a callback class
        if name not in INTEGRATION_TO_CALLBACK:
            names = ", ".join([*INTEGRATION_TO_CALLBACK, "all", "none"])
            raise ValueError(f"`report_to` must be one or several of {names}; got {name!r}.")
        package = _PACKAGES.get(name, name)
        if name not in available and find_spec(package.partition("-")[0]) is None:
            raise ValueError(f"`report_to` {name} needs a package: pip install {package}, or set `report_to` to none.")


def _check_optimizer(args: TrainingArguments) -> None:
    pairs = [pair for pair in (args.optim_args or "").replace(" ", "").split(",") if pair]
    if not all("=" in pair for pair in pairs):
        raise ValueError(f"`optim_args` must be pairs NAME=VALUE, separated by commas; got {args.optim_args!r}.")
    name = getattr(args.optim, "value", args.optim)
    try:
        kind, options = Trainer.get_optimizer_cls_and_kwargs(args)
        if kind.__module__.startswith("torch."):  # others may need a GPU
            kind([torch.nn.Parameter(torch.zeros(1))], **options)
    except Exception as error:  # an option of a wrong type can raise any error
        if "model" in str(error) and "install" not in str(error):
            return  # it is asked for with a model later
        raise ValueError(
            f"`optim` {name} does not work here: {first_line(error)} (see also `optim_args` and the fields `adam_...`)"
        ) from error


def _check_schedule(args: TrainingArguments) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    try:
        get_scheduler(
            args.lr_scheduler_type,
            optimizer,
            num_warmup_steps=args.get_warmup_steps(100),
            num_training_steps=100,
            scheduler_specific_kwargs=args.lr_scheduler_kwargs,
        )
    except Exception as error:  # an option of a wrong type can raise any error
        raise ValueError(
            f"`lr_scheduler_type` {getattr(args.lr_scheduler_type, 'value', args.lr_scheduler_type)} does not work with "
            f"`lr_scheduler_kwargs` {args.lr_scheduler_kwargs}: {first_line(error)}"
        ) from error


def _check_compilation(args: TrainingArguments) -> None:
    if not args.torch_compile:
        return
    given = {"backend": args.torch_compile_backend, "mode": args.torch_compile_mode}
    try:
        torch.compile(torch.nn.Identity(), **TorchDynamoPlugin(**given).to_kwargs())
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(
            f"`torch_compile_backend` {given['backend']} does not work with `torch_compile_mode` {given['mode']}: "
            f"{first_line(error)}"
        ) from error
