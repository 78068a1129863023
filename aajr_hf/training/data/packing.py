"""Packed rows: several documents in one row."""

from __future__ import annotations

from datasets import Dataset, IterableDataset
from trl import pack_dataset

from ..config.sft import AAJRConfig
from .collation import column_names


def pack(dataset: Dataset | IterableDataset, args: AAJRConfig) -> Dataset | IterableDataset:
    """Pack prepared examples as TRL does, and keep the column of AAJR, which TRL would drop."""
    names = column_names(dataset)
    columns = [name for name in ("input_ids", "labels", "observation_mask") if name in names]
    dataset = pack_dataset(dataset.select_columns(columns), args.max_length, args.packing_strategy)
    return dataset.shuffle(seed=args.seed) if args.shuffle_dataset else dataset
