"""The data that a recipe names: examples generated from a world, a dataset on the Hub, or files."""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..._errors import one_line
from ...environments import WORLDS
from .formats.bfcl import bfcl_files, bfcl_rows, has_answers
from .formats.table import FORMATS, in_trl_format
from .local_files import kind_of_file, local_splits, saved_splits
from .system_prompts import read_system_prompt, with_system_prompt

if TYPE_CHECKING:
    from datasets import Dataset

    from .row_datasets import RowCount

logger = logging.getLogger(__name__)


class DataError(ValueError):
    """Data that cannot be loaded, or rows that cannot be trained on: the message names the field and the remedy."""


@dataclass
class DataArguments:
    """The examples to train or evaluate on: generated from a world, or rows of a dataset."""

    environment: str | None = field(
        default=None, metadata={"help": "World that generates the examples.", "choices": list(WORLDS)}
    )
    environment_examples: int = field(default=8000, metadata={"help": "Number of examples that the world generates."})
    environment_seed: int = field(default=0, metadata={"help": "Seed of the generated examples."})
    system_prompt: str | None = field(
        default=None,
        metadata={
            "help": "Text file (UTF-8) with a system prompt, put before every observation of `environment`. Set `perturbed_tokens` "
            "to observation, so that the adversary does not perturb the system prompt itself."
        },
    )
    dataset_name: str | None = field(
        default=None,
        metadata={
            "help": "Dataset to use instead of `environment`: a name on the Hub, a folder, or a .json, .jsonl, .ndjson, .csv or .parquet file."
        },
    )
    dataset_format: str = field(
        default="auto",
        metadata={
            "help": "Format of the rows. 'auto': recognise it by the columns. Otherwise read the rows as 'trl' (text, prompt and "
            "completion, messages), 'openai' (fine-tuning files), 'sharegpt' (conversations with the keys `from` and `value`), "
            "'toolbench' (the same), 'xlam' (query, answers, tools), 'alpaca' (instruction, input, output) or 'bfcl' (files of the "
            "Berkeley Function Calling Leaderboard, X.json with X.answers.json or possible_answer/X.json).",
            "choices": list(FORMATS),
        },
    )
    skip_invalid_rows: bool = field(
        default=False,
        metadata={"help": "Leave out invalid rows and report their number, instead of stopping."},
    )
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of a dataset on the Hub."})
    dataset_train_split: str = field(default="train", metadata={"help": "Split to train on."})
    dataset_test_split: str = field(
        default="test", metadata={"help": "Split for evaluations during training (`eval_strategy`)."}
    )


@dataclass
class Data:
    """
    The splits of a run's data; each is read on request.

    Attributes:
        name: The name of the data in the recipe.
        splits: For each split, a function that reads it and returns its rows and their numbers.
        skip_invalid_rows: Whether invalid rows are left out; otherwise they are an error.
        skipped: For each split that was read, the number of rows that were left out.
    """

    name: str
    splits: dict[str, Callable[[], tuple[Dataset, RowCount]]]
    skip_invalid_rows: bool = False
    skipped: dict[str, int] = field(default_factory=dict)

    def read(self, split: str, field_name: str) -> Dataset:
        """
        Read the valid rows of one split.

        Args:
            field_name: The field that names the split, for error messages.

        Raises:
            DataError: if there is no such split (the message names the field), if it cannot be read, if it has invalid
                rows that may not be skipped, or if it has no valid rows.
        """
        if split not in self.splits:
            raise DataError(f"`{field_name}`: the dataset has no split {split!r}, only {', '.join(self.splits)}.")
        try:
            dataset, count = self.splits[split]()
        except (ValueError, OSError) as error:
            raise DataError(f"`dataset_name`: {one_line(error).removesuffix('.')}.") from error
        if count.invalid and not self.skip_invalid_rows:
            raise DataError(
                f"`dataset_name`: {count}. Correct them, or set `skip_invalid_rows` to true to leave them out."
            )
        if count.invalid:
            logger.warning(f"Invalid rows are skipped. {count}.")
        if count.valid == 0:
            none = "no rows" if count.invalid == 0 else f"no row that can be trained on: {count}"
            raise DataError(f"`dataset_name`: the split {split!r} of {self.name} has {none}.")
        if count.unread:
            columns = f"`{'`, `'.join(count.unread)}`"
            first = next(iter(count.unread.values()))
            logger.warning(f"Columns that nothing uses are left out: {columns} (first in {first}).")
        count.warn_unread_fields()
        self.skipped[split] = count.invalid
        return dataset


def load_rows(name: str, split: str = "train", *, text_field: str = "text", **options) -> Dataset:
    """
    Load and check the rows of a dataset for the trainers: `load_rows("calls.jsonl", dataset_format="toolbench")`.

    Args:
        name: A dataset on the Hub, a folder, or a file (.json, .jsonl, .ndjson, .csv or .parquet).
        split: Name of the split. A file has one split, with any name.
        text_field: Column of rows that are plain text.
        options: Further fields of [`DataArguments`], such as `dataset_format` and `skip_invalid_rows`.

    Raises:
        DataError: if the data cannot be loaded, or if rows are invalid and `skip_invalid_rows` is not true; the
            message names the field.
    """
    data = load_data(DataArguments(dataset_name=name, dataset_train_split=split, **options), text_field)
    return data.read(split, "split")


def load_data(arguments: DataArguments, text_field: str = "text", variants: int = 0) -> Data:
    """
    Load the generated examples of a world, or a dataset from the Hub or from files.

    Args:
        text_field: Column of rows that are plain text.
        variants: Number of variants of each example of a world ([`expert_rows`]).

    Raises:
        DataError: if the data cannot be loaded.
    """
    from .exact_json import use_exact_json

    if (arguments.environment is None) == (arguments.dataset_name is None):
        raise DataError("Give either `environment` or `dataset_name`.")
    if arguments.environment is not None:
        for name in ("dataset_format", "skip_invalid_rows"):
            if getattr(arguments, name) != type(arguments).__dataclass_fields__[name].default:
                raise DataError(
                    f"`{name}` works only with `dataset_name`, but `environment` is given: unset `{name}`."
                )
        return Data(arguments.environment, _of_world(arguments, system_prompt_of(arguments), variants))
    if arguments.system_prompt:
        raise DataError(
            "`system_prompt` works only with `environment`, because the rows of a dataset have their own: unset it."
        )
    if not arguments.dataset_name.strip():
        raise DataError("`dataset_name` is empty: set it to a dataset on the Hub, a folder or a file.")
    path, split = Path(arguments.dataset_name), arguments.dataset_train_split
    use_exact_json()
    try:
        saved = saved_splits(path, split)
        if arguments.dataset_config and (arguments.dataset_format == "bfcl" or path.is_file() or saved):
            raise DataError(
                f"`dataset_config` works only with datasets on the Hub, but {arguments.dataset_name} is local: unset "
                'it (`--dataset_config ""` if a recipe sets it).'
            )
        if arguments.dataset_format == "bfcl" or arguments.dataset_format == "auto" and has_answers(path):
            splits = {split: _of_bfcl(path)}
        elif saved is None and (local := local_splits(path, split, arguments.dataset_config or None)) is not None:
            splits = {name: _of_files(name, files, arguments, text_field) for name, files in local.items()}
        else:
            datasets = _datasets(arguments) if saved is None else saved
            splits = {name: _of_dataset(read, name, arguments, text_field) for name, read in datasets.items()}
    except DataError:
        raise
    except ValueError as error:
        raise DataError(f"`dataset_name`: {one_line(error).removesuffix('.')}.") from error
    except Exception as error:  # the library has errors of many kinds for what it cannot read
        reason = one_line(error.__cause__ or error)
        raise DataError(f"`dataset_name`: {arguments.dataset_name} cannot be loaded: {reason}") from error
    return Data(arguments.dataset_name, splits, arguments.skip_invalid_rows)


def system_prompt_of(arguments: DataArguments) -> str | None:
    """
    Return the text of the system prompt, or None.

    Raises:
        DataError: if its file cannot be used.
    """
    try:
        return read_system_prompt(arguments.system_prompt) if arguments.system_prompt else None
    except ValueError as error:
        raise DataError(f"`system_prompt`: {error}") from error


def _of_world(
    arguments: DataArguments, system_prompt: str | None, variants: int
) -> dict[str, Callable[[], tuple[Dataset, RowCount]]]:
    from datasets import Dataset

    from ...environments import expert_rows
    from .row_datasets import RowCount

    def generated(examples: int, seed: int):
        rows = expert_rows(arguments.environment, examples, seed=seed, variants=variants)
        dataset = Dataset.from_list(with_system_prompt(rows, system_prompt))
        return dataset, RowCount(valid=len(dataset))

    examples, seed = arguments.environment_examples, arguments.environment_seed
    # The seed of the test split is far from seeds that count up from 0.
    return {
        "train": lambda: generated(examples, seed),
        "test": lambda: generated(max(examples // 20, 1), seed + 10**6),
    }


def _of_bfcl(path: Path) -> Callable[[], tuple[Dataset, RowCount]]:
    files = bfcl_files(path)
    return _read(lambda unread: itertools.chain.from_iterable(bfcl_rows(file, unread) for file in files))


def _of_files(split: str, files: list[Path], arguments: DataArguments, text_field: str):
    from .reading.csv_files import csv_rows
    from .reading.json_files import json_rows

    if kind_of_file(files[0]) == "parquet":
        return _of_dataset(_parquet(arguments.dataset_name, split, files), split, arguments, text_field)

    def rows(unread: dict[str, str]):
        for file in files:
            found = csv_rows(file) if kind_of_file(file) == "csv" else json_rows(file, unread)
            yield from in_trl_format(found, arguments.dataset_format, text_field, unread)

    return _read(rows, text_field)


def _read(rows: Callable[[dict[str, str]], Iterable], text_field: str = "text"):
    """A function that reads the rows; `rows` receives a dictionary for the columns that nothing reads."""

    def load() -> tuple[Dataset, RowCount]:
        from .row_datasets import dataset_of

        unread: dict[str, str] = {}
        dataset, count = dataset_of(lambda: rows(unread), text_field)
        count.unread = unread
        return dataset, count

    return load


def _of_dataset(read: Callable[[], Dataset], split: str, arguments: DataArguments, text_field: str):
    from .hub_rows import check_rows

    return lambda: check_rows(read(), f"the split {split!r}", arguments.dataset_format, text_field)


def _datasets(arguments: DataArguments) -> dict[str, Callable[[], Dataset]]:
    """
    A function for each split of a dataset that reads this split. The datasets library would load all splits to read
    one. If the splits are separate Parquet files, as in most datasets on the Hub, only the splits that are read are
    loaded.
    """
    from datasets import load_dataset, load_dataset_builder

    path, config = arguments.dataset_name, arguments.dataset_config or None
    builder = load_dataset_builder(path, name=config)
    files = builder.config.data_files if builder.name == "parquet" else None
    if not files:
        loaded = load_dataset(path, name=config)
        return {split: functools.partial(loaded.__getitem__, split) for split in loaded}
    return {str(split): _parquet(path, str(split), listed) for split, listed in files.items()}


def _parquet(name: str, split: str, files: Iterable[str | Path]) -> Callable[[], Dataset]:
    from datasets import load_dataset

    def load() -> Dataset:
        try:
            return load_dataset("parquet", data_files={split: list(map(str, files))}, split=split)
        except Exception as error:  # the library has errors of many kinds for what it cannot read
            reason = one_line(error.__cause__ or error)
            raise ValueError(f"the split {split!r} of {name} cannot be loaded: {reason}") from error

    return load
