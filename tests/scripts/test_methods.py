"""scripts/methods.py: its recipes, what it runs, and the arithmetic of its page."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import methods
import pytest
from shared import commands

from tests.support.studies import method_run as run

RECIPES = methods.ROOT / "recipes" / "congestion"


def test_every_method_is_a_recipe_and_every_recipe_of_methods_is_there():
    recipes = [recipe for recipe, _ in methods.METHODS.values()]
    assert all((RECIPES / f"{recipe}.yaml").is_file() for recipe in recipes)
    there = {f"methods/{path.stem}" for path in (RECIPES / "methods").glob("*.yaml")}
    assert there <= set(recipes)


def test_a_teacher_is_trained_first_and_methods_are_compared_by_seed(tmp_path, monkeypatch):
    ran, left = [], {"adversarial": 50.0, "floor": 52.0, "distillation": 70.0}

    def run_command(command, folder):
        ran.append(command)
        if command[0] == "evaluate":
            seed = int(command[command.index("--seed") + 1])
            names = [part.partition("=")[0] for part in command if "=" in part]
            runs = {name: run(left[name] + seed + (seed if name == "floor" else 0) * (-1) ** seed) for name in names}
            folder.mkdir(parents=True)
            (folder / "results.json").write_text(json.dumps({"runs": runs}))
            return
        out = Path(command[command.index("--output_dir") + 1])
        out.mkdir(parents=True)
        (out / "train_results.json").write_text("{}")

    monkeypatch.setattr(commands, "run_command", run_command)
    few = ["--methods", "adversarial", "floor", "distillation", "--seeds", "1", "2", "3"]
    argv = ["methods.py", *few, "--work", str(tmp_path / "work"), "--output", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", argv)
    methods.main()
    folders = [Path(c[c.index("--output_dir") + 1]).name for c in ran[:4]]
    assert folders == ["adversarial-1", "floor-1", "AAJR-1", "distillation-1"] and ran[4][0] == "evaluate"
    assert ran[3][ran[3].index("--teacher") + 1].endswith("AAJR-1")
    page = (tmp_path / "out" / "methods.md").read_text()
    assert "| distillation | +0.0 ± 0.0 | +0.0 ± 0.0 | +20.0 ± 0.0 | helps |" in page
    assert "| floor | +0.0 ± 0.0 | +0.0 ± 0.0 | +1.3 ± 6.3 | is not seen to differ |" in page
    ran.clear()
    methods.main()
    assert ran == [] and (tmp_path / "out" / "methods.md").read_text() == page


def test_a_run_that_is_stopped_leaves_the_seeds_that_it_has_finished(tmp_path, monkeypatch):
    asked = []

    def evaluate_once(folder, agents, options):
        if folder.name == "evaluation-2":
            raise KeyboardInterrupt
        asked.extend(agents)
        return {name: run(50.0) for name in agents}

    monkeypatch.setattr(methods, "train_once", lambda folder, *rest: folder)
    monkeypatch.setattr(methods, "evaluate_once", evaluate_once)
    monkeypatch.setattr(sys, "argv", ["methods.py", "--work", str(tmp_path), "--output", str(tmp_path / "out")])
    with pytest.raises(KeyboardInterrupt):
        methods.main()
    assert asked == list(methods.COMPARED) and set(asked) <= methods.METHODS.keys()
    assert {one["seed"] for one in json.loads((tmp_path / "out" / "methods.json").read_text())} == {1}
    assert "| variants |" in (tmp_path / "out" / "methods.md").read_text()


def test_unknown_methods_are_refused(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["methods.py", "--methods", "nobody"])
    with pytest.raises(SystemExit, match="there is no method 'nobody'"):
        methods.main()
