"""scripts/shared: what was made before is made again only if something else is asked for."""

from __future__ import annotations

import json

import pytest
from shared import commands
from shared.tables import write_results


@pytest.fixture
def ran(monkeypatch):
    """The commands that would run. They leave the files that the studies look for."""
    found = []

    def run_command(command, folder):
        found.append(command)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "train_results.json").write_text("{}")
        (folder / "results.json").write_text(json.dumps({"runs": {"a-b": {"n": len(found)}}}))

    monkeypatch.setattr(commands, "run_command", run_command)
    return found


def test_an_agent_is_trained_once(tmp_path, ran):
    recipe = tmp_path / "recipe.yaml"
    for _ in range(2):
        assert commands.train_with(recipe, tmp_path / "agent", {"seed": 3}) == tmp_path / "agent"
    told = ["--output_dir", str(tmp_path / "agent"), "--overwrite", "true", "--seed", "3"]
    assert ran == [["train", "--config", str(recipe), *told]]


def test_an_evaluation_is_made_again_for_other_agents_or_options(tmp_path, ran):
    def evaluate(agent, examples):
        return commands.evaluate_once(tmp_path / "out", {"a b": tmp_path / agent}, ["--examples", examples])

    assert evaluate("one", "8") == evaluate("one", "8") == {"a b": {"n": 1}}
    assert evaluate("one", "16") == {"a b": {"n": 2}} and evaluate("other", "16") == {"a b": {"n": 3}}
    (tmp_path / "out" / "asked.json").unlink()  # results of an unknown question
    assert evaluate("other", "16") == {"a b": {"n": 4}}


def test_results_are_one_run_a_line_and_a_page(tmp_path):
    write_results(tmp_path / "new" / "study", [{"seed": 1}, {"seed": 2}], "# Page\n")
    assert (tmp_path / "new" / "study.json").read_text() == '[\n{"seed": 1},\n{"seed": 2}\n]\n'
    assert (tmp_path / "new" / "study.md").read_text() == "# Page\n"
