"""Values that several commands take, refused before any work is done."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from ..common.errors import UserError


def check_output(folder: Path, field: str) -> None:
    """
    Whether files can be written to a folder: by making it and writing one, because permissions alone do not tell. What was
    made for that is gone afterwards.

    Raises:
        UserError: names the field.
    """
    new = [path for path in (folder, *folder.parents) if not os.path.exists(path)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(
            f"`{field}`: {folder} cannot be written to ({error.strerror}): give another folder."
        ) from error
    finally:
        for path in new:
            with contextlib.suppress(OSError):  # not made
                path.rmdir()


def check_seed(seed: int, field: str) -> None:
    """
    Raises:
        UserError: for a seed that not all generators take (numpy's legacy one takes the fewest); names the field.
    """
    if not 0 <= seed < 2**32:
        raise UserError(f"`{field}` must be from 0 to {2**32 - 1}; got {seed}.")
