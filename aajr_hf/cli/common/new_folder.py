"""The folder that a command makes: whole, or not at all."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from .errors import UserError


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends the work as Ctrl-C does. No handler of ordinary errors catches it."""

    status = 128 + signal.SIGTERM


def check_new_folder(output: Path, field: str = "OUT") -> None:
    """
    Refuse a folder that cannot be made, before any work is spent on its content. Errors name the `field`.

    Raises:
        UserError: if `output` is a file or a folder that is not empty, or nothing can be written there.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"`{field}`: {output} is not an empty folder: choose another one, or remove it.")
    if not os.access(home := _home(output), os.W_OK) or not home.is_dir():
        raise UserError(
            f"`{field}`: {output} cannot be made, because {home} is not a writable folder: choose another one."
        )


def _home(output: Path) -> Path:
    """The nearest folder above `output` that is there."""
    return next(folder for folder in output.absolute().parents if folder.exists())


@contextlib.contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """
    Make a folder near its final place, on the same disk, and rename it at the end: after an error, Ctrl-C or SIGTERM,
    nothing of it is left.

    Args:
        output: The final place: no folder, or an empty one (see [`check_new_folder`]).

    Yields:
        The path of the folder to make. Its parent is a temporary folder, for whatever else the work needs.

    Raises:
        Terminated: by SIGTERM.
    """
    prefix = f".{output.name}-"
    with _interrupted_by_sigterm(), tempfile.TemporaryDirectory(dir=_home(output), prefix=prefix) as building:
        whole = Path(building) / "whole"
        yield whole
        output.parent.mkdir(parents=True, exist_ok=True)
        if output.exists():
            output.rmdir()
        os.replace(whole, output)


@contextlib.contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does: by an exception, so that temporary files are removed."""

    def interrupt(*_) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():  # no other thread may change signals
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
