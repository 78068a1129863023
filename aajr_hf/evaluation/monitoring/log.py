"""
Logs of what an agent was asked and answered: JSON lines. A line is one exchange, with the fields of [`Exchange`], or an
episode of `aajr simulate --transcript`. `docs/monitoring.md` describes both.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Exchange:
    """
    One observation and its answer.

    Attributes:
        observation: What the agent was asked.
        answer: What it answered.
        expected: The right answer; None if it is unknown.
        unchanged: The observation before someone changed its words; None if nobody is known to have changed it.
        moved: Length of the perturbation of the prompt's embeddings, in multiples of their mean norm, if it is logged.
    """

    observation: str
    answer: str
    expected: str | None = None
    unchanged: str | None = None
    moved: float | None = None

    @property
    def is_right(self) -> bool | None:
        """Whether the answer is the right one; None if the right one is unknown."""
        return None if self.expected is None else self.answer.strip() == self.expected.strip()


_TEXTS = ("observation", "answer", "expected", "unchanged")
_REQUIRED = ("observation", "answer")
# What a line is.
SINGLE, EPISODES = "single exchanges", "whole episodes"


class Log:
    """
    A log file, which may grow while it is read.

    Args:
        file: The file.

    Attributes:
        lines: Number of lines that have been read.
        holds: What these lines are: [`SINGLE`] exchanges, [`EPISODES`], or both.
    """

    def __init__(self, file: Path):
        self.file, self.lines, self._place = file, 0, 0
        self.holds: set[str] = set()

    def new(self) -> Iterator[list[Exchange]]:
        """
        Yield the exchanges of each complete line that was added since the last call. A last line without a line break
        is still being written, and is left for the next call.

        Raises:
            OSError: if the file cannot be read.
            ValueError: if a line holds no exchange, or the file has become shorter; names the file and the line.
        """
        if self.file.stat().st_size < self._place:
            raise ValueError(
                f"{self.file} has become shorter since line {self.lines} was read: start the monitor again with all logs."
            )
        with self.file.open("rb") as opened:
            opened.seek(self._place)
            for line in opened:
                if not line.endswith(b"\n"):
                    return
                self._place += len(line)
                self.lines += 1
                if line.strip():
                    try:
                        entry = json.loads(line)
                        found = exchanges(entry)
                        self.holds.add(EPISODES if "transcript" in entry else SINGLE)
                        yield found
                    except ValueError as error:  # of JSON and of text, too
                        raise ValueError(f"{self.file}, line {self.lines}: {error}") from error


def exchanges(entry: Any) -> list[Exchange]:
    """
    Return the exchanges of a line: one, or those of an episode.

    Raises:
        ValueError: if it holds none; names the field.
    """
    if not isinstance(entry, dict):
        raise ValueError("this is no JSON object")
    if "sides" in entry and "transcript" not in entry:
        raise ValueError("this episode has no `transcript`: play it again with `aajr simulate --transcript`")
    if "transcript" in entry:
        said = [one for step in entry["transcript"] for one in step.values()]
        return [_of_episode(one) for one in said if one.get("side", "model") == "model"]
    for name in _TEXTS:
        value = entry.get(name)
        if not isinstance(value, str) and (value is not None or name in _REQUIRED):
            raise ValueError(f"`{name}` must be a text; got {value!r}")
    moved = entry.get("moved")
    if moved is not None and (isinstance(moved, bool) or not isinstance(moved, int | float) or not moved >= 0):
        raise ValueError(f"`moved` must be a number of at least 0; got {moved!r}")
    return [Exchange(**{field.name: entry.get(field.name) for field in fields(Exchange)})]


def _of_episode(said: dict[str, Any]) -> Exchange:
    try:
        return Exchange(said["sees"], said["says"], said.get("expert"), said.get("unchanged"), said.get("moved"))
    except KeyError as error:
        raise ValueError(f"an entry of `transcript` lacks {error}") from error
