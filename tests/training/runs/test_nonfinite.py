"""Numbers that are not finite: found where they arise, kept, run again, skipped."""

from __future__ import annotations

import contextlib
import copy
import json
import math
import tempfile

import pytest
import torch
from transformers import TrainerCallback

from aajr_hf.cli.main import main
from aajr_hf.training.runs.nonfinite import read_dump
from aajr_hf.training.trainers.replay import replay
from tests.support.tiny import dataset, tiny_model, trainer

SETTINGS = {"optim": "adamw_torch", "learning_rate": 1e-3, "max_steps": 4}


class Poison(TrainerCallback):
    """Makes one weight NaN before a step, and puts it back after it."""

    def __init__(self, step: int, value: float = float("nan")):
        self.step, self.value = step, value

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        if state.global_step == self.step:
            self.weight = model.get_submodule("model.layers.1.mlp.down_proj").weight
            self.before = self.weight[3, 3].item()
            self.weight.data[3, 3] = self.value

    def on_optimizer_step(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            assert not self.weight[3, 3].isfinite()
            self.weight.data[3, 3] = self.before


def poisoned(folder, step=2, model=None, **overrides):
    run = trainer(folder, tiny_model(torch.float32) if model is None else model, dataset(16), **SETTINGS | overrides)
    run.add_callback(Poison(step))
    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"epsilon": 0, "regularizer_lambda": 0},
        {"gradient_accumulation_steps": 2, "system_loss": "expected_cost", "jacobian_estimator": "finite_difference"},
    ],
    ids=str,
)
def test_a_step_is_kept_and_run_again(tmp_path, settings, capsys):
    run = poisoned(tmp_path, penalty_fraction=0.5, **settings)
    with pytest.raises(FloatingPointError, match=r"step 2: .*= nan.*`aajr replay .*_nonfinite-2` runs"):
        run.train()
    folder = tmp_path / "_nonfinite-2"
    record, processes = read_dump(folder)
    assert record["step"] == 2 and record["max_steps"] == 4 and len(processes) == 1
    assert processes[0][0]["input_ids"].shape[0] == 4
    found = replay(folder)
    assert found.reproduced and not all(math.isfinite(loss) for loss in found.loss)
    assert found.modules == ["model.layers.1.mlp.down_proj"]
    assert len(found.parameters) > found.trained // 2
    assert main(["replay", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert "model.layers.1.mlp.down_proj" in printed and "nan" in printed


@pytest.mark.slow
def test_what_is_finite_comes_out_as_it_was(tmp_path, monkeypatch):
    """The same weights, data and draws: all that was measured, to the last bit."""
    run = trainer(tmp_path, tiny_model(torch.float32), dataset(16), penalty_fraction=0.5, **SETTINGS)

    class Keep(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, **kwargs):
            if state.global_step == 2:
                run._window = window
                run._dump(tmp_path / "kept", "nothing")

    original = run.training_step
    window = []

    def training_step(*args):
        window[:] = []
        loss = original(*args)
        window.extend(run._window)
        return loss

    monkeypatch.setattr(run, "training_step", training_step)
    run.add_callback(Keep())
    run.train()
    found = replay(tmp_path / "kept")
    recorded = json.loads((tmp_path / "kept" / "dump.json").read_text())["processes"][0]
    assert not found.reproduced and found.modules == []
    assert {name: repr(value) for name, value in found.statistics.items()} == recorded


@pytest.mark.slow
def test_one_step_is_skipped_once_however_many_micro_batches_it_has(tmp_path, caplog):
    run = poisoned(tmp_path, step=1, on_nonfinite="skip", gradient_accumulation_steps=4)
    run.train()
    assert run.memory.numbers["skipped_steps"] == 1 and caplog.text.count("is skipped") == 1
    assert "aajr replay" in caplog.text


@pytest.mark.slow
def test_an_earlier_dump_is_replaced_the_token_is_not_kept_and_the_replay_saves_nothing(tmp_path, monkeypatch):
    folder, output = tmp_path / "run" / "_nonfinite-2", tmp_path / "replay"
    # Of a run that had two processes and an adapter.
    folder.mkdir(parents=True)
    for name in ("batch-1.safetensors", "adapter_config.json"):
        (folder / name).touch()
    with pytest.raises(FloatingPointError):
        poisoned(tmp_path / "run", hub_token="hf_secret").train()
    assert not (folder / "adapter_config.json").exists() and len(read_dump(folder)[1]) == 1
    for file in folder.iterdir():
        assert b"hf_secret" not in file.read_bytes(), file.name
    output.mkdir()
    monkeypatch.setattr(tempfile, "TemporaryDirectory", lambda: contextlib.nullcontext(str(output)))
    assert replay(folder).reproduced
    assert list(output.iterdir()) == []


def test_what_cannot_be_kept_does_not_hide_why(tmp_path, monkeypatch):
    run = poisoned(tmp_path)
    monkeypatch.setattr(run, "save_model", lambda *args, **kwargs: (_ for _ in ()).throw(OSError("No space left")))
    with pytest.raises(FloatingPointError, match="step 2: .*could not be saved in .*No space left"):
        run.train()


@pytest.mark.slow
def test_a_skipped_step_changes_nothing_and_is_counted(tmp_path, caplog):
    run = poisoned(tmp_path / "run", step=1, on_nonfinite="skip", save_strategy="steps", save_steps=1)
    run.train()
    weights = [(tmp_path / "run" / f"checkpoint-{step}" / "model.safetensors").read_bytes() for step in (1, 2, 3)]
    assert weights[0] == weights[1] != weights[2]
    logs = [log for log in run.state.log_history if "loss" in log]
    assert [log.get("aajr/skipped_steps") for log in logs] == [None, 1, 1, 1]
    assert all(math.isfinite(log["loss"]) for log in logs)
    assert "Step 1 is skipped" in caplog.text and (tmp_path / "run" / "_nonfinite-1" / "dump.json").is_file()
    resumed = trainer(tmp_path / "run", tiny_model(torch.float32), dataset(16), **SETTINGS)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    assert resumed.state.log_history[-2]["aajr/skipped_steps"] == 1


@pytest.mark.parametrize("settings", [{}, {"epsilon": 0, "regularizer_lambda": 0}], ids=["aajr", "sft"])
def test_a_gradient_that_is_not_finite_is_skipped_too(tmp_path, settings):
    model = tiny_model(torch.float32)
    factors = iter([1.0, float("inf"), 1.0, float("nan")])

    class Spoil(TrainerCallback):
        factor = 1.0

        def on_step_begin(self, args, state, control, **kwargs):
            self.factor = next(factors)

    spoil = Spoil()
    model.lm_head.weight.register_hook(lambda gradient: gradient * spoil.factor)
    run = trainer(tmp_path, model, dataset(16), on_nonfinite="skip", max_grad_norm=1.0, **SETTINGS | settings)
    run.add_callback(spoil)
    run.train()
    assert run.memory.numbers["skipped_steps"] == 2
    assert all(p.isfinite().all() for p in model.parameters())
    assert [p.name for p in tmp_path.glob("_nonfinite-*")] == ["_nonfinite-1"]


@pytest.mark.slow
def test_loss_scaling_finds_its_scale_by_overflowing(tmp_path, monkeypatch):
    """As under fp16, which Accelerate has on GPUs alone: steps whose gradients overflow are the scaler's to skip."""
    model = tiny_model(torch.float32)
    run = trainer(tmp_path, model, dataset(16), max_grad_norm=1.0, on_nonfinite="stop", **SETTINGS)
    scaler = run.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, backoff_factor=2.0**-60)
    run.accelerator.native_amp = True
    monkeypatch.setattr(type(run.accelerator), "mixed_precision", property(lambda self: "fp16"))
    before = copy.deepcopy(model.state_dict())
    run.train()
    norms = [log["grad_norm"] for log in run.state.log_history if "grad_norm" in log]
    assert scaler.get_scale() == 2.0**67 and [math.isfinite(norm) for norm in norms] == [False, True, True, True]
    assert any(not torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not list(tmp_path.glob("_nonfinite-*"))


@pytest.mark.slow
def test_bf16_and_clipping_are_checked_too(tmp_path):
    run = poisoned(tmp_path, model=tiny_model(torch.float32), bf16=True, max_grad_norm=0.5)
    with pytest.raises(FloatingPointError, match="step 2"):
        run.train()
    assert replay(tmp_path / "_nonfinite-2").modules == ["model.layers.1.mlp.down_proj"]


@pytest.mark.slow
def test_an_adapter_is_kept_as_one(tmp_path):
    base = tmp_path / "base"
    tiny_model(torch.float32).save_pretrained(base)
    settings = SETTINGS | {"adapter_options": {"target_modules": ["q_proj"]}}
    run = trainer(tmp_path / "run", str(base), dataset(16), adapter="lora", adapter_rank=2, **settings)
    weight = next(p for name, p in run.model.named_parameters() if p.requires_grad)
    weight.data.fill_(float("inf"))
    with pytest.raises(FloatingPointError):
        run.train()
    found = replay(tmp_path / "run" / "_nonfinite-0")
    assert found.reproduced and found.trained == sum(p.requires_grad for p in run.model.parameters())
