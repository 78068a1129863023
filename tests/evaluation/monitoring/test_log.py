"""Logs: what a line may be, files that grow, and lines that are none."""

from __future__ import annotations

import json

import pytest

from aajr_hf.evaluation.monitoring.log import Exchange, Log, exchanges


def test_a_line_is_read_once_and_only_when_it_is_complete(tmp_path):
    file = tmp_path / "log.jsonl"
    file.write_text('{"observation": "a", "answer": "1"}\n\n{"observation": "b", "ans')
    log = Log(file)
    assert list(log.new()) == [[Exchange("a", "1")]] and list(log.new()) == []
    with file.open("a") as opened:
        opened.write('wer": "2", "expected": " 2", "moved": 0.5, "time": "ignored"}\n')
    ((added,),) = log.new()
    assert added == Exchange("b", "2", " 2", moved=0.5) and added.is_right and log.lines == 3


def test_a_log_that_was_cut_is_not_passed_over(tmp_path):
    file = tmp_path / "log.jsonl"
    file.write_text('{"observation": "a", "answer": "1"}\n')
    log = Log(file)
    assert len(list(log.new())) == 1
    file.write_text("")
    with pytest.raises(ValueError, match="has become shorter since line 1 was read"):
        list(log.new())


def test_an_episode_gives_the_models_side():
    said = {"side": "model", "sees": "a", "says": "1", "expert": "2", "moved": 0.25}
    entry = {"sides": {}, "transcript": [{"x": said, "y": said | {"side": "opponent"}}, {"x": said | {"says": "2"}}]}
    found = exchanges(entry)
    assert found == [Exchange("a", "1", "2", moved=0.25), Exchange("a", "2", "2", moved=0.25)]
    assert [exchange.is_right for exchange in found] == [False, True]
    # Of an earlier release, without the right answers.
    old = {"sides": {}, "transcript": [{"x": {"sees": "a", "says": "1"}}]}
    assert [exchange.is_right for exchange in exchanges(old)] == [None]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[1]", "line 2: this is no JSON object"),
        ("{", "line 2: Expecting"),
        ('{"answer": "x"}', "line 2: `observation` must be a text; got None"),
        ('{"observation": "x", "answer": 3}', "line 2: `answer` must be a text; got 3"),
        ('{"observation": "x", "answer": "y", "expected": 3}', "`expected` must be a text; got 3"),
        ('{"observation": "x", "answer": "y", "moved": -1}', "`moved` must be a number of at least 0; got -1"),
        ('{"observation": "x", "answer": "y", "moved": NaN}', "`moved` must be a number of at least 0; got nan"),
        ('{"sides": {}, "steps": 3}', "has no `transcript`: play it again with `aajr simulate --transcript`"),
        ('{"transcript": [{"x": {"sees": "a"}}]}', "an entry of `transcript` lacks 'says'"),
    ],
)
def test_a_line_that_is_no_exchange_is_named(line, message, tmp_path):
    file = tmp_path / "log.jsonl"
    file.write_text(json.dumps({"observation": "a", "answer": "1"}) + "\n" + line + "\n")
    with pytest.raises(ValueError) as error:
        list(Log(file).new())
    assert str(error.value).startswith(str(file)) and message in str(error.value)
