"""Run a command on several processes, by passing its command line to `accelerate launch`."""

from __future__ import annotations

import os
from argparse import ArgumentParser
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MethodType
from typing import TYPE_CHECKING

from ..common.errors import UserError, user_errors
from ..common.heartbeat import HEARTBEAT
from ..common.packaged import packaged
from .launcher import run_launcher
from .worker import LAUNCHED

if TYPE_CHECKING:
    from ..arguments.parsing import RecipeParser

# Flags of `accelerate launch` that a command sets itself: what to run, and with which configuration file.
_NOT_PASSED_ON = {"--config_file", "--config-file", "--module", "--no_python", "--no-python"}


@dataclass
class LaunchArguments:
    """The number of processes and the configuration of `accelerate launch`."""

    _argument_group_name = "several processes (`aajr train` takes every option of `accelerate launch`, too)"

    accelerate_config: str | None = field(
        default=None,
        metadata={
            "help": "Accelerate configuration to launch with: single, ddp, fsdp2, zero1, zero2, zero3, ddp_cpu, fsdp2_cpu, or a "
            "file that `accelerate config` made."
        },
    )
    num_processes: int | None = field(
        default=None,
        metadata={"help": "Number of processes, one for each GPU. Default: the number in `accelerate_config`."},
    )


def config_file(name: str) -> Path:
    """Return the file of a configuration, given its name in `accelerate_configs/` or its path."""
    known = {path.stem: path for path in packaged("accelerate_configs").glob("*.yaml")}
    path = known.get(name, Path(name))
    if not path.is_file():
        raise UserError(
            f"`accelerate_config` must be one of {', '.join(sorted(known))}, or the path of a file; got {name!r}."
        )
    return path


def split_flags(own: ArgumentParser, argv: list[str]) -> tuple[list[str], list[str]]:
    """Split arguments into those of the command, with all unknown ones, and those of `accelerate launch`."""
    if all(item.split("=")[0] in own._option_string_actions for item in argv if item.startswith("--")):
        return argv, []
    launcher, ours, theirs, rest = _launcher_parser(), [], [], list(argv)
    while rest:
        item = rest.pop(0)
        flag, has_value, _ = item.partition("=")
        action = launcher._option_string_actions.get(flag)
        if not flag.startswith("--") or flag in own._option_string_actions or flag in _NOT_PASSED_ON or action is None:
            ours.append(item)
            continue
        theirs.append(item)
        if rest and not has_value and action.nargs != 0:
            theirs.append(rest.pop(0))
    return ours, theirs


def launch_arguments(parser: RecipeParser, argv: list[str]) -> LaunchArguments:
    """Parse only the launch arguments, from checked arguments. Building the full configuration would use a device."""
    values = vars(parser.parse_known_args(argv)[0])
    return LaunchArguments(**{field.name: values[field.name] for field in fields(LaunchArguments)})


def is_wanted(arguments: LaunchArguments, flags: list[str]) -> bool:
    """Return whether to launch: the user asks for it, and this process was not launched itself."""
    if LAUNCHED in os.environ or "LOCAL_RANK" in os.environ:
        return False
    return bool(flags or arguments.accelerate_config or arguments.num_processes)


def launch(arguments: LaunchArguments, flags: list[str], argv: list[str], mixed_precision: str) -> int:
    """
    Run `aajr` with `argv`, the name of the command and its arguments, in every process.

    Args:
        flags: Options of `accelerate launch`.
        mixed_precision: Value of the recipe. It overrides Accelerate's file, and `flags` override both.

    Returns:
        The exit status of the process that failed first, or 0.

    Raises:
        UserError: for an invalid option of Accelerate. Mistakes that the processes find are printed.
    """
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.utils import patch_environment

    path = config_file(arguments.accelerate_config or _default_config(arguments.num_processes))
    with user_errors():
        config = load_config_from_file(str(path))
    training = argv[0] == "train"
    if not training and (config.fsdp_config or config.deepspeed_config):
        raise UserError(
            f"`accelerate_config`: {path.stem} shards a model that is trained: give ddp to `aajr {argv[0]}`."
        )
    own = ["--config_file", str(path), "--mixed_precision", mixed_precision]
    if arguments.num_processes is not None:
        own += ["--num_processes", str(arguments.num_processes)]
    # Accelerate passes `use_cpu` on only for a single process.
    script = ["aajr_hf.cli.main", *argv, *(["--use_cpu", "true"] if config.use_cpu and training else [])]
    parsed = _launcher_parser().parse_args([*own, *flags, "--module", *script])
    if parsed.training_script != script[0]:
        raise UserError(f"unexpected argument: {parsed.training_script!r} (see aajr {argv[0]} --help)")
    # The C++ code of torch warns about defaults of Accelerate in each process. Only errors are shown.
    variables = {"TORCH_CPP_LOG_LEVEL": os.environ.get("TORCH_CPP_LOG_LEVEL", "ERROR")}
    variables |= {"CUDA_VISIBLE_DEVICES": ""} if config.use_cpu and not training else {}
    # The first launched process prints the signs of life, so this process prints none.
    with patch_environment(**{LAUNCHED: "1"}, **variables), HEARTBEAT.during(None):
        return run_launcher(parsed)


def _default_config(num_processes: int | None) -> str:
    import torch

    # An option of Accelerate alone does not ask for a second process.
    if num_processes in (None, 1):
        return "single"
    return "ddp" if torch.cuda.is_available() else "ddp_cpu"


def _launcher_parser() -> ArgumentParser:
    from accelerate.commands.launch import launch_command_parser

    def error(self, message: str):
        raise UserError(f"{message} (see accelerate launch --help)")

    parser = launch_command_parser()
    parser.error = MethodType(error, parser)
    return parser
