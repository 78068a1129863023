"""scripts/trigger_study.py on a tiny agent."""

from __future__ import annotations

import json
import sys

import pytest
import trigger_study

from aajr_hf.evaluation.attacks.trigger_search import Effort
from tests.support.small_agents import TOKENIZER, trained


@pytest.mark.slow
def test_the_page_has_the_measured_numbers(tmp_path, monkeypatch, capsys):
    agent, out, fields = tmp_path / "agent", tmp_path / "out", {}
    trained().save_pretrained(agent)
    TOKENIZER.save_pretrained(agent)

    def no_training(base, folder, bank, chosen, steps, seed):
        fields.setdefault(json.dumps(chosen), []).append(seed)
        return base

    monkeypatch.setattr(trigger_study, "train", no_training)
    monkeypatch.setattr(trigger_study, "EFFORT", Effort(2, 1, 1))
    few = ["--rows", "2", "--lengths", "1", "2", "--seeds", "2", "--steps", "1"]
    monkeypatch.setattr(sys, "argv", ["trigger_study.py", "--base", str(agent), "--output", str(out), *few])
    trigger_study.main()
    page, results = (out / "trigger.md").read_text(), json.loads((out / "trigger.json").read_text())
    assert page in capsys.readouterr().out and (out / "trigger.png").stat().st_size > 10_000
    assert list(results["lengths"]) == ["none", "1", "2"] and len(results["bank"]) >= 2
    for length in ("1", "2"):
        for kind, one in results["lengths"][length].items():
            assert len(one["right"]) == 8 and len(one["text"].split()) == (0 if kind == "any" else int(length))
            assert trigger_study.share(one["right"]) in page
    assert list(fields.values()) == [[0, 1]] * 4
    assert {name: len(one["none"]) for name, one in results["trained"].items()} == {
        name: 8 if fields is None else 16 for name, fields in trigger_study.TRAINED.items()
    }
    # The agent is the same: nothing is seen to differ.
    assert (
        page.count("are not seen to differ from half of them (+0.0 points") == 2
        and page.count("No difference is seen.") == 12
    )
