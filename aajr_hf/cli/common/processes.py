"""Which of several processes speaks for all."""

from __future__ import annotations

import os

from .errors import UserError


def is_first() -> bool:
    """Return whether this process prints for all processes."""
    return os.environ.get("RANK", "0") == "0"


def check_alone(command: str) -> None:
    """
    Check that the command runs in one process.

    Raises:
        UserError: if a launcher has started several.
    """
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UserError(f"`aajr {command}` runs in one process: start it without torchrun and `accelerate launch`.")
