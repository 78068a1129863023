"""Options of the commands that read rows with tool calls, and these rows."""

from __future__ import annotations

from typing import Any

from ...training.data.formats.table import FORMATS
from ...training.data.sources import DataArguments, load_data

DATA_OPTIONS = ("dataset_config", "dataset_format", "dataset_split", "skip_invalid_rows")


def add_tool_data(group, split: str) -> None:
    """
    Add the options of [`DATA_OPTIONS`] to a parser or a group of its options. `split` is the split that is read by default,
    for the help text.
    """
    group.add_argument("--dataset_config", metavar="NAME", help="configuration of a dataset on the Hub")
    group.add_argument(
        "--dataset_format", choices=FORMATS, default="auto", help="format of the rows (default: %(default)s)"
    )
    group.add_argument(
        "--dataset_split", metavar="SPLIT", help=f"split of the dataset (default: {split}, or the only split)"
    )
    group.add_argument(
        "--skip_invalid_rows", action="store_true", help="leave out invalid rows, and report their number"
    )


def rows_asked_for(arguments, dataset_name: str, split: str) -> list[dict[str, Any]]:
    """
    Return the rows that the options choose, with `prompt`, `completion`, `tools` and, if known, `accepted`. Without
    `--dataset_split`, read the split `split`, or the only split.

    Raises:
        DataError: if the data cannot be read, or rows are invalid; names the field.
    """
    data = DataArguments(
        dataset_name=dataset_name,
        dataset_format=arguments.dataset_format,
        dataset_config=arguments.dataset_config,
        skip_invalid_rows=arguments.skip_invalid_rows,
    )
    found, name = load_data(data), arguments.dataset_split
    if name is None:
        name = next(iter(found.splits)) if len(found.splits) == 1 else split
    return list(found.read(name, "dataset_split"))
