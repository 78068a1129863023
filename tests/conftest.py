"""Fixtures of all tests: fixed seeds, a deterministic hypothesis profile, tiny causal language models, and a real one."""

from __future__ import annotations

import functools
import gc
import importlib.metadata
import random

import numpy as np
import pytest
import torch
from hypothesis import settings

from .support.families import _SIZES, TINY_FAMILIES

settings.register_profile("deterministic", derandomize=True, deadline=None, print_blob=True)
settings.load_profile("deterministic")


def pytest_collection_finish():
    """
    Leave what the imports made out of garbage collection. Accelerate collects at the start of each training, which takes
    half a second for the objects of torch, Transformers and TRL.
    """
    gc.collect()
    gc.freeze()
    # Accelerate asks for the same packages at each training, and parses their metadata each time.
    importlib.metadata.metadata = functools.cache(importlib.metadata.metadata)


@pytest.fixture(autouse=True)
def _seeds():
    """Every test starts from the same state of the global generators."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny_causal_lm():
    """
    `make(family, *, attn_implementation="sdpa", dtype=torch.float32, seed=0, **config)`: a new, randomly initialised
    causal language model of one of `TINY_FAMILIES`, without dropout, in evaluation mode.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    def make(family, *, attn_implementation="sdpa", dtype=torch.float32, seed=0, **overrides):
        model_type, own = TINY_FAMILIES[family]
        fields = {key: value for key, value in (_SIZES | own | overrides).items() if value is not None}
        config = AutoConfig.for_model(model_type, **fields)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = AutoModelForCausalLM.from_config(config, attn_implementation=attn_implementation, dtype=dtype)
        return model.eval()

    return make


@pytest.fixture(scope="session")
def real_model():
    """The folder of SmolLM2-135M-Instruct, for tests marked `real_model`, which do not write to it."""
    from .support.real_model import folder

    return folder()
