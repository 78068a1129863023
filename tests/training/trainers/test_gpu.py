"""On a CUDA device: the same numbers as on the CPU, in bf16 too, with and without activation checkpointing."""

from __future__ import annotations

import pytest
import torch

from tests.support.tiny import assert_same_gradient, one_step, tiny_model, trainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def on_gpu(folder, **overrides):
    gradient, log = one_step(folder, tiny_model(torch.float32), use_cpu=False, **overrides)
    return {name: value.cpu() for name, value in gradient.items()}, log


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    "settings",
    [{"regularizer": "none"}, {"jacobian_estimator": "jvp"}, {"jacobian_estimator": "finite_difference"}],
    ids=["adversarial", "jvp", "finite-difference"],
)
def test_the_gradient_is_that_of_the_cpu(tmp_path, settings, checkpointing):
    expected, _ = one_step(tmp_path / "cpu", tiny_model(torch.float32), **settings)
    actual, log = on_gpu(tmp_path / "gpu", gradient_checkpointing=checkpointing, **settings)
    assert_same_gradient(actual, expected, 5e-3 if "finite_difference" in settings.values() else 1e-4)
    assert log["aajr/adversarial_loss"] > log["aajr/clean_loss"]


@pytest.mark.parametrize("adapter", ["full", "lora"])
def test_checkpointing_changes_nothing_in_bf16(tmp_path, adapter):
    logs = []
    for checkpointing in (False, True):
        settings = {"bf16": True, "gradient_checkpointing": checkpointing, "adapter": adapter, "adapter_rank": 4}
        run = trainer(tmp_path, tiny_model(torch.float32), use_cpu=False, **settings)
        run.train()
        logs.append(run.state.log_history[0])
    assert logs[0]["aajr/penalty"] > 0
    for name in ("loss", "grad_norm", "aajr/penalty"):
        assert logs[1][name] == pytest.approx(logs[0][name], rel=1e-2)


def test_the_penalty_in_bf16_is_near_that_in_fp32(tmp_path):
    _, exact = on_gpu(tmp_path)
    _, rounded = on_gpu(tmp_path, bf16=True)
    assert rounded["aajr/penalty"] == pytest.approx(exact["aajr/penalty"], rel=0.1)


@pytest.mark.parametrize("estimator", ["jvp", "finite_difference"])
def test_a_run_in_bf16_lowers_the_amplification(tmp_path, estimator):
    settings = {"max_steps": 30, "optim": "adamw_torch", "learning_rate": 1e-2, "regularizer_lambda": 1e-2}
    run = trainer(
        tmp_path, tiny_model(torch.float32), use_cpu=False, bf16=True, jacobian_estimator=estimator, **settings
    )
    run.train()
    logged = [log["aajr/amplification"] for log in run.state.log_history if "aajr/amplification" in log]
    assert run.model.device.type == "cuda" and logged[-1] < 0.5 * logged[0]
