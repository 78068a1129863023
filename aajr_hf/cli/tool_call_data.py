"""The rows on which tool calls are evaluated."""

from __future__ import annotations

from typing import Any

from .data import load_data
from .data import split as split_of
from .train import TrainArguments


def tool_call_rows(
    name: str,
    dataset_format: str,
    split: str | None,
    skip_invalid_rows: bool = False,
    config: str | None = None,
) -> list[dict[str, Any]]:
    """
    Rows with `prompt`, `completion`, `tools` and, where known, `accepted`.

    Args:
        name, dataset_format, skip_invalid_rows, config: As the fields `dataset_name`, ... of `aajr train`.
        split: None for `test`, or the only one.

    Raises:
        UserError: for what cannot be read, and for malformed rows; names the field.
    """
    data = load_data(
        TrainArguments(
            dataset_name=name,
            dataset_config=config,
            dataset_format=dataset_format,
            skip_invalid_rows=skip_invalid_rows,
        )
    )
    if split is None:
        split = next(iter(data.splits)) if len(data.splits) == 1 else "test"
    return list(split_of(data, split, "dataset_split"))
