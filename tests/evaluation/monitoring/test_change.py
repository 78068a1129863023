"""The tests for a change: fair bets, false alarms over many streams, and alarms as soon as theory says."""

from __future__ import annotations

import math

import numpy as np
import pytest

from aajr_hf.evaluation.monitoring.change import ChangeDetector, answers_needed, not_started
from aajr_hf.evaluation.monitoring.oddness import Oddness
from aajr_hf.evaluation.monitoring.success import SuccessDrop

ALPHA = 0.05


def highest(expected, answers):
    test = SuccessDrop(expected)
    for is_right in answers:
        test.add(bool(is_right))
    return test.detector.highest


def alarm_at(expected, answers, alpha=ALPHA):
    test = SuccessDrop(expected)
    for number, is_right in enumerate(answers, 1):
        test.add(bool(is_right))
        if test.detector.evidence >= 1 / alpha:
            return number
    return None


def test_the_evidence_is_the_weighted_sum_over_all_starts_and_alternatives():
    drawn = np.random.default_rng(0).uniform(0.5, 1.5, size=(7, 3))
    detector, found = ChangeDetector(3), [1.0]
    for number in range(1, 8):
        expected = not_started(number)
        for start in range(number):
            share = not_started(start) - not_started(start + 1)
            expected += share * drawn[start:number].prod(axis=0).mean()
        found.append(detector.update(drawn[number - 1]))
        assert found[-1] == pytest.approx(expected)
    assert detector.seen == 7 and detector.highest == max(found) and detector.evidence == found[-1] < max(found)


@pytest.mark.parametrize("share", [0.97, 0.99])
def test_bets_are_fair_where_nothing_changed_and_losing_where_success_is_higher(share):
    test = SuccessDrop(0.97)
    mean = share * np.exp(test._log_factors(True)) + (1 - share) * np.exp(test._log_factors(False))
    assert np.allclose(mean, 1) if share == 0.97 else (mean < 1).all()


@pytest.mark.slow
def test_of_streams_of_ten_thousand_answers_without_a_change_hardly_one_raises_an_alarm():
    """200 streams at once: the same recursion, on columns."""
    right = np.random.default_rng(1).random((10_000, 200)) < 0.95
    test = SuccessDrop(0.95)
    gain, loss = (np.exp(test._log_factors(is_right))[:, None] for is_right in (True, False))
    running, evidence = np.zeros((len(gain), 200)), np.ones(200)
    for number, answers in enumerate(right):
        fresh = not_started(number) - not_started(number + 1)
        running = (running + fresh) * np.where(answers, gain, loss)
        evidence = np.maximum(evidence, running.mean(axis=0) + not_started(number + 1))
    assert evidence[0] == pytest.approx(highest(0.95, right[:, 0]))
    assert (evidence >= 1 / ALPHA).mean() <= ALPHA
    # The bound is no formality: gamblers do win now and then.
    assert (evidence >= 2).any()


@pytest.mark.parametrize(("seen", "share"), [(0, 0.85), (2000, 0.85), (500, 0.5)])
def test_a_drop_is_found_within_the_number_of_answers_that_theory_gives(seen, share):
    drawn, delays = np.random.default_rng(2), []
    expected = SuccessDrop(0.95).answers_until(share, seen, ALPHA)
    for _ in range(20):
        answers = [*(drawn.random(seen) < 0.95), *(drawn.random(2000) < share)]
        found = alarm_at(0.95, answers)
        assert found is not None
        if found > seen:  # no false alarm
            delays.append(found - seen)
    assert len(delays) >= 18 and np.mean(delays) <= expected < 12 * np.mean(delays)


def test_theory_promises_nothing_without_a_drop():
    assert SuccessDrop(0.95).answers_until(0.95, 10, ALPHA) == math.inf
    assert answers_needed(np.array([-1.0, 0.0]), np.zeros(2), 0, ALPHA) == math.inf
    # By hand: one alternative that gains one nat an answer, from a share of 1 - 1 / log2(3).
    needed = answers_needed(np.array([1.0]), np.array([2.0]), 0, 0.01)
    assert needed == pytest.approx(math.log(100 / (1 - 1 / math.log2(3))) + 2)


def test_a_perfect_agent_is_not_accused_of_its_first_mistake():
    assert alarm_at(1.0, [True] * 100 + [False], 0.01) is None
    assert alarm_at(1.0, [True] * 100 + [False] * 5, 0.01) is not None


def test_scores_of_the_same_kind_raise_no_alarm_and_higher_ones_do():
    drawn, false, missed = np.random.default_rng(3), 0, 0
    for seed in range(40):
        test = Oddness(drawn.normal(size=200), seed)
        for score in drawn.normal(size=300):
            test.add(score)
        false += test.detector.highest >= 1 / ALPHA
        for score in drawn.normal(2.0, size=60):
            test.add(score)
        missed += test.detector.highest < 1 / ALPHA
    assert false <= 3 and missed == 0


def test_ranks_are_uniform_also_where_many_scores_are_equal():
    """So that the factors' mean is 1: of discrete scores, by the numbers that break ties."""
    drawn, factors = np.random.default_rng(4), []
    test = Oddness(drawn.integers(0, 3, size=50).astype(float))
    update = test.detector.update
    test.detector.update = lambda found: factors.append(found) or update(found)
    for score in drawn.integers(0, 3, size=4000):
        test.add(float(score))
    mean, error = np.mean(factors, axis=0), np.std(factors, axis=0) / 4000**0.5
    assert (abs(mean - 1) < 4 * error)[2:].all()  # bets on the smallest ranks have no finite variance
