"""Loading of tokenizers, with one kind of error for anything that is wrong with them."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase, ProcessorMixin

# What to do with pickled weights where no field allows them.
SAVE_AGAIN = "load the model with Transformers (`use_safetensors=False`) and save it again"


def check_model_name(name: str, tried: bool = False) -> None:
    """
    Refuse a name that can only mean a local folder, if this folder does not exist. The Hub's library would take the
    name for a model on the Hub, and its error would be about the form of the name or about the network. Also refuse
    GGUF files, which have to be converted first.

    Args:
        tried: Whether loading has failed already. Then a name also means a folder if its first part is an existing
            folder.

    Raises:
        ValueError: if there is no such folder, or its weights are a GGUF file.
    """
    path = Path(name)
    is_local = path.is_absolute() or name.startswith((".", "~")) or path.suffix.lower() == ".gguf"
    is_local = is_local or (tried and Path(*path.parts[:1]).is_dir())
    if not name.strip() or (is_local and not path.exists()):
        raise ValueError(f"There is no folder {name!r}: give the folder of a model, or its name on the Hub.")
    if (file := _gguf_alone(path)) is not None:
        raise ValueError(
            f"{file} is a GGUF file: make a model folder of it with `aajr fetch --gguf {file} OUT`, and give that folder."
        )


def _gguf_alone(path: Path) -> Path | None:
    """The GGUF file that a path is, or that a folder holds in place of weights that are loaded here; None if there is none."""
    if path.is_dir():
        if any(file.suffix in (".safetensors", ".bin") for file in path.iterdir()):
            return None
        return min(path.glob("*.gguf"), default=None)
    return path if path.is_file() and path.suffix.lower() == ".gguf" else None


def check_weights(name: str, remedy: str) -> None:
    """
    Refuse a local folder whose weights are pickled, without a copy as safetensors.

    Raises:
        ValueError: if so; the message ends with the `remedy`.
    """
    path = Path(name)
    pickled = min(path.glob("pytorch_model*.bin"), default=None) if path.is_dir() else None
    if pickled is not None and not any(path.glob("*.safetensors")):
        raise ValueError(
            f"The weights in {name} are pickled ({pickled.name}), and reading pickled files can run code, so only "
            f"safetensors are read: if you trust them, {remedy}."
        )


def load_tokenizer(name: str, **kwargs) -> PreTrainedTokenizerBase:
    """
    Load the tokenizer of a folder or a Hub name.

    Raises:
        ValueError: if there is no tokenizer, or it cannot be read.
    """
    check_model_name(name)
    try:
        return AutoTokenizer.from_pretrained(name, **kwargs)
    except Exception as error:  # damaged files can raise any error
        check_model_name(name, tried=True)
        raise ValueError(f"The tokenizer of {name} cannot be loaded: {type(error).__name__}: {error}") from error


def text_tokenizer(processing_class: PreTrainedTokenizerBase | ProcessorMixin) -> PreTrainedTokenizerBase:
    """A trainer's tokenizer: its `processing_class`, or the part of it that reads text."""
    return processing_class.tokenizer if isinstance(processing_class, ProcessorMixin) else processing_class
