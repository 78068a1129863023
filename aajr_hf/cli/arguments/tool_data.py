"""Options of the commands that read rows with tool calls, and these rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...training.config.recipe import RECIPE, recipe_in
from ...training.data.formats.table import FORMATS
from ...training.data.sources import DataArguments, load_data
from ..common.errors import user_errors

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


def trained_on(arguments, models: dict[str, str]) -> list[str]:
    """
    Return the names of the agents, given by name and folder, whose recipe trains on the rows of `--dataset_name`: on the
    same file, or on the split that `--dataset_split` names.

    Raises:
        UserError: if a recipe cannot be read.
    """
    found = []
    for name, folder in models.items():
        with user_errors():
            recipe = recipe_in(Path(folder)) if (Path(folder) / RECIPE).is_file() else {}
        data = recipe.get("dataset_name")
        if data is None or recipe.get("dataset_config") != arguments.dataset_config:
            continue
        asked = Path(arguments.dataset_name)
        is_file = asked.is_file()
        is_same = arguments.dataset_name == data or is_file and asked.resolve() == Path(data).resolve()
        if is_same and (is_file or arguments.dataset_split == recipe.get("dataset_train_split", "train")):
            found.append(name)
    return found
