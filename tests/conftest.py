"""Fixtures of all tests: fixed seeds, a deterministic hypothesis profile, tiny causal language models, and a real one."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import settings

from .support.families import _SIZES, TINY_FAMILIES
from .support.quick import leave_out_what_shows_nothing

settings.register_profile("deterministic", derandomize=True, deadline=None, print_blob=True)
settings.load_profile("deterministic")


def pytest_collection_finish():
    leave_out_what_shows_nothing()


@pytest.fixture(autouse=True)
def _seeds():
    """Every test starts from the same state of the global generators."""
    random.seed(0)
    np.random.seed(0)
    torch.default_generator.manual_seed(0)
    torch.cuda.manual_seed_all(0) if torch.cuda.is_available() else None


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
