"""scripts/quickstart.py: what it runs, what it does not run twice, and the time that it says is left."""

from __future__ import annotations

import re

import pytest
import quickstart
import torch
from quickstart import Stage

from aajr_hf.cli.arguments.model_and_data import TrainArguments
from aajr_hf.cli.arguments.parsing import RecipeParser
from aajr_hf.cli.launching.launch import LaunchArguments
from aajr_hf.training.config.sft import AAJRConfig
from aajr_hf.training.models import bfloat16
from aajr_hf.training.runs.checkpoints import INCOMPLETE


@pytest.fixture
def commands(monkeypatch):
    """The commands that are run; each makes the folder that its stage is about."""
    ran = []

    def run(arguments):
        ran.append(arguments)
        return 3 if arguments == ["fail"] else 0

    monkeypatch.setattr(quickstart, "aajr", run)
    return ran


def complete(folder):
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


def test_what_is_complete_is_not_made_again(tmp_path, commands, capsys):
    made, half = complete(tmp_path / "made"), complete(tmp_path / "half")
    (half / INCOMPLETE).touch()
    stages = [
        Stage("One", ["first"], 1, made),
        Stage("Two", ["second"], 2, half),
        Stage("Three", ["third"], 3, tmp_path / "none"),
        Stage("Four", ["fourth"], 4),
    ]
    quickstart.run(stages)
    assert commands == [["second"], ["third"], ["fourth"]]
    output = capsys.readouterr().out
    assert "1 of 4: One: done before" in output
    assert "2 of 4: Two (about 9 minutes left in all)" in output


def test_the_time_left_follows_the_last_stage(tmp_path, commands, monkeypatch, capsys):
    """The first stage is expected to take 2 minutes and takes 4, so the others take twice as long, too; the second takes half."""
    clock = iter([0, 240, 240, 330, 330, 340])
    monkeypatch.setattr(quickstart.time, "monotonic", lambda: next(clock))
    quickstart.run([Stage("One", ["first"], 2), Stage("Two", ["second"], 3), Stage("Three", ["third"], 5)])
    left = re.findall(r"about (\d+) minutes left", capsys.readouterr().out)
    assert left == ["10", "16", "2"]


def test_a_slow_download_says_nothing_of_the_trainings(commands, monkeypatch, capsys):
    clock = iter([0, 600, 600, 660])
    monkeypatch.setattr(quickstart.time, "monotonic", lambda: next(clock))
    quickstart.run([Stage("Get", ["first"], 1, typical=False), Stage("Two", ["second"], 3)])
    assert re.findall(r"about (\d+) minutes left", capsys.readouterr().out) == ["4", "3"]


def test_a_failure_ends_it(commands):
    with pytest.raises(SystemExit) as status:
        quickstart.run([Stage("One", ["fail"], 1), Stage("Two", ["second"], 1)])
    assert status.value.code == 3 and commands == [["fail"]]


@pytest.mark.parametrize("slow", [True, False])
def test_the_trainings_of_a_real_model_are_valid_and_equally_long(tmp_path, monkeypatch, slow):
    monkeypatch.setattr(bfloat16, "slow_bfloat16", lambda: slow)
    parser = RecipeParser((TrainArguments, LaunchArguments, AAJRConfig), prog="aajr train")
    trainings = [stage for stage in quickstart.real_model("smollm2-135m", tmp_path) if stage.arguments[0] == "train"]
    parsed = {stage.title: parser.parse(stage.arguments[1:]) for stage in trainings}
    compared = [parsed[f"Fine-tune: {name}"] for name in ("sft", "adversarial", "aajr")]
    for name in ("max_steps", "per_device_train_batch_size", "learning_rate", "seed"):
        assert len({getattr(config, name) for _, _, config in compared}) == 1, name
    assert {arguments.environment_seed for arguments, _, _ in compared} == {1}
    assert {arguments.model_name_or_path for arguments, _, _ in compared} == {str(tmp_path / "base")}
    if not torch.accelerator.is_available():
        assert all(config.bf16 != slow for _, _, config in compared)


def test_an_interrupted_training_is_resumed(tmp_path):
    (tmp_path / "aajr" / "checkpoint-7").mkdir(parents=True)
    resumed = {s.folder.name for s in quickstart.real_model("smollm2-135m", tmp_path) if "auto" in s.arguments}
    assert resumed == {"aajr"}
