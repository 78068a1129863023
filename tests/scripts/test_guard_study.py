"""scripts/guard_study.py: what it runs, and its page."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import guard_study


def test_each_beta_has_a_guard(tmp_path, monkeypatch):
    ran = []

    def run_command(command, folder):
        ran.append(command)
        folder.mkdir(parents=True)
        if command[0] == "init-agent":
            (folder / "config.json").write_text("{}")
            return
        beta = float(command[command.index("--beta") + 1])
        left = 90.0 - 50 * beta
        shares = {"chance": 25.0, "bound": left + 5, "raw": 99.0, "fresh": left, "larger": left + 1}
        leakage = [{"word": word, "links": seen} | shares for word in ("owe", "prefer") for seen in ("one", "all")]
        run = {"beta": beta, "raw_success": 98.0, "guarded_success": 97.0, "leakage": leakage}
        (folder / "guard.json").write_text(
            json.dumps(run | {"model": "a/agent", "examples": 500, "steps": 600, "decoder_steps": 3000})
        )

    monkeypatch.setattr(guard_study, "run_command", run_command)
    few = ["--betas", "1", "0", "--work", str(tmp_path / "work"), "--output", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["guard_study.py", *few])
    guard_study.main()
    assert ran[0][:1] == ["init-agent"] and "--share_cache" in ran[0]
    assert [c[c.index("--beta") + 1] for c in ran[1:]] == ["0.0", "1.0"]
    page = (tmp_path / "out" / "guard.md").read_text()
    assert "is trained\nfor 600 steps" in page and "for 3000 steps" in page
    assert f"| no guard | 98.0 |{' 99.0 |  |' * 4}" in page
    assert f"| 1 | 97.0 |{' 41.0 | 45.0 |' * 4}" in page and f"| chance |  |{' 25.0 |  |' * 4}" in page
    assert (tmp_path / "out" / "guard.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "out" / "guard.json").read_text())[0]["model"] == "agent"
    # Nothing twice.
    ran.clear()
    guard_study.main()
    assert ran == [] and Path(tmp_path / "out" / "guard.md").read_text() == page
