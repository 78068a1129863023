"""scripts/step_size.py on a tiny agent."""

from __future__ import annotations

import sys

import pytest
import step_size

from tests.support.small_agents import TOKENIZER, trained


@pytest.mark.slow
def test_the_page_has_the_measured_numbers(tmp_path, monkeypatch, capsys):
    agent = tmp_path / "agent"
    trained().save_pretrained(agent)
    TOKENIZER.save_pretrained(agent)
    arguments = ["--models", str(agent), "--batches", "1", "--output", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["step_size.py", *arguments])
    step_size.main()
    page = (tmp_path / "out" / "step-size.md").read_text()
    assert page in capsys.readouterr().out and (tmp_path / "out" / "step-size.png").stat().st_size > 10_000
    rows = [line.split("|")[1:-1] for line in page.splitlines() if line.startswith("| agent (congestion)")]
    assert [row[2].strip() for row in rows] == ["3", "8"]
    assert all(0 < float(row[3]) <= 1 for row in rows)


def test_on_the_ill_conditioned_policy_backtracking_alone_is_safe_and_fast():
    losses = step_size.ill_conditioned()
    long, safe, auto = losses.values()
    assert max(auto) == auto[-1] > safe[-1] > long[-1]
    assert all(b >= a for a, b in zip(auto, auto[1:], strict=False))
    assert any(b < a for a, b in zip(long, long[1:], strict=False))


def test_an_agent_that_is_not_there_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["step_size.py", "--models", "nowhere"])
    with pytest.raises(SystemExit) as exit:
        step_size.main()
    assert exit.value.code == 2 and "error: `--models`: there is no agent in nowhere" in capsys.readouterr().err
