"""The check that a chat template marks what the assistant says, before TRL needs the marks."""

from __future__ import annotations

import copy
from pathlib import Path

from transformers import PreTrainedTokenizerBase, ProcessorMixin
from trl import SFTConfig, get_training_chat_template

from .loading import load_tokenizer, text_tokenizer
from .saved_adapters import tokenizer_place


def check_generation_marks(args: SFTConfig, name: str, given: PreTrainedTokenizerBase | ProcessorMixin | None) -> None:
    """
    With `assistant_only_loss`, refuse a chat template without marks of generation for which TRL has no form with marks.

    Args:
        name: The model, whose tokenizer is loaded if none is `given`.

    Raises:
        ValueError: if there are no marks, or the tokenizer of `chat_template_path` cannot be loaded; names the field.
    """
    path = args.chat_template_path
    is_file = path is not None and Path(path).is_file()
    try:
        source = None if path is None or is_file else load_tokenizer(path)
    except ValueError as error:
        raise ValueError(f"`chat_template_path`: {error}") from error
    if not args.assistant_only_loss or (given is None and not name):
        return
    if source is None and given is None:
        place, revision = tokenizer_place(name, (args.model_init_kwargs or {}).get("revision"))
        source = load_tokenizer(place, revision=revision)
    tokenizer = copy.copy(source or text_tokenizer(given))
    if is_file:
        tokenizer.chat_template = Path(path).read_text(encoding="utf-8")
    if tokenizer.chat_template is None:
        return  # the data tell whether one is needed
    try:
        get_training_chat_template(tokenizer)
    except ValueError as error:
        raise ValueError(
            "`assistant_only_loss` needs a chat template that marks what the assistant says ({% generation %}), and TRL "
            "knows no such form of this one: set `chat_template_path` to a template with the marks, or give rows with "
            "`prompt` and `completion` and set `assistant_only_loss` to false."
        ) from error
