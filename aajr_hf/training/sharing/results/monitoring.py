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
        median, largest: Median and largest known length.
        quantile: The length that a tenth of the changed prompts exceeds.
    """

    measured: int
    unmeasured: int
    median: float
    quantile: float
    largest: float


class MonitorHistory(TypedDict):
    """
    Columns of equal length: numbers of answers, and what was known after each.

    Attributes:
        answers: Number of answers.
        recent_success: Success of the newest answers at that time.
        evidence: By test, the wealth of the bets at that time.
    """

    answers: list[int]
    recent_success: list[float | None]
    evidence: dict[str, list[float]]


class MonitorNumbers(TypedDict):
    """
    What is known after some answers. Shares are in percent.

    Attributes:
        alarm: Whether a test raised an alarm.
        answers, judged: Number of answers, and of those whose right answer is known.
        success: Percent of the judged answers that are right; None if none is judged.
        interval: 95 % interval of `success` (Wilson).
        recent_success: Success of the newest answers.
        expected: The success that the test assumes.
        tests: By name: `success`, and the scores of observations.
        moved: Known lengths of perturbations; None if no prompt was changed.
        history: The numbers over time.
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
    """
    Attributes:
        logs: The files that were read.
        agent: The agent's folder.
        alpha: Probability of a false alarm, shared by the tests.
        expected_from: Where the expected success comes from.
        known_from: Where the known observations come from; None without a test of observations.
    """

    logs: list[str]
    agent: str
    alpha: float
    expected_from: str
    known_from: str | None


class MonitorResults(MonitorNumbers):
    """
    The file `monitor.json`.

    Attributes:
        kind: `monitoring`.
        version: Number of the form of this file.
        settings: What was run.
    """

    kind: Literal["monitoring"]
    version: int
    settings: MonitorSettings
