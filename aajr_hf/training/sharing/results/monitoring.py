"""Results of `aajr monitor`."""

from __future__ import annotations

from typing import Literal, TypedDict


class MonitorTest(TypedDict):
    """
    One test for a change.

    Attributes:
        evidence, highest: The wealth of the bets against "nothing has changed", now and at its highest.
        needed: The wealth at which there is an alarm.
        alarm_at: Number of the answer that raised the alarm; None if there was none.
    """

    evidence: float
    highest: float
    needed: float
    alarm_at: int | None


class MovedEmbeddings(TypedDict):
    """
    Lengths of perturbations of prompts' embeddings, in multiples of their mean norm.

    Attributes:
        measured, unmeasured: Number of changed prompts whose length is known, and of those for which it is not.
        quantile: The length that a tenth of the changed prompts exceeds.
    """

    measured: int
    unmeasured: int
    median: float
    quantile: float
    largest: float


class MonitorHistory(TypedDict):
    """Columns of equal length: numbers of answers, and what was known after each."""

    answers: list[int]
    recent_success: list[float | None]
    evidence: dict[str, list[float]]


class MonitorNumbers(TypedDict):
    """
    What is known after some answers. Shares are in percent.

    Attributes:
        answers, judged: Number of answers, and of those whose right answer is known.
        interval: 95 % interval of `success` (Wilson).
        recent_success: Success of the newest answers.
        expected: The success that the test assumes.
        tests: By name: `success`, and the scores of observations.
    """

    alarm: bool
    answers: int
    judged: int
    success: float | None
    interval: list[float] | None
    recent_success: float | None
    expected: float | None
    tests: dict[str, MonitorTest]
    moved: MovedEmbeddings | None
    history: MonitorHistory


class MonitorSettings(TypedDict):
    logs: list[str]
    agent: str
    alpha: float
    expected_from: str
    known_from: str | None


class MonitorResults(MonitorNumbers):
    """The file `monitor.json`."""

    kind: Literal["monitoring"]
    version: int
    settings: MonitorSettings
