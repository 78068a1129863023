"""
What an interrupted evaluation has measured, in files, so that the same evaluation goes on after it. A file holds one piece of
work, such as the numbers of one batch.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from .. import __version__
from .processes import my_share

_FOLDER = "unfinished"
_T = TypeVar("_T")


@dataclass(frozen=True)
class Unfinished:
    """
    The finished pieces of one evaluation.

    Args:
        folder: Folder of their files, which is made with the first of them; None to keep nothing.
        types: Classes of the objects that their numbers consist of, beside tensors and Python's own. A file with other
            objects is not read, because reading them could run code.
    """

    folder: Path | None = None
    types: Sequence[type] = ()

    def part(self, name: str) -> Unfinished:
        """Return a part of the evaluation with pieces of its own, such as the batches of one agent."""
        return self if self.folder is None else replace(self, folder=self.folder / name)

    def piece(self, number: int, measure: Callable[[], _T]) -> _T:
        """
        Return the numbers of a piece from its file, or measure them and write the file.

        Raises:
            ValueError: if the file is damaged.
        """
        file = self._file(number)
        if file is None:
            return measure()
        if file.is_file():
            return self._read(file)
        numbers = measure()
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_suffix(f".{os.getpid()}")  # several processes may measure the same piece
        torch.save(numbers, temporary)
        os.replace(temporary, file)
        return numbers

    def done(self, pieces: int) -> int:
        """Return how many of the first `pieces` have a file, of those that are this process's share."""
        files = [self._file(number) for number in my_share(pieces)]
        return sum(file is not None and file.is_file() for file in files)

    def _file(self, number: int) -> Path | None:
        return None if self.folder is None else self.folder / f"{number}.pt"

    def _read(self, file: Path) -> Any:
        try:
            with torch.serialization.safe_globals([set, *self.types]):
                return torch.load(file, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise ValueError(f"{file} is damaged: remove it, and this part is measured again.") from error


NOTHING_KEPT = Unfinished()


def unfinished_evaluation(
    output: Path, models: Iterable[nn.Module], depends_on: Sequence[Any], types: Sequence[type]
) -> Unfinished:
    """
    Return the pieces of an evaluation that were finished before it was interrupted. Those of an evaluation with other
    models, another version of this package, or another element of `depends_on` are not among them.

    Args:
        output: Folder of the evaluation's report.
        depends_on: What else the numbers depend on, as objects whose JSON or `repr` shows all of it.
    """
    said = json.dumps([__version__, *depends_on], default=repr)
    digest = hashlib.sha256(said.encode())
    for model in models:
        digest.update(_weights_digest(model))
    return Unfinished(output / _FOLDER / digest.hexdigest()[:12], types)


def forget_unfinished(output: Path) -> None:
    """Remove what unfinished evaluations have left in the folder of a report, which is written now."""
    shutil.rmtree(output / _FOLDER, ignore_errors=True)


def _weights_digest(model: nn.Module) -> bytes:
    digest = hashlib.sha256()
    for name, weights in model.named_parameters():
        digest.update(f"{name} {weights.dtype} {tuple(weights.shape)}".encode())
        if not weights.is_meta:  # Accelerate has put them on the disk
            digest.update(weights.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.digest()
