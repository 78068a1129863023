"""Nothing is lost: runs that are killed at any point, disks that are full, signals."""

from __future__ import annotations

import contextlib
import copy
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from transformers import TrainerCallback, TrainerState, modeling_utils

from aajr_hf import AAJRConfig, AAJRTrainer
from aajr_hf.training.runs.checkpoints import INCOMPLETE, DiskFullError, newest_checkpoint, why_incomplete
from aajr_hf.training.runs.interruption import StopOnSignal
from tests.support.forked import context
from tests.support.tiny import WORDS, dataset, tiny_model, trainer, trainer_arguments

STEPS = 40


def run_in(folder, **overrides):
    """Two epochs and a half; points of the penalty are drawn, the order of the data and the learning rate change."""
    settings = {
        "optim": "adamw_torch",
        "learning_rate": 1e-3,
        # Which has not ended at the last step: one step too many would be seen.
        "lr_scheduler_type": "constant_with_warmup",
        "warmup_steps": 30,
        "max_grad_norm": 1.0,
        "max_steps": STEPS,
        "save_strategy": "steps",
        "save_steps": 2,
        "save_total_limit": 2,
        "penalty_trajectory": "sample",
        "penalty_fraction": 0.5,
    }
    return trainer(folder, tiny_model(torch.float32), dataset(64), **settings | overrides)


class Killer(TrainerCallback):
    """Ends its process by SIGKILL at an event: the end of a step, or half-way through a file of a checkpoint."""

    def __init__(self, at: int):
        self.left = at

    def _event(self, file: str | Path | None = None) -> None:
        self.left -= 1
        if self.left == 0:
            if file is not None:
                os.truncate(file, os.path.getsize(file) // 2)
                print("SAVING", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

    def on_step_end(self, args, state, control, **kwargs):
        self._event()

    def watch(self, owner, name: str, position: int) -> None:
        original = getattr(owner, name)

        def watched(*args, **kwargs):
            original(*args, **kwargs)
            self._event(args[position])

        setattr(owner, name, watched)


def train_or_be_killed(folder: str, at: int) -> None:
    killer = Killer(at)
    killer.watch(modeling_utils, "safe_save_file", 1)
    killer.watch(torch, "save", 1)
    killer.watch(TrainerState, "save_to_json", 1)
    with open(f"{folder}.out", "a") as out, contextlib.redirect_stdout(out):
        run = run_in(folder)
        run.add_callback(killer)
        run.train(resume_from_checkpoint=newest_checkpoint(folder))
        run.save_model()


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_where_the_undisturbed_one_does(tmp_path):
    # Children of a process that has imported everything: each start takes a fraction of a second.
    forking = context()
    draw, killed = random.Random(0), 0
    for attempt in range(20):
        at = draw.randint(1, 14) if attempt < 3 else 0
        process = forking.Process(target=train_or_be_killed, args=(str(tmp_path / "killed"), at))
        process.start()
        process.join(120)
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        killed += 1
    assert process.exitcode == 0 and killed >= 3
    assert (tmp_path / "killed.out").read_text().count("SAVING") >= 1
    whole = run_in(tmp_path / "whole")
    whole.train()
    whole.save_model()
    for name in ("model.safetensors", f"checkpoint-{STEPS}/model.safetensors"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    for name in ("optimizer.pt", "scheduler.pt"):
        states = [torch.load(tmp_path / run / f"checkpoint-{STEPS}" / name) for run in ("killed", "whole")]
        assert flat(states[0]) == flat(states[1])


def flat(state) -> dict:
    if isinstance(state, torch.Tensor):
        return {"": state.tolist()}
    items = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, list) else None
    return {"": state} if items is None else {f"{k}.{n}": v for k, part in items for n, v in flat(part).items()}


@pytest.mark.slow
@pytest.mark.parametrize("steps", [3, 16])
def test_a_finished_run_takes_no_step_when_it_is_resumed(tmp_path, steps):
    run_in(tmp_path, max_steps=steps, save_steps=steps).train()
    again = run_in(tmp_path, max_steps=steps)
    again.train(resume_from_checkpoint=str(newest_checkpoint(tmp_path)))
    assert again.state.global_step == steps
    saved = safetensors.torch.load_file(tmp_path / f"checkpoint-{steps}" / "model.safetensors")
    weights = again.model.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in saved.items())


def make_checkpoint(folder: Path, step: int) -> Path:
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    (checkpoint / "trainer_state.json").write_text("{}")
    safetensors.torch.save_file({"weight": torch.zeros(64)}, checkpoint / "model.safetensors")
    torch.save({"step": torch.zeros(64)}, checkpoint / "optimizer.pt")
    return checkpoint


def test_the_newest_whole_checkpoint_is_found(tmp_path):
    assert newest_checkpoint(tmp_path / "nowhere") is None
    checkpoints = [make_checkpoint(tmp_path, step) for step in (8, 9, 10, 11, 12, 13, 14, 100)]
    (tmp_path / "checkpoint-none").mkdir()
    (checkpoints[1] / INCOMPLETE).touch()
    (checkpoints[2] / "trainer_state.json").write_text('{"global_step": 1')
    (checkpoints[3] / "trainer_state.json").unlink()
    (checkpoints[4] / "optimizer.pt").unlink()
    os.truncate(checkpoints[5] / "optimizer.pt", 200)
    index = {"weight_map": {"weight": "model-00002-of-00002.safetensors"}}
    (checkpoints[6] / "model.safetensors.index.json").write_text(json.dumps(index))
    os.truncate(checkpoints[7] / "model.safetensors", 200)
    reasons = ["not written completely", "is not JSON", "has no trainer_state.json", "no optimizer state"]
    reasons += ["optimizer.pt is damaged", "index.json is damaged", "model.safetensors is damaged"]
    assert why_incomplete(checkpoints[0]) is None
    for checkpoint, reason in zip(checkpoints[1:], reasons, strict=True):
        assert reason in why_incomplete(checkpoint)
    assert newest_checkpoint(tmp_path) == checkpoints[0]


@pytest.mark.parametrize("text", ['{"weight_map": {"wei', "[]", "{}", '{"weight_map": [1]}'])
def test_an_index_that_cannot_be_read_is_damaged(tmp_path, text):
    older, newer = (make_checkpoint(tmp_path, step) for step in (1, 2))
    (newer / "model.safetensors.index.json").write_text(text)
    assert "index.json is damaged" in why_incomplete(newer)
    assert newest_checkpoint(tmp_path) == older


def test_a_mark_stands_while_it_is_written_and_older_ones_go_after_it(tmp_path, monkeypatch):
    run = run_in(tmp_path, max_steps=4, save_total_limit=1)
    seen = []

    def save_to_json(self, path):
        marks = [(Path(path).parent / INCOMPLETE).exists(), sorted(p.name for p in tmp_path.glob("checkpoint-*"))]
        seen.append(marks)
        original(self, path)

    original = TrainerState.save_to_json
    monkeypatch.setattr(TrainerState, "save_to_json", save_to_json)
    run.train()
    assert seen == [[True, ["checkpoint-2"]], [True, ["checkpoint-2", "checkpoint-4"]]]
    assert [p.name for p in tmp_path.glob("checkpoint-*")] == ["checkpoint-4"]
    assert not list(tmp_path.glob(f"*/{INCOMPLETE}"))


FULL = [
    (
        "transformers.modeling_utils.safe_save_file",
        safetensors.SafetensorError("I/O error: No space left on device (os error 28)"),
    ),
    ("torch.save", OSError(errno.ENOSPC, "No space left on device")),
    ("torch.save", RuntimeError("[enforce fail at inline_container.cc:672] PytorchStreamWriter failed writing file")),
]


@pytest.mark.parametrize(("writer", "error"), FULL, ids=lambda value: type(value).__name__)
def test_a_full_disk_is_named_and_harms_no_older_checkpoint(tmp_path, monkeypatch, writer, error):
    run = run_in(tmp_path, max_steps=4, save_total_limit=1)

    class FillTheDisk(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            monkeypatch.setattr(writer, fail)

    def fail(*args, **kwargs):
        raise error

    run.add_callback(FillTheDisk())
    with pytest.raises(DiskFullError, match=r"checkpoint-4: it needs about [\d,]{5,} bytes, but only [\d,]+ are free"):
        run.train()
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-2"
    assert not (tmp_path / "checkpoint-4").exists()


def test_a_checkpoint_that_will_not_fit_is_not_begun(tmp_path, monkeypatch):
    run = run_in(tmp_path, max_steps=2)
    needed = 3 * sum(p.nbytes for p in run.model.parameters())
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=needed - 1))
    with pytest.raises(DiskFullError, match=f"needs about {needed:,} bytes, but only {needed - 1:,} are free"):
        run.train()
    assert not list(tmp_path.glob("checkpoint-*"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=needed))
    run.train()
    assert newest_checkpoint(tmp_path).name == "checkpoint-2"


@pytest.mark.slow
def test_a_disk_that_is_really_full(tmp_path):
    """On a file system of its own, where the system lets us make one."""
    code = "from tests.training.runs.test_checkpoints import fill; import sys; fill(sys.argv[1])"
    mounted = 'mount -t tmpfs -o size=260k none "$1" && exec "$2" -c "$0" "$1"'
    tmp_path.joinpath("disk").mkdir()
    command = ["unshare", "--user", "--map-root-user", "--mount", "bash", "-c", mounted, code, str(tmp_path / "disk")]
    command.append(sys.executable)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    except FileNotFoundError:
        pytest.skip("needs unshare")
    if "mount" in done.stderr and "denied" in done.stderr or "unshare" in done.stderr:
        pytest.skip(f"no mounts here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    assert "it needs about" in done.stdout and done.stdout.splitlines()[-1] == "checkpoint-2"


def fill(folder: str) -> None:
    """A run in a file system that holds one checkpoint and no second one, if what is needed is underrated."""
    from aajr_hf.training.runs import checkpoints

    checkpoints._bytes_needed = lambda *_: 1
    try:
        run_in(folder, max_steps=8).train()
    except DiskFullError as error:
        print(error)
    print(newest_checkpoint(folder).name)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_training_after_its_step_with_a_checkpoint(tmp_path, number):
    run = run_in(tmp_path, save_strategy="no")

    class Signal(TrainerCallback):
        def on_substep_end(self, args, state, control, **kwargs):
            if state.global_step == 3:
                os.kill(os.getpid(), number)

    run.args.gradient_accumulation_steps = 2
    run.add_callback(Signal())
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with StopOnSignal() as stop:
        run.add_callback(stop)
        run.train()
    assert stop.signal == number and run.state.global_step == 4
    assert newest_checkpoint(tmp_path).name == "checkpoint-4"
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert json.loads((tmp_path / "checkpoint-4" / "trainer_state.json").read_text())["global_step"] == 4


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["epoch", "best"])
def test_a_signal_saves_once_whatever_the_strategies(tmp_path, strategy, monkeypatch):
    saving = {"save_strategy": strategy, "eval_strategy": "steps" if strategy == "best" else "epoch", "eval_steps": 1}
    best = {"metric_for_best_model": "eval_loss", "greater_is_better": False} if strategy == "best" else {}
    config = AAJRConfig(**trainer_arguments(tmp_path, max_steps=40, **saving, **best))
    data = dataset(16)
    run = AAJRTrainer(
        tiny_model(torch.float32), config, train_dataset=data, eval_dataset=data, processing_class=copy.deepcopy(WORDS)
    )

    class Signal(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 3:
                os.kill(os.getpid(), signal.SIGTERM)

    saved = []
    original = run._save_checkpoint
    monkeypatch.setattr(run, "_save_checkpoint", lambda *args: (saved.append(run.state.global_step), original(*args)))
    run.add_callback(Signal())
    with StopOnSignal() as stop:
        run.add_callback(stop)
        run.train()
    assert saved[-1] == 4 and saved.count(4) == 1 and newest_checkpoint(tmp_path).name == "checkpoint-4"


@pytest.mark.slow
def test_a_final_save_that_fails_leaves_its_mark(tmp_path, monkeypatch):
    run = run_in(tmp_path, max_steps=2)
    run.train()

    def fail(*args, **kwargs):
        raise safetensors.SafetensorError("I/O error: No space left on device (os error 28)")

    with monkeypatch.context() as patch:
        patch.setattr("transformers.modeling_utils.safe_save_file", fail)
        with pytest.raises(DiskFullError, match="No room for"):
            run.save_final()
    assert (tmp_path / INCOMPLETE).exists() and newest_checkpoint(tmp_path).name == "checkpoint-2"
    run.save_final()
    assert not (tmp_path / INCOMPLETE).exists() and (tmp_path / "model.safetensors").is_file()


def test_a_second_ctrl_c_stops_at_once(monkeypatch):
    with StopOnSignal() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)  # the same Ctrl-C, passed on by a launcher
        monkeypatch.setattr(stop, "_since", stop._since - 2)
        os.kill(os.getpid(), signal.SIGTERM)  # a launcher's
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
