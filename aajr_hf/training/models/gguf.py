"""GGUF files, the format of llama.cpp, made into ordinary model folders with weights in float32."""

from __future__ import annotations

import contextlib
import copy
import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import torch
from tokenizers import Tokenizer, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    logging,
)

from ..._errors import one_line

if TYPE_CHECKING:
    from gguf import GGUFReader

_MAGIC = b"GGUF"
_GIB = 2**30
_OTHER = "give the same model with another one, for example Q8_0."


@dataclass(frozen=True)
class Conversion:
    """
    What became of a GGUF file.

    Attributes:
        parameters: Number of the model's parameters.
        precision: Type of most weights in the file, for example Q4_1; the folder's weights are these, in float32.
        has_chat_template: Whether the tokenizer can render chats.
        left_out: How many of the file's numbers the model has no place for. If there are any, Transformers knows the
            architecture only in part, and the model may answer differently from the file under llama.cpp.
    """

    parameters: int
    precision: str
    has_chat_template: bool
    left_out: int


def find_gguf(path: Path) -> Path:
    """
    The GGUF file that a path means.

    Args:
        path: The file itself, or a folder with one such file.

    Returns:
        The file.

    Raises:
        ValueError: if there is no such file, or the folder has several.
    """
    if not path.is_dir():
        if not path.is_file():
            raise ValueError(f"there is no file {path}: give a GGUF file, or a folder with one.")
        return path
    files = sorted(file for file in path.glob("*.gguf") if file.is_file())
    if len(files) != 1:
        held = ", ".join(file.name for file in files[:5]) if files else "none"
        raise ValueError(f"{path} must hold exactly one GGUF file; it holds {held}: give the file.")
    return files[0]


def check_gguf_package() -> None:
    """
    Refuse to read GGUF files without the package for it.

    Raises:
        ImportError: says how to install it.
    """
    if find_spec("gguf") is None:
        raise ImportError('GGUF files need the package gguf: run pip install -c constraints.txt -e ".[gguf]"')


def convert_gguf(file: Path, output: Path) -> Conversion:
    """
    Write a GGUF file's model as a folder that Transformers loads without the package gguf: configuration, weights in
    float32 as safetensors, tokenizer and chat template.

    Args:
        file: The GGUF file.
        output: The folder to write.

    Returns:
        What became of the file.

    Raises:
        ImportError: if the package gguf is not installed.
        ValueError: if the file is no GGUF file, is cut off or damaged, does not fit into the memory, or holds
            something that Transformers cannot read. Nothing is written then.
    """
    check_gguf_package()
    header = _read_header(file)
    _check_types(file, header)
    numbers = sum(int(tensor.n_elements) for tensor in header.tensors)
    check_memory(file, 2 * numbers)  # at the peak there are two copies
    with _quiet():
        tokenizer = _load_tokenizer(file, header)
        model = _load_model(file, header)
        parameters = model.num_parameters()
        model.save_pretrained(output)
        tokenizer.save_pretrained(output)
    sizes = Counter[str]()
    for tensor in header.tensors:
        sizes[tensor.tensor_type.name] += int(tensor.n_elements)
    return Conversion(
        parameters, sizes.most_common(1)[0][0], tokenizer.chat_template is not None, max(numbers - parameters, 0)
    )


def _read_header(file: Path) -> GGUFReader:
    """What the file says of itself and of its tensors; the tensors themselves stay on disk."""
    from gguf import GGUFReader

    with file.open("rb") as opened:
        if opened.read(len(_MAGIC)) != _MAGIC:
            raise ValueError(f"{file} is not a GGUF file: give one.")
    try:
        return GGUFReader(file)
    except Exception as error:  # a file that ends early, or has wrong bytes, can raise any error
        if "GGMLQuantizationType" in str(error):
            raise ValueError(
                f"{file} has a quantisation that is unknown here ({one_line(error)}): {_OTHER}"
            ) from error
        raise ValueError(f"{file} is cut off or damaged ({one_line(error)}): download it again.") from error


def _check_types(file: Path, header: GGUFReader) -> None:
    """Refuse quantisations that the package gguf only knows by name, and files without tensors."""
    from gguf import GGML_QUANT_SIZES, dequantize

    if not header.tensors:
        raise ValueError(f"{file} holds no weights: give a GGUF file of a whole model.")
    for kind in sorted({tensor.tensor_type for tensor in header.tensors}):
        _, block_bytes = GGML_QUANT_SIZES[kind]
        try:
            dequantize(np.zeros((1, block_bytes), np.uint8), kind)
        except NotImplementedError as error:
            raise ValueError(f"{file} has the quantisation {kind.name}, which cannot be read: {_OTHER}") from error


def check_memory(model: Path | str, numbers: int) -> None:
    """
    Refuse a model that does not fit into the memory.

    Args:
        model: What the error calls the model.
        numbers: How many numbers in float32 are in memory at once.

    Raises:
        ValueError: if fewer bytes are free.
    """
    needed, free = 4 * numbers, psutil.virtual_memory().available
    if needed > free:
        raise ValueError(
            f"{model} needs {needed / _GIB:.1f} GiB of memory to be written in float32, and {free / _GIB:.1f} GiB are "
            "free: close other programs, or give a smaller model."
        )


def _load_tokenizer(file: Path, header: GGUFReader) -> PreTrainedTokenizerBase:
    if _value(header, "tokenizer.ggml.tokens") is None:
        raise ValueError(f"{file} holds no tokenizer: give a GGUF file with one.")
    with _readable(file, header, "tokenizer") as (folder, name):
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    for flag in ("add_bos_token", "add_eos_token"):  # before 5.23, Transformers ignores them
        if _value(header, f"tokenizer.ggml.{flag}"):
            setattr(tokenizer, flag, True)
    if _value(header, "tokenizer.ggml.pre") == "smollm":
        # Transformers takes GPT-2's rule. SmolLM's also splits numbers into digits, which matters after several spaces.
        digits, words = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, words])
    return _without_additions(tokenizer, len(header.fields["tokenizer.ggml.tokens"].data))


def _without_additions(tokenizer: PreTrainedTokenizerBase, size: int) -> PreTrainedTokenizerBase:
    """
    The tokenizer with the file's own tokens only. Transformers adds GPT-2's `<|endoftext|>` where a file has no such
    token, and the model has no embedding for it.
    """
    if len(tokenizer) <= size:
        return tokenizer
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["id"] < size]
    backend = Tokenizer.from_str(json.dumps(content))
    special = {
        name: token for name, token in tokenizer.special_tokens_map.items() if backend.token_to_id(token) is not None
    }
    return PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=tokenizer.chat_template, **special)


def _load_model(file: Path, header: GGUFReader) -> PreTrainedModel:
    """The model in float32, as if it had never been quantised."""
    with _readable(file, header, "model") as (folder, name):
        read, report = AutoModelForCausalLM.from_pretrained(
            folder, gguf_file=name, dtype=torch.float32, output_loading_info=True
        )
    # Transformers fills them with random numbers.
    absent = sorted({*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])})
    if absent:
        shown = ", ".join(absent[:3]) + (", ..." if len(absent) > 3 else "")
        raise ValueError(f"{file} lacks weights of the model ({len(absent)}: {shown}): give a whole file.")
    config = copy.deepcopy(read.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    # A model that was read from a GGUF file counts as quantised, so another one takes over its weights.
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(read.state_dict(), assign=True)
    model.tie_weights()
    model.generation_config = read.generation_config
    return model


@contextlib.contextmanager
def _readable(file: Path, header: GGUFReader, what: str) -> Iterator[tuple[str, str]]:
    """
    The arguments by which Transformers finds the file, without anything that lies beside it; its errors are turned
    into ones that name the file.
    """
    with tempfile.TemporaryDirectory() as empty:
        try:
            yield empty, str(file.absolute())
        except Exception as error:  # what Transformers does not know can raise any error
            architecture = _value(header, "general.architecture")
            raise ValueError(
                f"Transformers cannot read the {what} of {file}, whose architecture is {architecture} "
                f"({type(error).__name__}: {one_line(error)}): give a model of an architecture that it knows, such as llama."
            ) from error


def _value(header: GGUFReader, key: str) -> Any:
    """A setting of the file; None if it has no such setting."""
    field = header.get_field(key)
    return None if field is None else field.contents()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without Transformers' warnings, for example about weights that are no longer quantised."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
