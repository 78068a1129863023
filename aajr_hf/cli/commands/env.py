"""`aajr env`: print versions and devices for a bug report."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from ..._errors import one_line
from ..arguments.options import ArgumentParser

PACKAGES = (
    *("aajr-hf", "torch", "transformers", "trl", "peft", "accelerate", "datasets", "huggingface_hub", "safetensors"),
    *("tokenizers", "pettingzoo", "deepspeed", "bitsandbytes", "gguf", "tensorboard", "trackio", "wandb"),
)
# Attention kernels for which the penalty can be exact, and common others. flex_attention is left out, because torch
# needs two seconds to load its compiler.
KERNELS = ("sdpa", "eager", "flash_attention_2", "flash_attention_3")


def run(argv: list[str]) -> int:
    ArgumentParser("env", description="Print the versions and devices to copy into a bug report.").parse_args(argv)
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
    print("- Jacobian products by attention kernel, as `jacobian_estimator: auto` would choose:")
    for kernel in KERNELS:
        print(f"  - {kernel}: {_estimator(kernel)}")
    return 0


def _estimator(kernel: str) -> str:
    """Try a jvp and its backward pass through a small language model with this kernel, and return the result."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from ...training.adversary.estimators import jvp_failure

    sizes = {
        "vocab_size": 8,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
    try:
        config = LlamaConfig(**sizes | {"attn_implementation": kernel})
        model = LlamaForCausalLM(config).to(device, torch.bfloat16 if kernel.startswith("flash") else torch.float32)
    except Exception as error:  # each kernel raises its own type of error if it is not available
        return f"not available ({one_line(error).split('. ')[0]})"
    failure = jvp_failure(model)
    return "exact" if failure is None else f"finite differences ({failure})"


def _backends(torch) -> str:
    if not torch.distributed.is_available():
        return "none"
    names = [name for name in ("gloo", "nccl", "mpi") if getattr(torch.distributed, f"is_{name}_available")()]
    return ", ".join(names) or "none"
