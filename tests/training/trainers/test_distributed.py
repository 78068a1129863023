"""Two processes over gloo, each with half of the batch, against one process that accumulates both halves."""

from __future__ import annotations

import importlib.util
import os
from functools import cache
from pathlib import Path

import pytest
import torch
from accelerate.commands.launch import launch_command, launch_command_parser
from peft.utils import load_peft_weights
from transformers import AutoModelForCausalLM

from tests.support import ROOT
from tests.support.distributed_worker import CASES, STEPS, train
from tests.support.forked import run_together

pytestmark = pytest.mark.distributed
EXACT = [name for name in CASES if name.startswith(("full", "lora", "controlled"))]
# Differences of nearby numbers magnify the rounding in which one process and two differ.
DIFFERENCES = 1e-4


def launch(config: str, output: Path, *names: str, flags: tuple = (), **environment: str) -> None:
    """Run the cases on two processes, with the environment of `accelerate launch`; their results lie in `output` then."""
    file = str(ROOT / "accelerate_configs" / f"{config}.yaml")
    worker = "tests.support.distributed_worker"
    argv = ["--config_file", file, *flags, "--module", worker, str(output), *names]
    with pytest.MonkeyPatch.context() as patch:
        # In place of the launcher, which would start two processes that import everything anew.
        patch.setattr(
            "torch.distributed.run.run", lambda args: run_together(output, worker, output, *names, **os.environ)
        )
        for name, value in environment.items():
            patch.setenv(name, value)
        launch_command(launch_command_parser().parse_args(argv))


def result(output: Path, name: str, process: int = 0) -> dict:
    return torch.load(output / f"{name}-{process}.pt", weights_only=True)


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    """`one_process(name, **overrides)`: the same case on one process, with the batches of both."""

    @cache
    def run(name: str, **overrides) -> dict:
        return train(tmp_path_factory.mktemp("one"), name, gradient_accumulation_steps=2, **overrides)

    return run


def assert_same_run(actual: dict, expected: dict, tolerance: float = 1e-5) -> None:
    assert_same_logs(actual, expected, tolerance)
    assert_same_weights(actual["weights"], expected["weights"], tolerance)


def assert_same_logs(actual: dict, expected: dict, tolerance: float) -> None:
    assert len(actual["logs"]) == len(expected["logs"]) == STEPS
    for one, other in zip(actual["logs"], expected["logs"], strict=True):
        assert one.keys() == other.keys()
        compared = {"loss", "grad_norm", "aajr/penalty", "aajr/adversarial_loss", "aajr/amplification", "entropy"}
        compared |= {"aajr/lambda", "aajr/adversarial_success", "aajr/delta_norm"}
        for key in compared & other.keys():
            assert one[key] == pytest.approx(other[key], rel=tolerance), key


def assert_same_weights(actual: dict, expected: dict, tolerance: float = 1e-5) -> None:
    assert actual.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.allclose(actual[key], value, rtol=tolerance, atol=tolerance), key


@pytest.mark.slow
def test_preferences_and_sampled_completions_on_two_processes(tmp_path, one_process):
    launch("ddp_cpu", tmp_path, "dpo", "grpo")
    for name in ("dpo", "grpo"):
        first = result(tmp_path, name)
        assert first["gradient_difference"] == 0 and len(first["logs"]) == STEPS
        assert all(log["aajr/penalty"] > 0 for log in first["logs"])
    # What each process samples is its own, and so is not compared.
    two, one = result(tmp_path, "dpo"), one_process("dpo")
    assert_same_weights(two["weights"], one["weights"])
    for actual, expected in zip(two["logs"], one["logs"], strict=True):
        for key in ("loss", "grad_norm", "aajr/penalty", "rewards/margins", "num_tokens"):
            assert actual[key] == pytest.approx(expected[key], rel=1e-4), key


@pytest.mark.slow
def test_the_methods_of_docs_methods_on_two_processes(tmp_path, one_process):
    names = ("methods", "distilled-layer", "matched-ascent", "matched-variants")
    launch("ddp_cpu", tmp_path, *names)
    for name in names:
        two = result(tmp_path, name)
        assert two["gradient_difference"] == 0 and all(log["aajr/penalty"] > 0 for log in two["logs"])
    for name in names[:2]:
        assert_same_run(result(tmp_path, name), one_process(name))
    logs = result(tmp_path, "methods")["logs"], one_process("methods")["logs"]
    measured = (
        "probe_loss",
        "rollbacks",
        "probe_success",
        "probe_success_10_steps",
        "sensitivity",
        "sensitivity_shortfall",
    )
    for name in measured:
        # Where a step was far too long, ten steps of an ascent magnify the rounding of single precision.
        tolerance, key = 0.1 if name == "probe_loss" else 1e-4, f"aajr/{name}"
        assert [log[key] for log in logs[0]] == pytest.approx([log[key] for log in logs[1]], rel=tolerance), key
        # Each process has other rows of the probe, and both know the numbers of all.
        assert [log[key] for log in logs[0]] == [log[key] for log in result(tmp_path, "methods", 1)["logs"]], key
    assert logs[0][-1]["aajr/rollbacks"] > 0 and logs[0][0]["aajr/sensitivity_shortfall"] > 0
    # Each process draws other directions, but of one covariance.
    for name in names[2:]:
        factors = [result(tmp_path, name, 0)["nuisance"], result(tmp_path, name, 1)["nuisance"]]
        expected = one_process(name)["nuisance"]
        assert torch.equal(*factors) and torch.allclose(factors[0] @ factors[0].T, expected @ expected.T, atol=1e-6)


# Each case with one of the two at least; what both take is what the communication differs in.
TWO_PROCESSES = {
    "ddp_cpu": ["full-plain", "lora-checkpointed", "finite-difference", "controlled", "global", "amortised"],
    "fsdp2_cpu": ["full-checkpointed", "lora-plain", "global", "amortised"],
}


@pytest.mark.slow
def test_two_processes_train_as_one_that_accumulates(tmp_path, one_process):
    for config, names in TWO_PROCESSES.items():
        folder, sharded = tmp_path / config, config == "fsdp2_cpu"
        (checkpointed,) = (name for name in names if name.endswith("checkpointed"))
        folder.mkdir()
        launch(config, folder, *names, f"resume:{checkpointed}")
        for name in names:
            first, second = result(folder, name), result(folder, name, 1)
            assert first["sharded"] == sharded
            assert first["distributed_type"] == ("FSDP" if sharded else "MULTI_CPU")
            # Shards are never compared; that their sum is right shows in the weights.
            assert first["gradient_difference"] == second["gradient_difference"] == (None if sharded else 0)
            if name in EXACT:
                assert first["estimator"] == "jvp"
                assert_same_run(first, one_process(name))
        check_saved(folder, checkpointed)
    assert_same_run(result(tmp_path / "ddp_cpu", "finite-difference"), one_process("finite-difference"), DIFFERENCES)
    # What they draw at random depends on the process, so two are compared with two.
    for name in ("global", "amortised"):
        assert_same_run(result(tmp_path / "fsdp2_cpu", name), result(tmp_path / "ddp_cpu", name))


ZERO_STAGES = {
    1: ["lora-plain"],
    2: ["full-checkpointed", "finite-difference"],
    3: ["full-checkpointed", "lora-plain"],
}


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="needs deepspeed")
@pytest.mark.parametrize(("stage", "names"), ZERO_STAGES.items())
def test_deepspeed_trains_as_one_process_that_accumulates(stage, names, tmp_path, one_process):
    flags = ("--num_processes", "2", "--mixed_precision", "no")
    resumed = [f"resume:{name}" for name in names if name == "full-checkpointed"]
    launch(f"zero{stage}", tmp_path, *names, *resumed, flags=flags, DS_ACCELERATOR="cpu", LOCAL_SIZE="2")
    for name in names:
        actual = result(tmp_path, name)
        assert actual["distributed_type"] == "DEEPSPEED"
        if name == "finite-difference":
            assert_same_run(actual, one_process(name), DIFFERENCES)
        elif stage == 3:
            assert actual["estimator"] == "finite_difference"
            assert_same_logs(actual, one_process(name), 2e-3)  # of the exact penalty
        else:
            assert actual["estimator"] == "jvp"
            assert_same_run(actual, one_process(name))
    if resumed:
        check_saved(tmp_path, "full-checkpointed")


def check_saved(folder: Path, name: str) -> None:
    """A resumed run ends where the uninterrupted one did; what the first process saved is what it trained."""
    resumed = result(folder, f"resume:{name}")
    assert_same_run(resumed, result(folder, name))
    assert "upload_folder" in resumed["hub_calls"]
    assert result(folder, f"resume:{name}", 1)["hub_calls"] == []
    saved = folder / name / "resumed"
    if name.startswith("full"):
        weights = AutoModelForCausalLM.from_pretrained(saved).state_dict()
        assert_same_weights(weights, resumed["weights"], 0)
        return
    adapter = load_peft_weights(str(saved))
    trained = {key.replace(".default.", "."): v for key, v in resumed["weights"].items() if ".lora_" in key}
    assert len(adapter) > 10
    assert_same_weights(adapter, trained, 0)
