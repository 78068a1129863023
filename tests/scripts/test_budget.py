"""scripts/budget.py on runs that are there already."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import budget
import pytest

from tests.support.small_agents import TOKENIZER, trained


def held(folder: Path, violations: list[float], strength: float) -> None:
    """A run of which the penalty was evaluated every fourth step."""
    logs = [
        {"step": 4 * i + 4, "aajr/budget_violation": v, "aajr/lambda": strength, "aajr/clean_loss": 0.5}
        for i, v in enumerate(violations)
    ]
    folder.mkdir(parents=True)
    (folder / "trainer_state.json").write_text(json.dumps({"log_history": [*logs, {"step": 400, "train_loss": 1.0}]}))


@pytest.fixture
def agent(tmp_path):
    trained().save_pretrained(tmp_path / "agent")
    TOKENIZER.save_pretrained(tmp_path / "agent")
    return ["--models", str(tmp_path / "agent"), "--work", str(tmp_path), "--output", str(tmp_path / "out")]


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["budget.py", *arguments])
    budget.main()


@pytest.mark.slow
def test_the_page_has_the_means_of_the_last_quarter(agent, tmp_path, monkeypatch):
    held(tmp_path / "congestion-5-400-zero", [9.0] * 60 + [0.06] * 40, 2e-4)
    held(tmp_path / "congestion-5-400-large", [9.0] * 100, 3e-4)
    run(monkeypatch, *agent, "--budget", "5", "--steps", "400")
    page = (tmp_path / "out" / "budget.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if "| congestion" in line]
    # The mean of 20 is within a tenth once the last of the 60 has left it.
    assert rows[0] == ["congestion", "0", "1.06", "0.0002", "320", "316", "0.500"]
    assert rows[1] == ["congestion", "0.02", "10.00", "0.0003", "never", "400", "0.500"]
    assert (tmp_path / "out" / "budget.png").stat().st_size > 10_000


def test_a_budget_that_is_slack_is_one_line(agent, tmp_path, monkeypatch, capsys):
    held(tmp_path / "congestion-25-600-zero", [-0.5] * 100, 0.0)
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, *agent)
    assert ended.value.code == 2 and "meet 25 without a penalty" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, *agent, "--steps", "10")
    assert ended.value.code == 2 and "--steps: must be at least 160" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
