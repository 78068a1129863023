"""The manifest of a training on several nodes of a cluster: a `TrainJob` of Kubeflow Trainer (API v1alpha1)."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import yaml

from ..common.errors import UserError

# A name of Kubernetes: it becomes part of host names.
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
# Kubeflow Trainer's runtime for PyTorch sets these variables on every node.
_RENDEZVOUS = (
    '--num_machines "$PET_NNODES" --machine_rank "$PET_NODE_RANK" '
    '--main_process_ip "$PET_MASTER_ADDR" --main_process_port "$PET_MASTER_PORT"'
)


def train_job(
    recipe: str, *, nodes: int, processes: int, image: str, name: str, accelerate_config: str, gpu: bool = True
) -> dict[str, Any]:
    """
    Return the manifest. Each node runs `aajr train`, which starts its processes through Accelerate.

    Args:
        recipe: Path of the recipe inside the image.
        nodes: Number of nodes.
        processes: Processes on each node, one for each GPU.
        image: Image with this package, such as one built from the `Dockerfile`.
        name: Name of the job.
        accelerate_config: As in `aajr train`.
        gpu: Whether to ask for a GPU for each process.

    Raises:
        UserError: if a number or the name is wrong.
    """
    for option, number in (("nodes", nodes), ("processes", processes)):
        if number < 1:
            raise UserError(f"`--{option}` must be at least 1; got {number}.")
    if not _NAME.fullmatch(name):
        raise UserError(
            f"`--name` must have lower-case letters, digits and hyphens, and begin with a letter; got {name!r}."
        )
    command = f"exec aajr train --config {shlex.quote(recipe)} --accelerate_config {accelerate_config} "
    command += f"--num_processes {nodes * processes} {_RENDEZVOUS}"
    resources = {"limits": {"nvidia.com/gpu": processes}} if gpu else {"limits": {"cpu": processes}}
    trainer = {
        "image": image,
        "command": ["bash", "-c", command],
        "numNodes": nodes,
        "numProcPerNode": processes,
        "resourcesPerNode": resources,
    }
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {"name": name},
        "spec": {"runtimeRef": {"name": "torch-distributed"}, "trainer": trainer},
    }


def job_name(recipe: str) -> str:
    """Return a name for the job of a recipe: its last two parts."""
    parts = Path(recipe).with_suffix("").parts[-2:]
    return re.sub(r"[^a-z0-9]+", "-", "-".join(["aajr", *parts]).lower()).strip("-")[:63].rstrip("-")


def manifest(job: dict[str, Any]) -> str:
    """Return the manifest as YAML."""
    return yaml.safe_dump(job, sort_keys=False, width=1000)
