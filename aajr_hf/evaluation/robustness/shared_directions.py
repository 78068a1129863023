"""What the worst cases of different prompts have in common, in the format of the results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from ...training.sharing.results import SharedDirections
from ..attacks.learnt import Learnt
from ..attacks.lessons import Lessons
from ..attacks.suite import ATTACKS
from ..attacks.target import Target


class _Settings(Protocol):
    """What the settings of all evaluations have."""

    attacks: tuple[str, ...]
    multiples: tuple[float, ...]
    batch_size: int


class SharedMeasurement:
    """
    Learn directions from the rows of an evaluation, and count what the attack `universal` explains of the worst case.

    Args:
        target_of: Function that returns the attack target of the rows with these numbers.
        examples: Number of rows.
        batch_size: Rows in a target.
        multiples: Radii of the attacks, as multiples of epsilon.
    """

    def __init__(
        self, target_of: Callable[[list[int]], Target], examples: int, batch_size: int, multiples: tuple[float, ...]
    ):
        self.lessons = Lessons(target_of, examples, batch_size, multiples)
        self._worst: dict[str, int] = {}
        self._explained: dict[str, int] = {}

    def add(self, broken: Tensor, by_universal: Tensor, multiple: str) -> None:
        """
        Add which examples (B,) are right without attack and broken by some attack within this multiple of epsilon, and
        which ones `universal` breaks.
        """
        self._worst[multiple] = self._worst.get(multiple, 0) + int(broken.sum())
        self._explained[multiple] = self._explained.get(multiple, 0) + int((broken & by_universal).sum())

    def result(self) -> SharedDirections:
        lessons = self.lessons
        found: SharedDirections = {
            "examples": lessons.examples,
            "dimensions": lessons.dimensions,
            "energy": {str(rank): share for rank, share in lessons.energy.items()},
            "worst": dict(self._worst),
            "explained": dict(self._explained),
        }
        if lessons.agreement is not None:
            found["cosine"], found["signs"] = lessons.agreement.cosine, 100 * lessons.agreement.signs
        return found


def measurement_for(
    settings: _Settings, target_of: Callable[[list[int]], Target], examples: int
) -> SharedMeasurement | None:
    """Return the measurement, or None if no attack along learnt directions is among the attacks."""
    if not any(isinstance(ATTACKS.get(name), Learnt) for name in settings.attacks):
        return None
    return SharedMeasurement(target_of, examples, settings.batch_size, settings.multiples)
