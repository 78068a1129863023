"""What a monitor knows after some exchanges, and how it is said."""

from __future__ import annotations

import numpy as np
import pytest

from aajr_hf.evaluation.monitoring.log import Exchange
from aajr_hf.evaluation.monitoring.monitor import _POINTS, RECENT, Monitor
from aajr_hf.evaluation.monitoring.report import monitor_sentences, prometheus_text, write_monitor
from aajr_hf.training.sharing.results import MonitorResults
from tests.support.typed import mismatches

RIGHT, WRONG = Exchange("a", "1", "1"), Exchange("a", "2", "1")


def fed(*exchanges, expected=0.9, known=None, scores=None, moved=()):
    monitor = Monitor(expected, known or {})
    for i, exchange in enumerate(exchanges):
        monitor.add(exchange, dict(enumerate(moved)).get(i))
        if scores is not None:
            monitor.add_scores({"surprise": scores[i]})
    return monitor


def results(monitor):
    settings = {"logs": ["x"], "agent": "y", "alpha": 0.01, "expected_from": "z", "known_from": None}
    return {"kind": "monitoring", "version": 2, "settings": settings} | monitor.numbers()


def test_shares_are_of_the_answers_whose_right_answer_is_known():
    numbers = fed(RIGHT, WRONG, Exchange("a", "1"), RIGHT).numbers()
    assert (numbers["answers"], numbers["judged"]) == (4, 3) and not numbers["alarm"]
    assert numbers["success"] == numbers["recent_success"] == pytest.approx(200 / 3)
    assert numbers["interval"][0] < 200 / 3 < numbers["interval"][1] and numbers["expected"] == 90
    recent = fed(*[WRONG] * 10, *[RIGHT] * RECENT).numbers()
    assert recent["recent_success"] == 100 > recent["success"]


def test_the_first_alarm_is_kept_and_the_level_is_shared_by_the_tests():
    one = fed(*[RIGHT] * 50, *[WRONG] * 40)
    at = one.numbers()["tests"]["success"]["alarm_at"]
    assert one.alarm and 50 < at < 70 and one.level == 0.01
    scores = [0.0] * 90
    both = fed(*[RIGHT] * 50, *[WRONG] * 40, known={"surprise": [0.0, 1.0, 2.0]}, scores=scores)
    tests = both.numbers()["tests"]
    assert both.level == 0.005 and tests["success"]["needed"] == 200
    assert tests["success"]["alarm_at"] >= at and tests["surprise"]["alarm_at"] is None
    odd = fed(*[RIGHT] * 60, known={"surprise": list(np.arange(100) / 100)}, scores=[5.0] * 60)
    assert odd.numbers()["tests"]["surprise"]["alarm_at"] is not None
    assert monitor_sentences(odd.numbers())[0].startswith("ALARM at answer")


def test_lengths_are_of_changed_prompts():
    changed = Exchange("a", "1", unchanged="b")
    numbers = fed(RIGHT, RIGHT, RIGHT, changed, moved=(0.1, 0.0, 0.3)).numbers()
    expected = {"measured": 2, "unmeasured": 1, "median": 0.2, "quantile": pytest.approx(0.28), "largest": 0.3}
    assert numbers["moved"] == pytest.approx(expected)
    assert fed(RIGHT).numbers()["moved"] is None
    assert any("of 1 others the length is unknown" in sentence for sentence in monitor_sentences(numbers))


def test_a_long_history_is_thinned_and_keeps_its_end():
    history = fed(*[RIGHT] * (4 * _POINTS + 3)).numbers()["history"]
    assert _POINTS <= len(history["answers"]) < 2 * _POINTS
    steps = np.diff(history["answers"])
    assert set(steps) == {4} and 4 * _POINTS - 4 < history["answers"][-1] <= 4 * _POINTS + 3
    assert len(history["evidence"]["success"]) == len(history["recent_success"]) == len(history["answers"])


def test_there_must_be_something_to_test():
    with pytest.raises(ValueError, match="There is nothing to test"):
        Monitor(None, {})


def test_what_is_written_is_what_is_known(tmp_path):
    monitor = fed(*[RIGHT] * 20, WRONG, moved=[0.25] * 21)
    found = results(monitor)
    assert mismatches(found, MonitorResults) == []
    write_monitor(found, tmp_path)
    page = (tmp_path / "monitor.html").read_text()
    assert all(text in page for text in ("No alarm in 21 answers", "95.2%", "data:image/png"))
    lines = prometheus_text(found, 'my "agent"').splitlines()
    assert 'aajr_monitor_alarm{agent="my \\"agent\\""} 0' in lines
    assert 'aajr_monitor_answers_total{agent="my \\"agent\\""} 21' in lines
    assert any(line.startswith('aajr_monitor_evidence{agent="my \\"agent\\"",test="success"} ') for line in lines)
    names = {line.split("{")[0] for line in lines if not line.startswith("#")}
    assert names == {line.split()[2] for line in lines if line.startswith("# TYPE")}
    unknown = fed(Exchange("a", "1"), expected=None, known={"surprise": [0.0, 1.0]}, scores=[0.5])
    assert "No right answers are known" in monitor_sentences(unknown.numbers())[1]
    write_monitor(results(unknown), tmp_path)
