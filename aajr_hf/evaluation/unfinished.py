"""
What an interrupted evaluation has measured, in files, so that the same evaluation goes on after it. A file holds one piece of
work, such as the numbers of one batch.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
import transformers

from .agents import Agent
from .files import replace_file
from .processes import my_share

_FOLDER = "unfinished"
_DIGEST_BYTES = 32
_T = TypeVar("_T")


@dataclass(frozen=True)
class Unfinished:
    """
    The finished pieces of one evaluation.

    Args:
        folder: Folder of their files, which is made with the first of them; None to keep nothing.
        types: Classes of the objects that their numbers consist of, beside tensors and Python's own. Other objects are not
            read from a file, because reading them could run code.
    """

    folder: Path | None = None
    types: Sequence[type] = ()

    def part(self, name: str) -> Unfinished:
        """Return a part of the evaluation with pieces of its own, such as the batches of one agent."""
        return self if self.folder is None else replace(self, folder=self.folder / name)

    def piece(self, number: int, measure: Callable[[], _T]) -> _T:
        """
        Return the numbers of a piece from its file, or measure them and write the file. No two processes may ask for the
        same piece.

        Raises:
            ValueError: if the file is damaged.
            OSError: if the file cannot be written.
        """
        file = self._file(number)
        if file is None:
            return measure()
        if file.is_file():
            return self._read(file)
        numbers = measure()
        written = io.BytesIO()
        torch.save(numbers, written)
        content = written.getvalue()
        replace_file(file, hashlib.sha256(content).digest() + content)
        return numbers

    def done(self, pieces: int) -> int:
        """Return how many of the first `pieces` have a file, of those that are this process's share."""
        files = [self._file(number) for number in my_share(pieces)]
        return sum(file is not None and file.is_file() for file in files)

    def forget(self) -> None:
        """Remove all files, once the report is written."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            with contextlib.suppress(OSError):  # of other evaluations, or none at all
                self.folder.parent.rmdir()

    def _file(self, number: int) -> Path | None:
        return None if self.folder is None else self.folder / f"{number}.pt"

    def _read(self, file: Path) -> Any:
        content = file.read_bytes()
        digest, content = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        if hashlib.sha256(content).digest() != digest:
            raise ValueError(f"{file} is damaged: remove it, and this part is measured again.")
        with torch.serialization.safe_globals([set, *self.types]):
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


NOTHING_KEPT = Unfinished()


def unfinished_evaluation(
    output: Path, agents: Sequence[Agent], depends_on: Sequence[Any], types: Sequence[type]
) -> Unfinished:
    """
    Return the pieces of an evaluation that were finished before it was interrupted. Those of an evaluation with other
    agents, other code, or another element of `depends_on` are not among them.

    Args:
        output: Folder of the evaluation's report.
        agents: All agents that take part, in order.
        depends_on: What else the numbers depend on, as objects whose JSON or `repr` shows all of it.
    """
    known = [_code(), *(_identity(agent) for agent in agents), json.dumps(depends_on, default=repr)]
    return Unfinished(output / _FOLDER / hashlib.sha256("".join(known).encode()).hexdigest()[:12], types)


def _code() -> str:
    """Return a digest of this package's code and of the versions of the libraries that its numbers depend on most."""
    digest = hashlib.sha256(f"{torch.__version__} {transformers.__version__}".encode())
    for file in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _identity(agent: Agent) -> str:
    """Return a digest of all that an agent's answers depend on."""
    digest, model, tokenizer = hashlib.sha256(), agent.model, agent.tokenizer
    texts = [agent.name, agent.folder, str(agent.temperature), tokenizer.chat_template or ""]
    words = tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else json.dumps(tokenizer.get_vocab())
    texts += [words, model.config.to_json_string()]
    digest.update("\n".join(texts).encode())
    for name, weights in (*model.named_parameters(), *model.named_buffers()):
        digest.update(f"{name} {weights.dtype} {tuple(weights.shape)}".encode())
        if not weights.is_meta:
            digest.update(weights.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    if any(weights.is_meta for weights in model.parameters()):  # Accelerate has put them elsewhere
        for file in sorted(Path(agent.folder).glob("*.safetensors")):
            with file.open("rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()
