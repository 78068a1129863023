"""What is read from outside, with one error for all that may be wrong with it."""

from __future__ import annotations

from collections.abc import Iterator

from datasets import Dataset
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from trl import maybe_convert_to_chatml
from trl.data_utils import is_conversational_from_value

from .files import Item, RowCount, dataset_of, sound_rows
from .formats import in_trl_format
from .rows import RowError


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


def check_rows(
    dataset: Dataset, name: str, dataset_format: str = "trl", text_field: str = "text"
) -> tuple[Dataset, RowCount]:
    """
    The rows of a dataset that can be trained on, in one of TRL's formats for fine-tuning, and how many cannot.

    Raises:
        ValueError: names the columns, where they are those of no format.
    """
    if dataset_format != "trl":
        return dataset_of(lambda: in_trl_format(_items(dataset, name), dataset_format), text_field)
    if len(dataset) > 0 and is_conversational_from_value(dataset[0]):
        given = "conversations" if "conversations" in dataset.column_names else None
        dataset = dataset.map(maybe_convert_to_chatml, remove_columns=given, desc="Converting conversations")
    columns = set(dataset.column_names)
    if "input_ids" in columns:  # Arrow has checked them
        return dataset, RowCount(sound=len(dataset))
    formats = ({"prompt", "completion"}, {"messages"}, {text_field})
    if not any(wanted <= columns for wanted in formats):
        raise ValueError(
            f"{name} has the columns {', '.join(dataset.column_names)}: examples need `prompt` and `completion`, "
            f"`messages`, `conversations`, or `{text_field}`"
        )
    texts = dataset.select_columns(sorted(columns & {*set().union(*formats), "tools"}))
    count = RowCount()
    kept = [number for number, _ in sound_rows(_items(texts, name), count, text_field)]
    return dataset.select(kept) if count.malformed else dataset, count


def _items(dataset: Dataset, name: str) -> Iterator[Item]:
    for number in range(len(dataset)):
        place = f"row {number} of {name}"
        try:
            yield place, dataset[number]
        except UnicodeDecodeError as error:
            yield place, RowError(f"is not UTF-8: {error.reason} at byte {error.start}")
