"""scripts/mask_study.py: its rows, what it runs, and its page."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import mask_study
import pytest
import yaml

from aajr_hf.training.data.incidental import incidental_words, used_words


def test_names_go_with_rooms_as_often_as_asked_for_and_are_incidental():
    rows = mask_study.make_rows(300, 0, 0.9)
    tied = 0
    for row in rows:
        (call,) = row["completion"][0]["tool_calls"]
        room = call["function"]["arguments"]["room"]
        said = row["prompt"][0]["content"]
        (name,) = (name for name in mask_study.NAMES if name in said)
        tied += mask_study.ROOMS[mask_study.NAMES.index(name)] == room
        incidental = [said[a:b] for a, b, _ in incidental_words(said, used_words(row))]
        assert name in incidental and room not in incidental and len(incidental) == 2
    assert 0.86 < tied / 300 < 0.96  # a free draw may meet the room, too


def numbers(swapped):
    outcomes = {"exact": [float(i < swapped) for i in range(20)]}
    texts = {kind: {"exact": 5.0 * swapped, "rows": 20, "outcomes": outcomes} for kind in ("swapped", "masked")}
    worst = {"1": 50.0, "2": 25.0}
    return {"examples": 20, "nominal_exact": 95.0, "worst_case_exact": worst, "text_attacks": {"incidental": texts}}


@pytest.mark.slow
def test_the_page_has_the_measured_numbers(tmp_path, monkeypatch):
    ran, out = [], tmp_path / "out"

    def run(*argv):
        ran.append(argv)
        if argv[0] == "evaluate":
            names = [argument.split("=")[0] for argument in argv if "=" in str(argument)]
            runs = {name: numbers(10 if name == "no masks" else 18) for name in names}
            folder = Path(argv[-1])
            folder.mkdir()
            settings = {"dataset_name": "x", "models": {}, "weights": {}, "seed": 0}
            (folder / "results.json").write_text(json.dumps({"runs": runs, "settings": settings}))
        if argv[0] == "train":
            recipes.append(yaml.safe_load(Path(argv[argv.index("--config") + 1]).read_text()))

    recipes = []
    monkeypatch.setattr(mask_study, "call", run)
    few = ["--folder", str(tmp_path / "work"), "--steps", "3", "--output", str(out)]
    monkeypatch.setattr(sys, "argv", ["mask_study.py", *few])
    mask_study.main()
    assert [argv[0] for argv in ran] == ["init-agent", *["train"] * len(mask_study.VARIANTS), "evaluate"]
    assert [recipe.get("mask_share", 0) for recipe in recipes] == [0, 0.5, 1.0, 0, 0.5]
    assert all(recipe["max_steps"] == 3 for recipe in recipes)
    page = (out / "masks.md").read_text()
    assert "- adversary, words swapped: +40.0 points" in page and "| no masks | 95.0 [76-99] | 50.0 [30-70] |" in page
    assert (out / "masks.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((out / "masks.json").read_text())["settings"]["tied"] == 0.9
