"""GGUF files become model folders that compute what the file's weights compute."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from transformers import AutoModelForCausalLM, AutoTokenizer, logging

from aajr_hf.training.models import gguf
from aajr_hf.training.models.gguf import convert_gguf, find_gguf
from tests.support.gguf_files import TEMPLATE, TOKENS, tiny_llama, write_gguf

IDS = torch.arange(3, 35).reshape(2, 16)


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("kind", [Kind.F32, Kind.F16, Kind.BF16, Kind.Q8_0, Kind.Q4_1], ids=lambda kind: kind.name)
def test_the_folder_computes_what_the_same_weights_compute(tmp_path, kind, tied):
    model = tiny_llama(tied)
    before = logits(model)
    held = write_gguf(tmp_path / "tiny.gguf", model, kind)
    done = convert_gguf(tmp_path / "tiny.gguf", tmp_path / "model")
    model.load_state_dict(held, strict=not tied)
    model.tie_weights()
    # Another type is another model, which the right one must be told from.
    assert kind == Kind.F32 or not torch.allclose(logits(model), before, atol=1e-4)
    converted = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    torch.testing.assert_close(logits(converted), logits(model), rtol=0, atol=1e-6)
    assert done.precision == kind.name and done.parameters == model.num_parameters()
    assert done.has_chat_template and done.left_out == 0
    assert all(p.dtype == torch.float32 for p in converted.parameters())
    assert converted.config.tie_word_embeddings == tied
    assert not hasattr(converted.config, "quantization_config")
    assert converted.generation_config.eos_token_id == 2


def test_the_folder_needs_no_gguf_and_has_no_other_weights(tmp_path):
    write_gguf(tmp_path / "tiny.gguf")
    convert_gguf(tmp_path / "tiny.gguf", tmp_path / "model")
    files = {file.name for file in (tmp_path / "model").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} < files
    assert not [name for name in files if name.endswith((".gguf", ".bin"))]
    assert "gguf" not in (tmp_path / "model" / "config.json").read_text()


def test_the_tokenizer_splits_and_renders_as_the_file_says(tmp_path):
    write_gguf(tmp_path / "tiny.gguf")
    convert_gguf(tmp_path / "tiny.gguf", tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert tokenizer.get_vocab() == {token: i for i, token in enumerate(TOKENS)}
    assert tokenizer.tokenize("hello</s>") == ["hello", "</s>"]
    # The rule of SmolLM: digits are apart, and so both spaces before them are one word. GPT-2's rule gives Ġ Ġ 1.
    assert tokenizer.tokenize("a  12") == ["a", "ĠĠ", "1", "2"]
    assert tokenizer("a").input_ids == [TOKENS.index("a")]
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token) == ("<s>", "</s>", "<unk>")
    assert tokenizer.chat_template == TEMPLATE
    chat = [{"role": "user", "content": "hello"}]
    assert tokenizer.apply_chat_template(chat, tokenize=False) == "user: hello\n"


def test_the_first_token_of_every_text_is_kept(tmp_path):
    write_gguf(tmp_path / "tiny.gguf", begins=True)
    convert_gguf(tmp_path / "tiny.gguf", tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert tokenizer("a").input_ids == [1, TOKENS.index("a")]
    assert len(tokenizer) == len(TOKENS)


def test_what_lies_beside_the_file_is_not_read(tmp_path):
    write_gguf(tmp_path / "tiny.gguf")
    for name in ("config.json", "tokenizer.json", "adapter_config.json", "generation_config.json"):
        (tmp_path / name).write_text('{"model_type": "gpt2"}')
    convert_gguf(tmp_path / "tiny.gguf", tmp_path / "model")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "model").config.model_type == "llama"


def test_what_the_model_has_no_place_for_is_counted(tmp_path):
    write_gguf(tmp_path / "tiny.gguf", template=None, more={"rope_freqs.weight": np.ones(4, np.float32)})
    done = convert_gguf(tmp_path / "tiny.gguf", tmp_path / "model")
    assert done.left_out == 4 and not done.has_chat_template


def cut(size):
    def change(file):
        content = file.read_bytes()
        file.write_bytes(content[: int(size * len(content)) if size < 1 else -1])

    return change


def unknown_type(file):
    content = file.read_bytes()
    # The name, one dimension, its size, and then the type.
    at = content.index(b"output_norm.weight") + len(b"output_norm.weight") + 4 + 8
    file.write_bytes(content[:at] + (9999).to_bytes(4, "little") + content[at + 4 :])


def version_1(file):
    content = file.read_bytes()
    file.write_bytes(content[:4] + (1).to_bytes(4, "little") + content[8:])


DAMAGED = {
    "text": (lambda file: file.write_text("These are no weights."), "not a GGUF file: give one"),
    "empty": (lambda file: file.write_bytes(b""), "not a GGUF file"),
    "magic": (lambda file: file.write_bytes(b"GGUF"), "cut off or damaged .*: download it again"),
    "settings": (cut(0.005), "cut off or damaged"),
    "tokens": (cut(0.02), "cut off or damaged"),
    "tensors": (cut(0.5), "cut off or damaged"),
    "last byte": (cut(1), "cut off or damaged"),
    "version": (version_1, "version 1"),
    "unknown type": (unknown_type, "quantisation that is unknown .*9999.*: give the same model with another one"),
}


@pytest.mark.parametrize(("change", "message"), DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_file_is_refused(tmp_path, change, message):
    write_gguf(tmp_path / "tiny.gguf")
    change(tmp_path / "tiny.gguf")
    refused(tmp_path, message)


def refused(tmp_path, message):
    before = logging.get_verbosity()
    with pytest.raises(ValueError, match=message) as error:
        convert_gguf(tmp_path / "tiny.gguf", tmp_path / "model")
    assert str(tmp_path / "tiny.gguf") in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "model").exists() and logging.get_verbosity() == before


UNREADABLE = {
    "architecture": ({"architecture": "mamba9"}, "architecture is mamba9.*: give a model of an architecture"),
    "encoder": ({"architecture": "t5encoder"}, "architecture is t5encoder"),
    "no tokenizer": ({"tokenizer": False}, "holds no tokenizer: give a GGUF file with one"),
    "numbers": (
        {"more": {"table": np.ones((2, 32), np.float64)}},
        "quantisation F64, which cannot be read: give the same model with another one",
    ),
    "weight": (
        {"without": "blk.0.ffn_up.weight"},
        r"lacks weights of the model \(1: .*up_proj.*\): give a whole file",
    ),
}


@pytest.mark.parametrize(("how", "message"), UNREADABLE.values(), ids=UNREADABLE.keys())
def test_what_transformers_cannot_read_is_refused(tmp_path, how, message):
    write_gguf(tmp_path / "tiny.gguf", **how)
    refused(tmp_path, message)


def test_a_model_that_does_not_fit_is_refused_before_it_is_loaded(tmp_path, monkeypatch):
    write_gguf(tmp_path / "tiny.gguf")
    needed = 2 * 4 * tiny_llama().num_parameters()
    memory = SimpleNamespace(available=needed - 1)
    monkeypatch.setattr(gguf.psutil, "virtual_memory", lambda: memory)
    with monkeypatch.context() as unloaded:
        unloaded.setattr(gguf, "_load_model", lambda *_: pytest.fail("it is loaded"))
        refused(tmp_path, "GiB of memory .* are free: close other programs")
    memory.available = needed
    convert_gguf(tmp_path / "tiny.gguf", tmp_path / "model")


def test_without_the_package_it_is_named(tmp_path, monkeypatch):
    write_gguf(tmp_path / "tiny.gguf")
    monkeypatch.setattr(gguf, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install -c constraints.txt -e \"\.\[gguf\]\""):
        convert_gguf(tmp_path / "tiny.gguf", tmp_path / "model")


def test_a_folder_means_its_only_file(tmp_path):
    (tmp_path / "README.md").touch()
    with pytest.raises(ValueError, match="exactly one GGUF file; it holds none"):
        find_gguf(tmp_path)
    (tmp_path / "a.gguf").touch()
    assert find_gguf(tmp_path) == find_gguf(tmp_path / "a.gguf") == tmp_path / "a.gguf"
    (tmp_path / "b.gguf").touch()
    with pytest.raises(ValueError, match="it holds a.gguf, b.gguf: give the file"):
        find_gguf(tmp_path)
    with pytest.raises(ValueError, match="there is no file .*c.gguf"):
        find_gguf(tmp_path / "c.gguf")
