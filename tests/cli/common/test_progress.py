"""What training shows, and what trackers keep of it."""

from __future__ import annotations

import io
import json
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console
from transformers import TrainerControl, TrainerState

from aajr_hf.cli.common import progress
from aajr_hf.cli.common.heartbeat import Heartbeat
from aajr_hf.cli.common.progress import TrainingProgress
from aajr_hf.cli.main import main
from tests.support import ROOT
from tests.support.commands import FAST

RECIPE = str(ROOT / "recipes" / "congestion" / "aajr.yaml")
LOGS = {"loss": 5.32109, "aajr/penalty": 173.2, "learning_rate": 0.001, "entropy": 0.1}


class FakeTrainer:
    def __init__(self, disable_tqdm=False):
        self.args = SimpleNamespace(disable_tqdm=disable_tqdm)
        self.removed = []

    def remove_callback(self, callback):
        self.removed.append(callback.__name__)

    def add_callback(self, callback):
        self.added = callback


def shown(terminal: bool, **kwargs) -> str:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=200, _environ={"TERM": "xterm" if terminal else "dumb"})
    trainer = FakeTrainer(**kwargs)
    state, control = TrainerState(max_steps=10), TrainerControl()
    with TrainingProgress(trainer, console) as progress:
        assert trainer.added is progress and trainer.removed == ["ProgressCallback", "PrinterCallback"]
        progress.on_train_begin(None, state, control)
        state.global_step = 4
        progress.on_step_end(None, state, control)
        progress.on_log(None, state, control, logs=LOGS)
    return out.getvalue()


def test_a_file_gets_plain_lines():
    assert (
        shown(terminal=False)
        == "step 4/10 | 0:00 passed, 0:00 left | loss 5.321 | penalty 173 | learning rate 0.001\n"
    )


def test_a_terminal_gets_a_bar_that_is_ended():
    text = shown(terminal=True)
    assert "4/10" in text and "loss 5.321" in text and "━" in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1  # the cursor hidden, and shown again
    assert "━" not in shown(terminal=True, disable_tqdm=True)


def test_a_long_step_is_said_to_be_under_way(capsys, monkeypatch):
    monkeypatch.setattr(progress, "HEARTBEAT", beat := Heartbeat(every=0.1))
    with beat.running("aajr train"), TrainingProgress(FakeTrainer(), Console(file=io.StringIO())) as shown:
        state = TrainerState(max_steps=10)
        shown.on_train_begin(None, state, TrainerControl())
        said, deadline = "", time.monotonic() + 60
        while "step 1/10 is running | 0:0" not in said and time.monotonic() < deadline:
            time.sleep(0.05)
            said += capsys.readouterr().err
        assert time.monotonic() < deadline
        state.global_step = 10
        assert shown._step_under_way() == "all 10 steps are done, saving"


@pytest.mark.slow
def test_a_run_prints_plain_lines_where_nobody_watches(agent, tmp_path, capsys):
    where = ["--model_name_or_path", str(agent), "--output_dir", str(tmp_path / "run"), "--logging_steps", "1"]
    assert main(["train", "--config", RECIPE, *where, *FAST]) == 0
    printed = capsys.readouterr()
    lines = [line for line in printed.out.splitlines() if line.startswith("step ")]
    assert [line.split(" |")[0] for line in lines] == ["step 1/2", "step 2/2"]
    assert all("adversarial" in line and "\x1b" not in line for line in lines) and "{" not in printed.out


@pytest.mark.slow
def test_trackers_have_the_metrics(agent, tmp_path):
    """In a process of its own: Trackio reads the environment when it is imported."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    where = ["--model_name_or_path", str(agent), "--output_dir", str(tmp_path / "run"), "--logging_steps", "1"]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(Path(RECIPE).read_text() + "report_to: [tensorboard, trackio]\n")
    command = [sys.executable, "-m", "aajr_hf", "train", "--config", str(recipe), *where, *FAST]
    folders = {"TENSORBOARD_LOGGING_DIR": str(tmp_path / "events"), "TRACKIO_DIR": str(tmp_path / "trackio")}
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)} | folders
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path, timeout=240)
    assert done.returncode == 0, done.stderr
    history = json.loads((tmp_path / "run" / "trainer_state.json").read_text())["log_history"]
    logs = [log for log in history if "aajr/penalty" in log]
    events = EventAccumulator(str(next((tmp_path / "events").rglob("events.*")).parent))
    events.Reload()
    for name in ("aajr/penalty", "aajr/amplification", "loss"):
        found = next(tag for tag in events.Tags()["scalars"] if tag.endswith(name))
        values = [event.value for event in events.Scalars(found)]
        assert values == pytest.approx([log[name] for log in logs], rel=1e-5)
    database = next((tmp_path / "trackio").rglob("*.db"))
    with sqlite3.connect(database) as connection:
        rows = [json.loads(row[0]) for row in connection.execute("select metrics from metrics order by step")]
    kept = [
        next(v for name, v in row.items() if name.endswith("aajr/penalty")) for row in rows if "penalty" in str(row)
    ]
    assert kept == pytest.approx([log["aajr/penalty"] for log in logs], rel=1e-5)
