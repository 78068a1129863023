"""Does an agent still answer correctly as often as it did when it was measured?"""

from __future__ import annotations

import numpy as np

from .change import ChangeDetector, answers_needed

# Drops that are bet on, as parts of the expected share: from one hundredth to almost all of it.
_DROPS = np.geomspace(0.01, 0.99, 24)
# An expected share of 1 would make a single wrong answer a proof.
_MOST = 0.999


class SuccessDrop:
    """
    The test of "the share of right answers is at least `expected`" against every lower share.

    Args:
        expected: Share of right answers, above 0 and up to 1. A measured share is known only within its interval, so
            give the lower end.
    """

    def __init__(self, expected: float):
        self.expected = min(expected, _MOST)
        self._lower = self.expected * (1 - _DROPS)
        self.detector = ChangeDetector(len(_DROPS))

    def add(self, is_right: bool) -> float:
        """Add an answer, and return the evidence of a drop."""
        return self.detector.update(np.exp(self._log_factors(is_right)))

    def _log_factors(self, is_right: bool) -> np.ndarray:
        if is_right:
            return np.log(self._lower / self.expected)
        return np.log((1 - self._lower) / (1 - self.expected))

    def answers_until(self, share: float, seen: int, alpha: float) -> float:
        """Return [`answers_needed`] after a drop to this share of right answers, which came after `seen` answers."""
        wrong = self._log_factors(False)
        return answers_needed(share * self._log_factors(True) + (1 - share) * wrong, wrong, seen, alpha)
