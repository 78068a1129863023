"""Two processes over gloo, each with half of the batch, against one process that accumulates both halves."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from .distributed_worker import CASES, STEPS, train

ROOT = Path(__file__).resolve().parents[2]
EXACT = [name for name in CASES if name.startswith(("full", "lora"))]


def launch(config: str, output: Path, *names: str, **environment: str) -> None:
    """Run the cases on two processes; their results lie in `output` then."""
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    command += ["--config_file", str(ROOT / "accelerate_configs" / f"{config}.yaml"), "--main_process_port", "0"]
    command += [str(ROOT / "tests" / "training" / "distributed_worker.py"), str(output), *names]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"} | environment
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    raised = [line for line in done.stderr.splitlines() if line.startswith("[rank0]")]
    assert done.returncode == 0, "\n".join(raised[-40:]) or done.stderr[-4000:]


def result(output: Path, name: str, process: int = 0) -> dict:
    return torch.load(output / f"{name}-{process}.pt", weights_only=True)


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    """`one_process(name)`: the same case on one process, with the batches of both."""
    return cache(lambda name: train(tmp_path_factory.mktemp("one"), name, gradient_accumulation_steps=2))


def assert_same_run(actual: dict, expected: dict, tolerance: float = 1e-5) -> None:
    assert len(actual["logs"]) == len(expected["logs"]) == STEPS
    for one, other in zip(actual["logs"], expected["logs"], strict=True):
        for key in ("loss", "grad_norm", "aajr/penalty", "aajr/adversarial_loss", "aajr/amplification", "entropy"):
            assert one[key] == pytest.approx(other[key], rel=tolerance), key
    assert_same_weights(actual["weights"], expected["weights"], tolerance)


def assert_same_weights(actual: dict, expected: dict, tolerance: float = 1e-5) -> None:
    assert actual.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.allclose(actual[key], value, rtol=tolerance, atol=tolerance), key


@pytest.mark.parametrize("config", ["ddp_cpu", "fsdp2_cpu"])
def test_two_processes_train_as_one_that_accumulates(config, tmp_path, one_process):
    launch(config, tmp_path, *CASES, "resume:full-checkpointed", "resume:lora-checkpointed")
    sharded = config == "fsdp2_cpu"
    for name in EXACT:
        first, second = result(tmp_path, name), result(tmp_path, name, 1)
        assert first["estimator"] == "jvp" and first["sharded"] == sharded
        assert first["distributed_type"] == ("FSDP" if sharded else "MULTI_CPU")
        assert_same_run(first, one_process(name))
        # Shards differ by design; their sum is what the weights above agree on.
        assert first["gradient_difference"] == second["gradient_difference"] == 0
    # Differences of nearby numbers magnify the rounding in which one process and two differ.
    assert_same_run(result(tmp_path, "finite-difference"), one_process("finite-difference"), 1e-4)
    # Random directions are drawn anew for each micro-batch, so one and two processes see others.
    assert result(tmp_path, "global")["gradient_difference"] == 0
    for name in ("full-checkpointed", "lora-checkpointed"):
        check_saved(tmp_path, name)


def check_saved(folder: Path, name: str) -> None:
    """A resumed run ends where the uninterrupted one did; what the first process saved is what it trained."""
    resumed = result(folder, f"resume:{name}")
    assert_same_run(resumed, result(folder, name))
    assert "upload_folder" in resumed["hub_calls"]
    assert result(folder, f"resume:{name}", 1)["hub_calls"] == []
    saved = folder / name / "resumed"
    model = AutoModelForCausalLM.from_pretrained(saved)
    weights = {k: v for k, v in model.state_dict().items() if k != "lm_head.weight" or k in resumed["weights"]}
    if name.startswith("full"):
        assert_same_weights(weights, resumed["weights"], 0)
    else:
        adapter = {k: v for k, v in resumed["weights"].items() if "lora_" in k}
        assert len(adapter) > 10
        for key, value in adapter.items():
            assert torch.equal(weights[key.removeprefix("base_model.model.")], value), key
