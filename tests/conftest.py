"""Fixtures of all tests: fixed seeds, a deterministic hypothesis profile, tiny causal language models, and a real one."""

from __future__ import annotations

import functools
import gc
import importlib.metadata
import random

import accelerate.utils.memory
import datasets
import numpy as np
import pytest
import torch
from hypothesis import settings

from .support.families import _SIZES, TINY_FAMILIES

settings.register_profile("deterministic", derandomize=True, deadline=None, print_blob=True)
settings.load_profile("deterministic")


def pytest_collection_finish():
    """
    Leave out what costs each training of these tests a share of its time and shows nothing. A collection of garbage takes
    half a second with the objects of torch, Transformers and TRL: what the imports made stays out of it.
    """
    gc.collect()
    gc.freeze()
    # Accelerate asks for the same packages at each training, and parses their metadata each time.
    importlib.metadata.metadata = functools.cache(importlib.metadata.metadata)
    # It collects again at the start of each training, for the sake of a device's memory.
    if not torch.cuda.is_available():
        accelerate.utils.memory.clear_device_cache = lambda garbage_collection=False: None
    # Datasets names each step of a preparation by a hash of the code and of all that the code refers to, under which it
    # could be found again on disk. Rows in memory are never found again: a random name serves, at a tenth of the time.
    for module in (datasets.arrow_dataset, datasets.fingerprint):
        module.update_fingerprint = lambda *_: datasets.fingerprint.generate_random_fingerprint()
    datasets.arrow_dataset.generate_fingerprint = lambda _: datasets.fingerprint.generate_random_fingerprint()


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
