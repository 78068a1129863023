"""Whether this machine's CPU calculates in bfloat16 fast enough to train."""

from __future__ import annotations

import platform

import torch


def slow_bfloat16() -> bool:
    """
    Whether products of matrices in bfloat16 are several times slower than in float32: on x86 without AVX-512, where
    PyTorch has no kernel for them.
    """
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    return is_x86 and not torch.backends.cpu.get_cpu_capability().startswith(("AVX512", "AMX"))
