"""bfloat16 is slow on x86 without AVX-512, and only there."""

from __future__ import annotations

import platform

import pytest
import torch

from aajr_hf.training.models.bfloat16 import slow_bfloat16


@pytest.mark.parametrize(
    ("machine", "capability", "slow"),
    [
        ("x86_64", "AVX2", True),
        ("AMD64", "DEFAULT", True),
        ("x86_64", "AVX512", False),
        ("x86_64", "AVX512_VNNI", False),
        ("arm64", "DEFAULT", False),
        ("aarch64", "SVE256", False),
    ],
)
def test_depends_on_the_instructions(monkeypatch, machine, capability, slow):
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert slow_bfloat16() == slow
