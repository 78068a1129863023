"""The unit of lambda if `lambda_mode` is relative: the penalty's own running mean."""

from __future__ import annotations

from ..runs.state import Memory

# Decay of the running mean over optimizer steps in which the penalty is evaluated.
_DECAY = 0.8


class PenaltyScale:
    """
    Running mean m of the penalty R over optimizer steps. The loss contains `lambda R / m` with m as a constant, so its
    gradient is that of `lambda log(mean R)`: lambda is the price, in units of the loss, of multiplying R by e. A
    constant factor in R, such as the unit of the embeddings or of the logits, changes nothing.

    The first optimizer step measures R and does not penalise it, so that the unit does not depend on how the batch is
    divided into micro-batches and processes. All processes must observe the same numbers.

    Args:
        memory: The numbers that checkpoints keep.
    """

    def __init__(self, memory: Memory):
        self._memory = memory

    @property
    def weight(self) -> float:
        """The weight of the penalty for lambda 1: `1 / m`, or 0 before the first observation."""
        mean = self._memory.numbers.get("penalty_mean", 0.0)
        return 1 / mean if mean > 0 else 0.0

    def observe(self, penalties: list[float]) -> None:
        """Record the means of R over the micro-batches of an optimizer step, each over all processes."""
        numbers, mean = self._memory.numbers, sum(penalties) / len(penalties)
        numbers["penalty_mean"] = _DECAY * numbers.get("penalty_mean", mean) + (1 - _DECAY) * mean
