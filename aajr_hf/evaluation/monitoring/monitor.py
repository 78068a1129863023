"""Follow the exchanges of an agent, and say when something has changed."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import numpy as np

from ...training.sharing.results import MonitorHistory, MonitorNumbers, MonitorTest, MovedEmbeddings
from ..reporting.statistics import wilson
from .log import Exchange
from .oddness import Oddness
from .success import SuccessDrop

SUCCESS = "success"
# The newest answers, whose success is shown beside that of all.
RECENT = 200
# Points of the history that are kept for the plot; beyond twice as many, every second one is dropped.
_POINTS = 500
# Of the lengths of the perturbations: a defence should match what most attacks reach.
QUANTILE = 0.9


class Monitor:
    """
    Test for a drop of success and for unusual observations. The probability that a stream without a change ever raises
    an alarm is at most `alpha`, over all tests and however often one looks: each test has an equal part of it.

    Args:
        expected: Share of right answers to expect, above 0 and up to 1; None if right answers are unknown.
        known: By name of a score, its values on observations from when all was well.
        alpha: Probability of a false alarm.
        seed: Seed of the numbers that break ties between scores.
    """

    def __init__(self, expected: float | None, known: Mapping[str, list[float]], alpha: float = 0.01, seed: int = 0):
        self.success = None if expected is None else SuccessDrop(expected)
        self.oddness = {name: Oddness(scores, seed) for name, scores in known.items()}
        if self.success is None and not self.oddness:
            raise ValueError("There is nothing to test: give an expected share of right answers, or known scores.")
        detectors = {} if self.success is None else {SUCCESS: self.success.detector}
        self._detectors = detectors | {name: test.detector for name, test in self.oddness.items()}
        self.level = alpha / len(self._detectors)
        self.answers = self.judged = self.right = 0
        self._alarms: dict[str, int] = {}
        self._recent: deque[bool] = deque(maxlen=RECENT)
        self._moved: list[float] = []
        self._unmeasured = 0
        self._history: list[tuple[int, float | None, dict[str, float]]] = []
        self._every = 1

    def add(self, exchange: Exchange, moved: float | None = None) -> None:
        """
        Add an exchange.

        Args:
            moved: Length of the perturbation of its embeddings; None if it is unknown.
        """
        self.answers += 1
        if exchange.is_right is not None:
            self.judged += 1
            self.right += exchange.is_right
            self._recent.append(exchange.is_right)
            if self.success is not None:
                self.success.add(exchange.is_right)
        if moved:
            self._moved.append(moved)
        self._unmeasured += moved is None and exchange.unchanged is not None
        self._look()

    def add_scores(self, scores: Mapping[str, float]) -> None:
        """
        Add the scores of an observation, with the names of `known`. Observations of one episode depend on each other,
        so they count as one, with their mean scores.
        """
        for name, test in self.oddness.items():
            test.add(scores[name])
        self._look()

    def _look(self) -> None:
        for name, detector in self._detectors.items():
            if detector.highest >= 1 / self.level:
                self._alarms.setdefault(name, self.answers)
        self._remember()

    @property
    def alarm(self) -> bool:
        return bool(self._alarms)

    def _remember(self) -> None:
        if self.answers % self._every or (self._history and self._history[-1][0] == self.answers):
            return
        recent = 100 * sum(self._recent) / len(self._recent) if self._recent else None
        self._history.append((self.answers, recent, {n: d.evidence for n, d in self._detectors.items()}))
        if len(self._history) >= 2 * _POINTS:
            self._history, self._every = self._history[1::2], 2 * self._every

    def numbers(self) -> MonitorNumbers:
        """Return everything that is known now."""
        share = 100 * self.right / self.judged if self.judged else None
        return {
            "alarm": self.alarm,
            "answers": self.answers,
            "judged": self.judged,
            "success": share,
            "interval": None if share is None else list(wilson(share, self.judged)),
            "recent_success": 100 * sum(self._recent) / len(self._recent) if self._recent else None,
            "expected": None if self.success is None else 100 * self.success.expected,
            "tests": {name: self._test(name) for name in self._detectors},
            "moved": self._lengths(),
            "history": self._as_columns(),
        }

    def _test(self, name: str) -> MonitorTest:
        detector = self._detectors[name]
        return {
            "evidence": detector.evidence,
            "highest": detector.highest,
            "needed": 1 / self.level,
            "alarm_at": self._alarms.get(name),
        }

    def _lengths(self) -> MovedEmbeddings | None:
        if not self._moved and not self._unmeasured:
            return None
        lengths = np.array(self._moved) if self._moved else np.zeros(1)
        return {
            "measured": len(self._moved),
            "unmeasured": self._unmeasured,
            "median": float(np.median(lengths)),
            "quantile": float(np.quantile(lengths, QUANTILE)),
            "largest": float(lengths.max()),
        }

    def _as_columns(self) -> MonitorHistory:
        return {
            "answers": [answers for answers, _, _ in self._history],
            "recent_success": [recent for _, recent, _ in self._history],
            "evidence": {name: [found[name] for _, _, found in self._history] for name in self._detectors},
        }
