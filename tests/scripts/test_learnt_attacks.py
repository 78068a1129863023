"""scripts/learnt_attacks.py on a tiny agent."""

from __future__ import annotations

import json
import sys

import learnt_attacks
import pytest

from tests.support.small_agents import TOKENIZER, trained


@pytest.mark.slow
def test_the_pages_have_the_measured_numbers(tmp_path, monkeypatch, capsys):
    agent, out = tmp_path / "agent", tmp_path / "out"
    trained().save_pretrained(agent)
    TOKENIZER.save_pretrained(agent)
    monkeypatch.setattr(learnt_attacks, "FITTED", (4, 8))
    monkeypatch.setattr(sys, "argv", ["learnt_attacks.py", f"tiny={agent}", "--rows", "6", "--output", str(out)])
    learnt_attacks.main()
    printed, numbers = capsys.readouterr().out, {}
    for name in ("universal", "predicted"):
        page = (out / f"{name}.md").read_text()
        assert page in printed and (out / f"{name}.png").stat().st_size > 10_000
        rows = [line.split("|")[1:-1] for line in page.splitlines() if line.startswith(("| 0", "| 1x", "| 2x"))]
        assert [row[0].strip() for row in rows] == ["0.5x", "0.75x", "1x", "2x"]
        numbers[name] = json.loads((out / f"{name}.json").read_text())["agents"]["tiny"]
        assert learnt_attacks.share(numbers[name]["attacks"]["1"]["PGA"]) in page
        for by_attack in numbers[name]["attacks"].values():
            assert all(len(attack["outcomes"]) == 6 for attack in by_attack.values())
    assert list(numbers["predicted"]["agreement"]) == ["4", "8"] and numbers["universal"]["dimensions"] > 0


def test_an_agent_that_is_not_there_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["learnt_attacks.py", "base=nowhere"])
    with pytest.raises(SystemExit) as exit:
        learnt_attacks.main()
    assert exit.value.code == 2 and "error: there is no agent in nowhere" in capsys.readouterr().err
