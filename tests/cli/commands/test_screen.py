"""`aajr screen`: fits, saves and loads a predictor of gradients, and refuses what it cannot use."""

from __future__ import annotations

import functools
import json
import re
import shutil

import pytest
import torch
from safetensors.torch import save_file

from aajr_hf.cli.commands import screen as command
from aajr_hf.cli.main import main
from aajr_hf.evaluation.attacks.predicted import GradientPredictor
from tests.support.commands import fails

from .test_evaluate import untrained

SMALL = ["--examples", "6", "--batch_size", "4"]


@functools.cache
def _made(folder):
    return untrained(folder, "congestion")


@pytest.fixture(scope="module")
def agent(tmp_path_factory):
    return _made(tmp_path_factory.mktemp("screen") / "agent")


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(command, "_FITTED", 8)


def rows_of(text):
    """The attacks of the table, in order."""
    return re.findall(r"^(none|random|predicted|one step|PGA) ", text, re.MULTILINE)


def test_what_is_saved_screens_another_agent_without_gradients(agent, tmp_path, capsys):
    file = tmp_path / "new" / "gradients.safetensors"
    assert main(["screen", agent, "--save", str(file), *SMALL]) == 0
    text = capsys.readouterr().out
    assert rows_of(text) == ["none", "random", "predicted", "one step", "PGA"] and str(file) in text.replace("\n", "")
    assert re.search(r"6 held-out observations: cosine -?\d\.\d\d", text)
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    assert len(GradientPredictor.load(file).weights) == 8
    assert main(["screen", agent, "--load", str(file), *SMALL]) == 0
    text = capsys.readouterr().out
    assert rows_of(text) == ["none", "random", "predicted"] and "WARNING: without gradients" in text


def test_what_is_saved_attacks_in_episodes(agent, tmp_path, capsys):
    file, out = tmp_path / "gradients.safetensors", tmp_path / "out"
    assert main(["screen", agent, "--save", str(file), *SMALL]) == 0
    simulate = ["simulate", "--model", agent, "--episodes", "1", "--steps", "1", "--agents", "3", "--output", str(out)]
    assert main([*simulate, "--attack", "predicted", "--predictor", str(file)]) == 0
    assert json.loads((out / "episodes.jsonl").read_text())["attack"] == "predicted"
    for wrong in (["--attack", "predicted"], ["--attack", "nll", "--predictor", str(file)]):
        assert "`--predictor` need each other" in fails(capsys, *simulate, *wrong)
    missing = ["--attack", "predicted", "--predictor", str(tmp_path / "missing")]
    assert "`--predictor`: there is no file" in fails(capsys, *simulate, *missing)
    save_file({"weight": torch.zeros(2)}, file)
    assert "holds no predictor" in fails(capsys, *simulate, "--attack", "predicted", "--predictor", str(file))


def test_what_cannot_be_used_is_one_line(agent, tmp_path, capsys):
    missing = tmp_path / "missing.safetensors"
    assert "`--load`: there is no file" in fails(capsys, "screen", agent, "--load", str(missing))
    (other := tmp_path / "weights.safetensors").write_bytes(b"")
    save_file({"weight": torch.zeros(2)}, other)
    assert "holds no predictor of gradients" in fails(capsys, "screen", agent, "--load", str(other), *SMALL)
    (damaged := tmp_path / "damaged.safetensors").write_bytes(b"nothing")
    assert "`--load`: " in fails(capsys, "screen", agent, "--load", str(damaged), *SMALL)
    narrow = {"errors": torch.ones(3, 1, 4), "hidden": torch.ones(3, 1, 4), "weights": torch.ones(3, 2, 4)}
    save_file(narrow | {"scale": torch.tensor(1.0, dtype=torch.float64)}, other)
    assert "of width 4, and those of the model have width" in fails(
        capsys, "screen", agent, "--load", str(other), *SMALL
    )
    assert "`--save`" in fails(capsys, "screen", agent, "--save", str(tmp_path))
    assert "not allowed with" in fails(capsys, "screen", agent, "--save", "a", "--load", str(other))
    for option in ("--examples", "--batch_size"):
        assert f"`{option}` must be at least 1" in fails(capsys, "screen", agent, option, "0")
    assert "`--epsilon` must be above 0" in fails(capsys, "screen", agent, "--epsilon", "0")


def test_nothing_is_left_of_a_run_that_fails(tmp_path, capsys):
    broken = tmp_path / "agent"
    shutil.copytree(_made(tmp_path / "made"), broken)
    (broken / "model.safetensors").write_bytes(b"nothing")
    fails(capsys, "screen", str(broken), "--save", str(tmp_path / "out" / "file"))
    assert not (tmp_path / "out").exists()
