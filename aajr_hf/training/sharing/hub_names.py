"""Names on the Hub, and how they are told from places on a disk, which may be on another machine."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

# Suffixes of data files: `data/rows.jsonl` has the form of a name on the Hub.
_FILES = (".json", ".jsonl", ".ndjson", ".csv", ".parquet", ".gz")


def is_hub_name(name: str) -> bool:
    """Whether the name of a model or a dataset is a name on the Hub, and not an empty one, a folder or a file."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return not Path(name).exists() and Path(name).suffix.lower() not in _FILES


def public_name(name: str) -> str:
    """Return the name of a model or a dataset as a card shows it: on the Hub, or the last part of a local path."""
    return name if is_hub_name(name) else Path(name).name
