"""`aajr env`: what a bug report should say about the machine."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from .parsing import ArgumentParser

PACKAGES = ("aajr-hf", "torch", "transformers", "trl", "peft", "accelerate", "datasets", "pettingzoo")


def run(argv: list[str]) -> int:
    ArgumentParser(
        prog="aajr env", description="Print the versions and devices to copy into a bug report."
    ).parse_args(argv)
    import torch

    print(f"- Platform: {platform.platform()}")
    print(f"- Python: {platform.python_version()}")
    for package in PACKAGES:
        try:
            print(f"- {package}: {version(package)}")
        except PackageNotFoundError:
            print(f"- {package}: not installed")
    if torch.accelerator.is_available():
        kind = torch.accelerator.current_accelerator().type
        count = torch.accelerator.device_count()
        name = torch.cuda.get_device_name(0) if kind == "cuda" else kind
        print(
            f"- Accelerator: {count} x {name}, bf16 {'yes' if kind != 'cuda' or torch.cuda.is_bf16_supported() else 'no'}"
        )
    else:
        print(f"- Accelerator: none (CPU, {torch.get_num_threads()} threads)")
    print(f"- Distributed backends: {_backends(torch)}")
    return 0


def _backends(torch) -> str:
    if not torch.distributed.is_available():
        return "none"
    names = [name for name in ("gloo", "nccl", "mpi") if getattr(torch.distributed, f"is_{name}_available")()]
    return ", ".join(names) or "none"
