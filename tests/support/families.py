"""Model families, and how small each can be."""

from __future__ import annotations

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
