"""What a run remembers in its checkpoints beside weights and optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import TrainerState


class Memory:
    """
    Plain numbers by name, in `trainer_state.json`, where [`~transformers.Trainer`] keeps what callbacks remember: saved and restored
    with each checkpoint. All processes must write the same.

    Args:
        owner: The name under which they lie there.
        state: Returns the trainer's state; a resumed run has another one than it began with.
    """

    def __init__(self, owner: str, state: Callable[[], TrainerState]):
        self._owner, self._state = owner, state

    @property
    def numbers(self) -> dict[str, Any]:
        """All of them, to read and to write."""
        kept = self._state().stateful_callbacks.setdefault(self._owner, {"args": {}, "attributes": {}})
        return kept["attributes"]

    def section(self, name: str, **start: Any) -> dict[str, Any]:
        """The numbers of one part of the run, which begins with those given."""
        return self.numbers.setdefault(name, start)
