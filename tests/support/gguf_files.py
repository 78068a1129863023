"""Tiny GGUF files, as llama.cpp lays them out, and wheels that contain one."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter, dequantize, quantize
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

SPECIAL = ["<unk>", "<s>", "</s>"]
# The tokens of a byte-level vocabulary, in which Ġ is a space, and Ċ the end of a line.
TOKENS = [*SPECIAL, *"abcdefghijklmnopqrstuvwxyz0123456789.,:", "Ġ", "Ċ", "ĠĠ", "he", "ll", "hell", "hello"]
MERGES = ["Ġ Ġ", "h e", "l l", "he ll", "hell o"]
TEMPLATE = "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\n' }}{% endfor %}"
HEADS, KEY_HEADS = 4, 2
# Rows of 32 numbers, which is the block of most quantisations.
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def tiny_llama(tied: bool = True) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=len(TOKENS),
        num_attention_heads=HEADS,
        num_key_value_heads=KEY_HEADS,
        max_position_embeddings=64,
        rope_theta=5000.0,
        rms_norm_eps=2**-16,  # exact in float32, the type of the file's numbers
        initializer_range=0.3,
        tie_word_embeddings=tied,
        bos_token_id=1,
        eos_token_id=2,
        **SIZES,
    )
    return LlamaForCausalLM(config).eval()


def _name(name: str) -> str:
    """llama.cpp's name of a parameter."""
    name = name.removesuffix(".weight")
    if not name.startswith("model.layers."):
        return f"{_NAMES[name]}.weight"
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{_NAMES[rest]}.weight"


def _interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of queries or keys in llama.cpp's order: it rotates neighbours, Transformers the two halves of a head."""
    return weight.reshape(heads, 2, len(weight) // heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(
    file: Path,
    model: LlamaForCausalLM | None = None,
    kind: GGMLQuantizationType = GGMLQuantizationType.F32,
    *,
    architecture: str = "llama",
    template: str | None = TEMPLATE,
    tokenizer: bool = True,
    begins: bool = False,
    without: str | None = None,
    more: dict[str, np.ndarray] | None = None,
) -> dict[str, Tensor]:
    """
    Write a model with its tokenizer.

    Args:
        kind: The type of the matrices.
        tokenizer: Whether the file has one.
        begins: Whether the tokenizer begins every text with its first token.
        without: llama.cpp's name of a tensor that the file is to lack.
        more: Further tensors by their names.

    Returns:
        The weights that the file holds, in float32, by Transformers' names.
    """
    model = tiny_llama() if model is None else model
    writer = GGUFWriter(file, architecture)
    _write_settings(writer, model.config)
    if tokenizer:
        _write_tokenizer(writer, template, begins)
    held: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        weight = parameter.detach().numpy()
        own = kind if weight.ndim == 2 else GGMLQuantizationType.F32
        packed = quantize(weight, own)
        held[name] = torch.from_numpy(np.array(dequantize(packed, own).reshape(weight.shape)))
        heads = {"q_proj": HEADS, "k_proj": KEY_HEADS}.get(name.split(".")[-2])
        # Rows move as wholes, so they may be moved after they are packed.
        packed = _interleaved(packed, heads) if heads else packed
        if _name(name) != without:
            writer.add_tensor(_name(name), packed, raw_dtype=own)
    for name, tensor in (more or {}).items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return held


def _write_settings(writer: GGUFWriter, config: LlamaConfig) -> None:
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)


def _write_tokenizer(writer: GGUFWriter, template: str | None, begins: bool) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3 if token in SPECIAL else 1 for token in TOKENS])
    writer.add_token_merges(MERGES)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(begins)
    if template is not None:
        writer.add_chat_template(template)


def write_wheel(folder: Path, requirement: str, files: dict[str, bytes]) -> Path:
    """A wheel that pip can download, with these files in it."""
    name, version = requirement.split("==")
    known_as = name.replace("-", "_")
    information = f"{known_as}-{version}.dist-info"
    wheel = folder / f"{known_as}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"{information}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(
            f"{information}/WHEEL", "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{information}/RECORD", "")
        for path, content in files.items():
            archive.writestr(path, content)
    return wheel
