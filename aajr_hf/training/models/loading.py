"""What is read from outside, with one error for all that may be wrong with it."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase, ProcessorMixin


def check_model_name(name: str, tried: bool = False) -> None:
    """
    Refuse what can only be a folder's name where there is no such folder: the Hub's library would take it for one of its own,
    and speak of the form of those or of the network.

    Args:
        tried: Whether it could not be loaded. Then it is a folder's, too, if its first part is a folder here.

    Raises:
        ValueError: says that there is no such folder.
    """
    path = Path(name)
    is_local = path.is_absolute() or name.startswith((".", "~")) or (tried and Path(*path.parts[:1]).is_dir())
    if not name.strip() or (is_local and not path.exists()):
        raise ValueError(f"There is no folder {name!r}: give the folder of a model, or its name on the Hub.")


def load_tokenizer(name: str, **kwargs) -> PreTrainedTokenizerBase:
    """
    The tokenizer of a folder or a Hub name.

    Raises:
        ValueError: if there is none, or it cannot be read.
    """
    check_model_name(name)
    try:
        return AutoTokenizer.from_pretrained(name, **kwargs)
    except Exception as error:  # damaged files raise whatever their parts do
        check_model_name(name, tried=True)
        raise ValueError(f"The tokenizer of {name} cannot be loaded: {type(error).__name__}: {error}") from error


def text_tokenizer(processing_class: PreTrainedTokenizerBase | ProcessorMixin) -> PreTrainedTokenizerBase:
    """A trainer's tokenizer: its `processing_class`, or the part of it that reads text."""
    return processing_class.tokenizer if isinstance(processing_class, ProcessorMixin) else processing_class
