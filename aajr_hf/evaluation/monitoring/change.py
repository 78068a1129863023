"""Sequential tests for a change at an unknown time, which keep their false-alarm rate however often one looks."""

from __future__ import annotations

import math

import numpy as np

# Beyond any level that an alarm could have, and far from overflow.
_LARGEST = 1e150


def not_started(answers: int) -> float:
    """
    Return the share of the wealth that is not yet bet after this many answers: 1 at first, and falling so slowly that a
    change after n answers is found with a delay that grows like log n.
    """
    return 1 / math.log2(answers + 2)


class ChangeDetector:
    """
    Evidence that a stream has changed, as the wealth of a gambler who bets against "nothing has changed" with fair
    odds. The wealth starts at 1. Without a change its expectation never rises, so by Ville's inequality the probability
    that it ever reaches 1 / alpha is at most alpha, however long the stream is and however often one looks.

    The gambler starts a new bet before every answer, with the part [`not_started`] sets free, and divides it among
    several alternatives (a mixture over the time of the change, as in Shin, Ramdas and Rinaldo, "E-detectors", arXiv
    2203.03532).

    Args:
        alternatives: Number of alternatives.

    Attributes:
        seen: Number of answers so far.
        evidence: The wealth now.
        highest: The highest wealth so far.
    """

    def __init__(self, alternatives: int):
        self._running = np.zeros(alternatives)
        self.seen, self.evidence, self.highest = 0, 1.0, 1.0

    def update(self, factors: np.ndarray) -> float:
        """
        Add an answer, and return the evidence.

        Args:
            factors: By alternative (G,), how much more likely this answer is than without a change. Without a change,
                its expectation must be at most 1.
        """
        fresh = not_started(self.seen) - not_started(self.seen + 1)
        self.seen += 1
        self._running = np.minimum((self._running + fresh) * factors, _LARGEST)
        self.evidence = float(self._running.mean()) + not_started(self.seen)
        self.highest = max(self.highest, self.evidence)
        return self.evidence


def answers_needed(gains: np.ndarray, largest: np.ndarray, seen: int, alpha: float) -> float:
    """
    Return how many answers after a change a [`ChangeDetector`] takes at most to reach 1 / alpha, in the mean (Wald's
    identity for the best alternative); infinite if no alternative gains anything.

    Args:
        gains: By alternative (G,), the mean of the logarithm of its factor after the change.
        largest: By alternative (G,), the largest logarithm of its factor.
        seen: Number of answers before the change.
    """
    fresh = (not_started(seen) - not_started(seen + 1)) / len(gains)
    needed = (math.log(1 / (alpha * fresh)) + largest) / np.where(gains > 0, gains, np.nan)
    return float(np.nanmin(needed)) if (gains > 0).any() else math.inf
