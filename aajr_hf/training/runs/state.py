"""The numbers that a run keeps in its checkpoints beside weights and optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import TrainerState


class Memory:
    """
    Plain numbers by name in `trainer_state.json`, where [`~transformers.Trainer`] keeps the state of callbacks. They
    are saved and restored with each checkpoint. All processes must write the same numbers.

    Args:
        owner: The name under which the numbers are kept.
        state: Function that returns the trainer's state, because a resumed run replaces its state.
    """

    def __init__(self, owner: str, state: Callable[[], TrainerState]):
        self._owner, self._state = owner, state

    @property
    def numbers(self) -> dict[str, Any]:
        """All numbers, to read and to write."""
        kept = self._state().stateful_callbacks.setdefault(self._owner, {"args": {}, "attributes": {}})
        return kept["attributes"]

    def section(self, name: str, **start: Any) -> dict[str, Any]:
        """The numbers of one part of the run; `start` has their initial values."""
        return self.numbers.setdefault(name, start)
