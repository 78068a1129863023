"""The choice between exact products and finite differences, and the step of the latter."""

from __future__ import annotations

import json
import logging
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from aajr_hf.training.adversary import estimators
from aajr_hf.training.adversary.estimators import calibrated_step, no_forward_mode
from tests.support.tiny import tiny_model, trainer


def accelerator(**plugins):
    return SimpleNamespace(state=SimpleNamespace(**plugins), is_main_process=True)


FSDP2 = {"fsdp_version": 2, "activation_checkpointing": False}


@pytest.mark.parametrize(
    ("plugins", "torch_version", "reason"),
    [
        ({}, "2.13.0", None),
        ({"deepspeed_plugin": SimpleNamespace(zero_stage=2)}, "2.13.0", None),
        ({"deepspeed_plugin": SimpleNamespace(zero_stage=3)}, "2.13.0", "ZeRO-3"),
        ({"fsdp_plugin": SimpleNamespace(**FSDP2)}, "2.13.0+cpu", None),
        ({"fsdp_plugin": SimpleNamespace(**FSDP2)}, "2.14.0a0+git1234", None),
        ({"fsdp_plugin": SimpleNamespace(**FSDP2)}, "2.12.1+cu126", "torch 2.12.1"),
        ({"fsdp_plugin": SimpleNamespace(**FSDP2 | {"activation_checkpointing": True})}, "2.13.0", "checkpointing"),
    ],
    ids=str,
)
def test_wrappers_without_forward_mode_are_named(plugins, torch_version, reason, monkeypatch):
    monkeypatch.setattr(torch, "__version__", torch_version)
    found = no_forward_mode(tiny_model(torch.float32), accelerator(**plugins), nullcontext)
    assert found is None if reason is None else reason in found


@pytest.mark.slow
def test_the_choice_and_its_reason_are_logged_once(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    run = trainer(tmp_path, max_steps=2)
    run.train()
    assert caplog.text.count("torch.func.jvp works with this model") == 1
    assert run.estimator == "jvp" and "finite differences" not in caplog.text


@pytest.mark.parametrize("noise", [1e-7, 1e-4])
def test_the_step_balances_truncation_and_rounding(noise):
    """An estimate with error `c h^2 + noise / h`: smallest at `h^3 = noise / 2c`."""
    generator = torch.Generator().manual_seed(0)
    tangent, curve = torch.randn(1000, generator=generator), 30 * torch.randn(1000, generator=generator)

    def estimate(step):
        return tangent + curve * step**2 + noise * torch.randn(1000, generator=generator) / step

    step, error = calibrated_step(estimate, lambda values: values)
    best = (noise / 60) ** (1 / 3)
    assert best / 3 <= step <= 3 * best
    truth = float((estimate(step) - tangent).norm() / tangent.norm())
    assert truth / 5 <= error <= 5 * truth


def test_processes_agree_on_the_average():
    """What one process finds best alone is not what is chosen."""
    seen = []

    def average(differences):
        seen.append(differences)
        return torch.arange(float(len(differences)), 0, -1)

    step, error = calibrated_step(lambda h: torch.tensor([1.0 + h]), average)
    assert len(seen) == 1 and step == pytest.approx(1e-3 * 2**8) and error == 1.0


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.bfloat16, 0.2)])
def test_the_error_against_the_exact_product_is_reported(tmp_path, caplog, dtype, tolerance):
    caplog.set_level(logging.INFO)
    run = trainer(tmp_path, tiny_model(dtype), jacobian_estimator="finite_difference", max_steps=1)
    run.train()
    found = run.state.stateful_callbacks["AAJRTrainer"]["attributes"]
    assert (found["difference_step"] > 1e-2) == (dtype == torch.bfloat16)
    assert 0 < found["difference_error"] < tolerance and found["against"] == "against the exact product"
    assert caplog.text.count("The step of finite differences is") == 1


@pytest.mark.slow
def test_where_nothing_exact_can_run_the_error_is_against_half_the_step(tmp_path, monkeypatch):
    monkeypatch.setattr(estimators, "jvp_failure", lambda model: "no forward mode here")
    run = trainer(tmp_path, tiny_model(torch.float32), regularizer="global_spectral")
    run.train()
    assert run.estimator == "finite_difference"
    assert (
        run.state.stateful_callbacks["AAJRTrainer"]["attributes"]["against"]
        == "against the estimate with half the step"
    )


@pytest.mark.slow
def test_a_resumed_run_keeps_the_step(tmp_path, monkeypatch):
    shared = {"jacobian_estimator": "finite_difference", "save_strategy": "steps", "save_steps": 1, "max_steps": 2}
    first = trainer(tmp_path, tiny_model(torch.float32), **shared)
    first.train()
    state = json.loads((tmp_path / "checkpoint-1" / "trainer_state.json").read_text())
    step = state["stateful_callbacks"]["AAJRTrainer"]["attributes"]["difference_step"]
    monkeypatch.setattr("aajr_hf.training.trainers.penalty.calibrate", lambda *args: pytest.fail("calibrated again"))
    second = trainer(tmp_path, tiny_model(torch.float32), **shared)
    second.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert second.state.stateful_callbacks["AAJRTrainer"]["attributes"]["difference_step"] == step
    assert second.state.log_history[1]["loss"] == pytest.approx(first.state.log_history[1]["loss"], rel=1e-6)
