"""What is read from outside, with one error for all that may be wrong with it."""

from __future__ import annotations

from datasets import Dataset
from transformers import AutoTokenizer, PreTrainedTokenizerBase

_FORMATS = ({"prompt", "completion"}, {"messages"}, {"text"}, {"input_ids"})


def load_tokenizer(name: str, **kwargs) -> PreTrainedTokenizerBase:
    """
    The tokenizer of a folder or a Hub name.

    Raises:
        ValueError: if there is none, or it cannot be read.
    """
    try:
        return AutoTokenizer.from_pretrained(name, **kwargs)
    except Exception as error:  # damaged files raise whatever their parts do
        raise ValueError(f"The tokenizer of {name} cannot be loaded: {type(error).__name__}: {error}") from error


def check_rows(dataset: Dataset, name: str) -> None:
    """
    Refuse data that is none of TRL's formats for fine-tuning.

    Raises:
        ValueError: names the columns, or the first row that is wrong and why.
    """
    if len(dataset) == 0:
        raise ValueError(f"{name} has no rows.")
    columns = next((wanted for wanted in _FORMATS if wanted <= set(dataset.column_names)), None)
    if columns is None:
        raise ValueError(
            f"{name} has the columns {', '.join(dataset.column_names)}: examples need `prompt` and `completion`, "
            "`messages`, or `text`."
        )
    texts = dataset.select_columns(sorted(columns - {"input_ids"}))
    for number in range(len(texts)):
        try:
            row = texts[number]
        except UnicodeDecodeError as error:
            raise ValueError(f"Row {number} of {name} is not UTF-8: {error}") from error
        for column, value in row.items():
            if not _is_text(value):
                raise ValueError(
                    f"Row {number} of {name}: `{column}` must be a text or a list of messages with `role` and `content`."
                )


def _is_text(value: object) -> bool:
    if isinstance(value, list):
        return bool(value) and all(isinstance(m, dict) and isinstance(m.get("role"), str) for m in value)
    return isinstance(value, str)
