"""The manifest for Kubeflow Trainer, and what it runs: two launchers of one job give the weights of one process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import jsonschema
import pytest
import torch
import yaml
from safetensors.torch import load_file

from aajr_hf.cli.main import main
from aajr_hf.cli.pipeline.trainjob import job_name, train_job
from tests.support import ROOT
from tests.support.commands import fails

# The fields that the manifest has, as manifests/base/crds/trainer.kubeflow.org_trainjobs.yaml of kubeflow/trainer declares them.
TRAINER = {
    "image": {"type": "string"},
    "command": {"type": "array", "items": {"type": "string"}},
    "numNodes": {"type": "integer"},
    "numProcPerNode": {"type": "integer", "minimum": 1},
    "resourcesPerNode": {
        "type": "object",
        "properties": {"limits": {"type": "object", "additionalProperties": {"type": ["integer", "string"]}}},
        "additionalProperties": False,
    },
}
SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "properties": {
        "apiVersion": {"const": "trainer.kubeflow.org/v1alpha1"},
        "kind": {"const": "TrainJob"},
        "metadata": {"type": "object", "properties": {"name": {"type": "string"}}, "additionalProperties": False},
        "spec": {
            "type": "object",
            "required": ["runtimeRef"],
            "additionalProperties": False,
            "properties": {
                "runtimeRef": {"type": "object", "properties": {"name": {"type": "string"}}},
                "trainer": {"type": "object", "properties": TRAINER, "additionalProperties": False},
            },
        },
    },
}


@pytest.mark.parametrize(("config", "limit"), [("fsdp2", "nvidia.com/gpu"), ("ddp_cpu", "cpu")])
def test_the_manifest_is_one_that_kubeflow_trainer_knows(config, limit, capsys):
    argv = ["pipeline", "trainjob", "recipes/a b/aajr.yaml", "--nodes", "2", "--processes", "4", "--image", "me/aajr"]
    assert main([*argv, "--accelerate_config", config]) == 0
    job = yaml.safe_load(capsys.readouterr().out)
    jsonschema.validate(job, SCHEMA)
    trainer = job["spec"]["trainer"]
    assert trainer["numNodes"] == 2 and trainer["resourcesPerNode"]["limits"] == {limit: 4}
    command = trainer["command"][-1]
    assert "--config 'recipes/a b/aajr.yaml'" in command and "--num_processes 8" in command
    assert f"--accelerate_config {config}" in command and '--machine_rank "$PET_NODE_RANK"' in command
    assert job["metadata"]["name"] == "aajr-a-b-aajr"


def test_a_name_is_one_that_kubernetes_takes():
    assert job_name("recipes/Smol_LM/aajr-fsdp2.yaml") == "aajr-smol-lm-aajr-fsdp2"
    assert len(job_name("recipes/" + "x" * 90 + "/aajr.yaml")) == 63
    job = train_job("r.yaml", nodes=1, processes=1, image="i", name="a-1", accelerate_config="ddp")
    assert job["metadata"] == {"name": "a-1"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--nodes", "0"], "`--nodes` must be at least 1; got 0"),
        (["--nodes", "1", "--processes", "0"], "`--processes` must be at least 1; got 0"),
        (["--nodes", "1", "--name", "A b"], "`--name` must have lower-case letters"),
        (["--nodes", "1", "--accelerate_config", "fsdp9"], "must be one of ddp, ddp_cpu"),
        ([], "the following arguments are required: --nodes"),
    ],
    ids=str,
)
def test_a_mistake_is_one_line(options, message, capsys):
    assert message in fails(capsys, "pipeline", "trainjob", "r.yaml", "--image", "i", *options)


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


@pytest.mark.slow
@pytest.mark.distributed
def test_two_launchers_of_one_job_train_as_one_process_that_accumulates(agent, tmp_path):
    port = str(free_port())
    shared = ["--config", str(ROOT / "recipes" / "congestion" / "aajr.yaml"), "--model_name_or_path", str(agent)]
    # Every point and every example, so that nothing is drawn that two processes draw otherwise.
    shared += ["--penalty_trajectory", "all", "--penalty_fraction", "1.0", "--environment_examples", "16"]
    shared += ["--max_steps", "2", "--use_cpu", "true", "--save_strategy", "no"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    output = ["--output_dir", str(tmp_path / "two"), "--per_device_train_batch_size", "4", "--ddp_backend", "gloo"]
    launchers = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1"),
                *("--node_rank", str(rank), "--master_addr", "127.0.0.1", "--master_port", port),
                *("-m", "aajr_hf", "train", *shared, *output),
            ],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    said = [launcher.communicate(timeout=240) for launcher in launchers]
    assert [launcher.returncode for launcher in launchers] == [0, 0], said
    more = ["--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "2"]
    assert main(["train", *shared, "--output_dir", str(tmp_path / "one"), *more]) == 0
    two, one = (load_file(tmp_path / name / "model.safetensors") for name in ("two", "one"))
    start = load_file(agent / "model.safetensors")
    moved = max(float((one[name] - start[name]).abs().max()) for name in one)
    assert all(torch.allclose(two[name], one[name], atol=1e-2 * moved) for name in one) and moved > 0
