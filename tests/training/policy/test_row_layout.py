"""Models that treat an example differently behind padding, or behind another document, are found out."""

from __future__ import annotations

import torch
from transformers import BloomConfig, BloomForCausalLM, GPT2Config, GPT2LMHeadModel, OPTConfig, OPTForCausalLM

from aajr_hf.training.policy.row_layout import packing_failure, position_failure
from tests.support.tiny import tiny_model

SMALL = {"vocab_size": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def test_models_that_mix_documents_are_found_out():
    torch.manual_seed(0)
    gpt2 = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, **SMALL))
    assert packing_failure(tiny_model()) is packing_failure(gpt2) is None
    # ALiBi has no position that could begin anew; OPT counts its positions itself.
    bloom = BloomForCausalLM(BloomConfig(hidden_size=16, n_layer=1, n_head=2, **SMALL))
    assert "the document before it" in packing_failure(bloom)
    assert "the document before it" in packing_failure(bloom.bfloat16())  # less than its precision, and yet a leak
    assert packing_failure(tiny_model(torch.bfloat16)) is None
    opt = OPTForCausalLM(OPTConfig(hidden_size=16, ffn_dim=16, num_hidden_layers=1, num_attention_heads=2, **SMALL))
    assert packing_failure(opt)
    assert gpt2.training and not bloom.eval().training


def test_models_that_count_positions_from_the_padding_on_are_found_out():
    gpt2 = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, **SMALL))
    assert "padding before a prompt changes its logits" in position_failure(gpt2)
    assert position_failure(tiny_model()) is None is position_failure(tiny_model(torch.bfloat16))
