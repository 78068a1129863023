"""Fixtures of all tests: fixed seeds, a deterministic hypothesis profile, and tiny causal language models."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import settings

settings.register_profile("deterministic", derandomize=True, deadline=None, print_blob=True)
settings.load_profile("deterministic")

_SIZES = {
    "vocab_size": 31,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GROUPED = {"num_key_value_heads": 1}

# Family -> (model type, overrides of `_SIZES`; None removes a field that the family calls by another name).
TINY_FAMILIES = {
    "llama": ("llama", _GROUPED),
    "qwen3": ("qwen3", _GROUPED | {"head_dim": 8}),
    "gemma3": ("gemma3_text", _GROUPED | {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 4}),
    "gpt2": ("gpt2", {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "intermediate_size": None}),
    "opt": ("opt", {"ffn_dim": 32, "word_embed_proj_dim": 16, "dropout": 0.0, "intermediate_size": None}),
    "gpt_neox": ("gpt_neox", {"attention_dropout": 0.0, "hidden_dropout": 0.0}),
    "phi3": ("phi3", _GROUPED),
    "mistral": ("mistral", _GROUPED | {"sliding_window": 4}),
}


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
