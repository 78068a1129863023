"""Kubeflow Pipelines as the engine of a pipeline. kfp runs in an environment of its own (`kubeflow_program.py` says why)."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from ..common.errors import RunError, UserError
from ..common.heartbeat import HEARTBEAT
from . import kubeflow_program
from .steps import GATES, STEPS

# What `scripts/kfp.sh` makes.
PYTHON = Path(".venv-kfp/bin/python")
# These steps run a model.
_ON_GPU = ("measure", "train", "compare")
_CLAIM = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")


def check_environment(python: Path) -> None:
    """
    Check that `python` has kfp and its extension for volumes.

    Raises:
        UserError: if it does not; names `scripts/kfp.sh`.
    """
    try:
        found = subprocess.run([python, "-c", "from kfp import kubernetes, local"], capture_output=True, text=True)
        missing = found.returncode != 0
    except OSError:
        missing = True
    if missing:
        raise UserError(
            f"{python} does not run Kubeflow Pipelines: make its environment with `bash scripts/kfp.sh`, or give `--kfp` a "
            "Python that has kfp and kfp-kubernetes."
        )


def run_with_kubeflow(settings: Path, python: Path) -> None:
    """
    Run the steps in kfp's local engine. Steps that are done are not repeated.

    Raises:
        UserError: without kfp.
        RunError: if a step fails; a later run begins with it.
    """
    check_environment(python)
    # What a step prints passes through kfp, so this process cannot know how far it is.
    with HEARTBEAT.during(None):
        status = _call(python, "run", _task(settings) | {"python": sys.executable})
    if status:
        raise RunError("Kubeflow Pipelines could not finish the pipeline: the step that failed says why, above.")


def compiled(settings: str, python: Path, *, image: str, claim: str, mount: str, gpus: int) -> bytes:
    """
    Return the YAML for Kubeflow Pipelines, as kfp's compiler writes it.

    Args:
        settings: The pipeline's settings, relative to `mount`; a run may name others.
        image: Image with this package.
        claim: Name of a volume claim that holds the settings and all files that they name.
        mount: Where the steps see the volume. They run there.
        gpus: GPUs of each step that runs a model.

    Raises:
        UserError: without kfp, or if an option is wrong.
    """
    if not _CLAIM.fullmatch(claim):
        raise UserError(
            f"`--claim` must have lower-case letters, digits, hyphens and dots; got {claim!r}: give the claim's name in the cluster."
        )
    if not mount.startswith("/"):
        raise UserError(f"`--mount` must be an absolute path; got {mount!r}.")
    if gpus < 0:
        raise UserError(f"`--gpus` must be at least 0; got {gpus}.")
    check_environment(python)
    where = {"image": image, "claim": claim, "mount": mount, "gpus": gpus, "on_gpu": _ON_GPU}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "pipeline.yaml")
        if _call(python, "compile", _task(settings) | where, str(file)):
            raise RunError("Kubeflow Pipelines could not compile the pipeline: its own message says why, above.")
        return file.read_bytes()


def _task(settings: str | Path) -> dict[str, Any]:
    return {"steps": list(STEPS), "gates": list(GATES), "settings": str(settings)}


def _call(python: Path, action: str, task: dict[str, Any], *more: str) -> int:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "task.json")
        file.write_text(json.dumps(task), encoding="utf-8")
        return subprocess.run([python, kubeflow_program.__file__, action, str(file), *more]).returncode
