"""Are the observations of an agent still like those that it was trained on?"""

from __future__ import annotations

import bisect
import random
from collections.abc import Iterable

import numpy as np

from .change import ChangeDetector

# Bets on small ranks: e p^(e - 1) for these e, whose mean over uniform p is 1.
_POWERS = np.array([0.1, 0.2, 0.3, 0.5, 0.7, 0.9])


class Oddness:
    """
    The test of "the scores of new observations come from the same distribution as the known ones" against higher
    scores. A score's rank among all earlier ones, with ties broken at random, is uniform and independent of the other
    ranks if nothing has changed (Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World"). The bets on
    small ranks are power martingales.

    Args:
        known: Scores of observations from when all was well.
        seed: Seed of the numbers that break ties.
    """

    def __init__(self, known: Iterable[float], seed: int = 0):
        self._scores = sorted(known)
        self._drawn = random.Random(seed)
        self.detector = ChangeDetector(len(_POWERS))

    def add(self, score: float) -> float:
        """Add the score of an observation, and return the evidence that scores have risen."""
        higher = len(self._scores) - bisect.bisect_right(self._scores, score)
        equal = len(self._scores) - higher - bisect.bisect_left(self._scores, score)
        # 1 - random() is above 0, so that no rank is 0.
        rank = (higher + (1 - self._drawn.random()) * (equal + 1)) / (len(self._scores) + 1)
        bisect.insort(self._scores, score)
        return self.detector.update(_POWERS * rank ** (_POWERS - 1))
