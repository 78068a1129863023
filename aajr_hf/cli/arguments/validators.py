"""Checks of values that several commands take, made before any work starts."""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
from pathlib import Path

from ..common.errors import UserError


def check_output(folder: Path, field: str) -> None:
    """
    Check that files can be written to a folder. The check creates the folder and a file in it, because permissions
    alone are not reliable, and removes both afterwards.

    Raises:
        UserError: if nothing can be written; names the field.
    """
    new = [path for path in (folder, *folder.parents) if not os.path.exists(path)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(f"`{field}`: {folder} is not writable ({error.strerror}): give another folder.") from error
    finally:
        for path in new:
            with contextlib.suppress(OSError):  # the folder was not made
                path.rmdir()


def check_model_given(model: str | None) -> None:
    """
    Check that a recipe or the command line gives a model.

    Raises:
        UserError: if not.
    """
    if not model:
        raise UserError("`model_name_or_path` is missing: give a model folder (see aajr init-agent) or a Hub name.")


def check_seed(seed: int, field: str) -> None:
    """
    Check that all random generators accept a seed (numpy's legacy generator has the smallest range).

    Raises:
        UserError: if the seed is out of range; names the field.
    """
    if not 0 <= seed < 2**32:
        raise UserError(f"`{field}` must be from 0 to {2**32 - 1}; got {seed}.")


def check_at_least_one(arguments: argparse.Namespace, *names: str) -> None:
    """
    Check the options of a command that count something. Options without a value pass.

    Raises:
        UserError: if one is below 1; names it.
    """
    for name in names:
        if getattr(arguments, name) is not None and getattr(arguments, name) < 1:
            raise UserError(f"`--{name}` must be at least 1; got {getattr(arguments, name)}.")
