"""The data that a recipe names: examples generated from a world, a dataset of the Hub, or files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import UserError, one_line

if TYPE_CHECKING:
    from datasets import DatasetDict

    from .train import TrainArguments


def load_data(arguments: TrainArguments) -> DatasetDict:
    """The generated examples of a world, or a dataset from the Hub or from files."""
    from datasets import Dataset, DatasetDict, load_dataset

    from ..environments import expert_rows

    if (arguments.environment is None) == (arguments.dataset_name is None):
        raise UserError("Give either `environment` or `dataset_name`.")
    if arguments.environment is not None:
        world, examples, seed = arguments.environment, arguments.environment_examples, arguments.environment_seed
        # The test split's seed is far from any that counts up from 0.
        return DatasetDict(
            {
                "train": Dataset.from_list(expert_rows(world, examples, seed=seed)),
                "test": Dataset.from_list(expert_rows(world, max(examples // 20, 1), seed=seed + 10**6)),
            }
        )
    name = arguments.dataset_name
    try:
        if name.endswith((".json", ".jsonl")):
            return load_dataset("json", data_files={arguments.dataset_train_split: name})
        return load_dataset(name, name=arguments.dataset_config)
    except Exception as error:  # the library has errors of many kinds for what it cannot read
        raise UserError(f"`dataset_name`: {name} cannot be loaded: {one_line(error.__cause__ or error)}") from error


def split(dataset: DatasetDict, name: str, field_name: str):
    """One split of a dataset; a `UserError` that names the field where there is none, a `ValueError` for its rows."""
    from ..training.loading import check_rows

    if name not in dataset:
        raise UserError(f"`{field_name}`: the dataset has no split {name!r}, only {', '.join(dataset)}.")
    check_rows(dataset[name], f"the split {name!r} of the data")
    return dataset[name]
