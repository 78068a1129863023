"""Entry point of the `aajr` command."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import traceback

COMMANDS = {
    "recipes": ("recipes", "list, show or copy the recipes that come with the package"),
    "init-agent": ("init_agent", "make a base agent from nothing, without a hub"),
    "fetch": ("fetch", "write a real language model to a folder, from the Hub or without it"),
    "train": ("train", "fine-tune an agent from a recipe"),
    "injections": ("injections", "write pairs that teach an agent not to follow injected requests"),
    "inspect": ("inspect", "show which tokens of a training example are perturbed, and which are actions"),
    "evaluate": ("evaluate", "measure how agents withstand an adversary, and what it cost"),
    "screen": ("screen", "attack an agent with forward passes alone, by predicted gradients"),
    "triggers": ("triggers", "find words that mislead an agent in any prompt"),
    "unlearnable": ("unlearnable", "mark training rows that no agent of a list answers under attack"),
    "calibrate": ("calibrate", "find the temperature that fits an agent's probabilities, and save it"),
    "simulate": ("simulate", "play whole episodes of a world, calm or under shock and attack"),
    "guard": ("guard", "keep private words out of the caches that agents share"),
    "monitor": ("monitor", "test logs of an agent for a drop of success and for unusual observations"),
    "pipeline": ("pipeline", "measure an agent in use, train it where needed, and replace it where that is better"),
    "compare": ("compare", "compare runs: who is robust, and at which price"),
    "adapter-rank": ("adapter_rank", "measure which rank an adapter needs"),
    "merge": ("merge", "write an adapter into the weights of its base model"),
    "push": ("push", "upload an agent to the Hub, with its model card"),
    "replay": ("replay", "run a step again in which a number was not finite"),
    "env": ("env", "print the versions to put into a bug report"),
}
# Former names of commands, which old scripts may use.
ALIASES = {"rank": "adapter-rank"}

USAGE = """usage: aajr COMMAND [options]

Fine-tune language-model agents so that they stay calm under shocks, and only there (AAJR).

commands:
{commands}

Each command has its own help: aajr COMMAND --help. With --debug, an error shows where it comes from."""


def main(argv: list[str] | None = None) -> int:
    """
    Run one command.

    Args:
        argv: Arguments after the program's name; `sys.argv[1:]` by default.

    Returns:
        The exit status: 0 for success, 1 for a run that failed, 2 for a mistake of the user, and 128 plus the number
        of the signal for an interruption.
    """
    argv = sys.argv[1:] if argv is None else argv
    listing = "\n".join(f"  {name:<14}{text}" for name, (_, text) in COMMANDS.items())
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE.format(commands=listing))
        return 0 if argv else 2
    if argv[0] == "--version":
        from .. import __version__

        print(f"aajr-hf {__version__}")
        return 0
    command = ALIASES.get(argv[0], argv[0])
    if command not in COMMANDS:
        print(f"error: unknown command {argv[0]!r}: choose one of {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    # Only the parser knows the help texts of a command's own commands, such as `aajr pipeline run`.
    if not {"-h", "--help"}.isdisjoint(argv) and "--trainer" not in argv and argv[1].startswith("-"):
        from .help_texts import written_help

        if (text := written_help(command)) is not None:
            print(text, end="")
            return 0
    return _run(command, argv[1:])


def _run(command: str, argv: list[str]) -> int:
    # Import late, so that a command does not wait for the libraries of the other commands.
    from .common.errors import Interrupted, RunError, UserError
    from .common.heartbeat import HEARTBEAT
    from .common.processes import is_first
    from .common.quiet import be_quiet
    from .launching.worker import hand_up

    be_quiet()
    debug = "--debug" in argv
    try:
        with HEARTBEAT.running(f"aajr {command}") if is_first() else contextlib.nullcontext():
            module = importlib.import_module(f".commands.{COMMANDS[command][0]}", package=__package__)
            return module.run([item for item in argv if item != "--debug"]) or 0
    except (UserError, RunError) as error:
        if debug:
            traceback.print_exc()
        if not hand_up(str(error)):
            print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    except SystemExit as end:
        if end.code:
            raise
        return 0  # argparse has printed a help text
    except (Interrupted, KeyboardInterrupt) as interrupt:
        if is_first():
            print(f"\ninterrupted{': ' + str(interrupt) if str(interrupt) else ''}", file=sys.stderr)
        return getattr(interrupt, "status", 130)
    except BrokenPipeError:
        if not _reader_is_gone():
            raise
        return 128 + signal.SIGPIPE


def _reader_is_gone() -> bool:
    """Whether nobody reads the output any more, as after `aajr COMMAND | head`; then the interpreter may not write, either."""
    try:
        print(flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


if __name__ == "__main__":
    sys.exit(main())
