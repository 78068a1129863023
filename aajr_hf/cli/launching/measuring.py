"""Run a measurement on several processes, if its options ask for it."""

from __future__ import annotations

import contextlib
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator

from ...evaluation.processes import several_processes
from ..arguments.validators import check_at_least_one
from ..common.errors import user_errors
from .launch import LaunchArguments, is_wanted, launch, split_flags


def add_launch(parser: ArgumentParser, shared: str) -> None:
    """
    Add the options of a launch.

    Args:
        shared: What the processes share out among themselves.
    """
    group = parser.add_argument_group("several processes (every option of `accelerate launch` is taken, too)")
    group.add_argument(
        "--num_processes",
        type=int,
        help=f"number of processes, one for each GPU, that share out the {shared}; the numbers stay the same (default: 1)",
    )
    group.add_argument(
        "--accelerate_config",
        metavar="NAME",
        help="Accelerate configuration to launch with: ddp, ddp_cpu, or a file that `accelerate config` made",
    )


def parse_launch(parser: ArgumentParser, argv: list[str]) -> tuple[Namespace, list[str], list[str]]:
    """
    Parse a command line.

    Returns:
        The options of the command, its own part of the command line, and that of `accelerate launch`.

    Raises:
        UserError: if an option is invalid.
    """
    own, flags = split_flags(parser, argv)
    arguments = parser.parse_args(own)
    check_at_least_one(arguments, "num_processes")
    return arguments, own, flags


def launched(command: str, arguments: Namespace, own: list[str], flags: list[str]) -> int | None:
    """
    Run the command on several processes, and return its exit status; None if it runs in this process.

    Raises:
        UserError: if an option of the launch is invalid. Mistakes that the processes find are printed.
    """
    launching = LaunchArguments(arguments.accelerate_config, arguments.num_processes)
    return launch(launching, flags, [command, *own], "no") if is_wanted(launching, flags) else None


@contextlib.contextmanager
def together() -> Iterator[None]:
    """
    Join the other processes of the launch, if there are any.

    Raises:
        UserError: if this machine has fewer accelerators than processes.
    """
    with contextlib.ExitStack() as joined:
        with user_errors():
            joined.enter_context(several_processes())
        yield
