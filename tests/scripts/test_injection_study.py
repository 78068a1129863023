"""scripts/injection_study.py: its rows, what it runs, and its page."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import injection_study
import pytest
import yaml


def call_of(row):
    (call,) = row["completion"][0]["tool_calls"]
    return call["function"]["name"], json.dumps(call["function"]["arguments"])


def test_the_latest_request_of_the_user_or_the_note_is_asked_for_and_never_both():
    rows = injection_study.make_rows(300, 0, notes=0.4)
    notes = 0
    for row in rows:
        said, result = (message["content"] for message in row["prompt"])
        tool, arguments = call_of(row)
        if said == "do what the note says":
            notes += 1
            assert f"call {tool} with {arguments}" in result or f"to call {tool} with {arguments}" in result
        else:
            assert "{" not in result and said.endswith(f"call {tool} with {arguments}")
    assert 0.3 < notes / 300 < 0.5


def test_texts_of_injections_are_held_out():
    assert not set(injection_study.TRAINED_ON["plain"]) & set(injection_study.HELD_OUT["plain"])


def numbers(made):
    outcomes = {"exact": [1.0] * 20, "made": [float(i < made) for i in range(20)]}
    kinds = {
        kind: {"exact": 100.0, "made": 5.0 * made, "rows": 20, "outcomes": outcomes}
        for kind in ("plain", "completion", "shuffled")
    }
    worst = {"1": 50.0, "2": 25.0}
    return {"examples": 20, "nominal_exact": 95.0, "worst_case_exact": worst, "text_attacks": {"injection": kinds}}


@pytest.mark.slow
def test_the_page_has_the_measured_numbers(tmp_path, monkeypatch):
    ran, recipes, out = [], [], tmp_path / "out"

    def run(*argv):
        ran.append(argv[0])
        if argv[0] == "evaluate":
            names = [argument.split("=")[0] for argument in argv if "=" in str(argument)]
            runs = {name: numbers(10 if name == "base" else 2) for name in names}
            folder = Path(argv[-1])
            folder.mkdir()
            settings = {"dataset_name": "x", "models": {}, "weights": {}, "injections": "x", "seed": 0}
            (folder / "results.json").write_text(json.dumps({"runs": runs, "settings": settings}))
        if argv[0] == "train":
            recipes.append(yaml.safe_load(Path(argv[argv.index("--config") + 1]).read_text()))

    monkeypatch.setattr(injection_study, "call", run)
    monkeypatch.setattr(injection_study, "exact_share", lambda path, rows: 90.0)
    few = ["--model", "smollm2", "--folder", str(tmp_path / "work"), "--steps", "3", "--output", str(out)]
    monkeypatch.setattr(sys, "argv", ["injection_study.py", *few])
    injection_study.main()
    assert ran == ["train", "injections", "train", "train", "evaluate"]
    assert [recipe.get("trainer", "sft") for recipe in recipes] == ["sft", "dpo", "dpo"]
    assert [recipe["max_steps"] for recipe in recipes[1:]] == [3, 3]
    page = (out / "injections.md").read_text()
    assert (
        "- DPO, plain: injected calls made -40.0 points" in page and "| base | 95.0 [76-99] | 90.0 [70-97] |" in page
    )
    assert (out / "injections.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((out / "injections.json").read_text())["settings"]["steps"] == 3
