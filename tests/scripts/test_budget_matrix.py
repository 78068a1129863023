"""scripts/budget_matrix.py: what it runs, and the arithmetic of its page."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import budget_matrix
import pytest
from shared import commands


@pytest.mark.slow
def test_each_defence_meets_each_attack_and_differences_are_paired_by_seed(tmp_path, monkeypatch):
    ran = []
    # Success at the three attacks, by the name of the defence; seeds shift it.
    left = {"0": (20, 0, 0), "0-1": (80, 30, 5), "0-2": (85, 60, 20), "0-3": (70, 65, 50)}

    def run_command(command, folder):
        ran.append(command)
        if command[0] == "evaluate":
            seed = int(command[command.index("--seed") + 1])
            names = [part.partition("=")[0] for part in command if "=" in part]
            at = command[command.index("--multiples") + 1 : command.index("--examples")]
            shares = {name: {m: v + seed for m, v in zip(at, left[name], strict=True)} for name in names}
            runs = {name: {"nominal_success": 90.0, "worst_case_success": share} for name, share in shares.items()}
            folder.mkdir(parents=True)
            (folder / "results.json").write_text(json.dumps({"runs": runs}))
        else:
            out = Path(command[command.index("--output_dir") + 1])
            out.mkdir(parents=True)
            (out / "train_results.json").write_text("{}")

    monkeypatch.setattr(commands, "run_command", run_command)
    few = ["--radii", "0.2", "0.1", "0.3", "--seeds", "1", "2", "3", "--work", str(tmp_path / "work")]
    monkeypatch.setattr(sys, "argv", ["budget_matrix.py", *few, "--output", str(tmp_path / "out")])
    budget_matrix.main()
    assert [command[0] for command in ran] == [*["train"] * 3, "evaluate"] * 3
    assert [c[c.index("--epsilon") + 1] for c in ran[:4]] == ["0.1", "0.2", "0.3", "0.1"]
    assert ran[3][ran[3].index("--multiples") + 1 :][:3] == ["1", "2", "3"]
    page = (tmp_path / "out" / "budget-matrix.md").read_text()
    assert "| defence | no attack | 0.1 | 0.2 | 0.3 |" in page and "| none | 90.0 ± 0.0 | 22.0 ± 2.5 |" in page
    line = next(line for line in page.splitlines() if line.startswith("- attack 0.2"))
    assert "next smaller defence -30.0 ± 0.0" in line and "next larger defence +5.0 ± 0.0" in line
    assert line.endswith("The best of these defences, 0.3, is larger than the attack.")
    assert "0.3, is equal to the attack" in page
    assert (tmp_path / "out" / "budget-matrix.png").read_bytes().startswith(b"\x89PNG")
    # Nothing twice.
    ran.clear()
    budget_matrix.main()
    assert ran == [] and (tmp_path / "out" / "budget-matrix.md").read_text() == page


def test_an_attack_that_breaks_everything_has_no_best_defence():
    runs = [{"seed": 1, "defence": radius, "nominal": 90.0, "attacked": {"0.5": 0.0}} for radius in (0.0, 0.25, 0.5)]
    assert "No defence withstands it." in budget_matrix.page(runs, 8)
