"""The files of local data: which can be read, and which split each file of a folder belongs to."""

from __future__ import annotations

import functools
import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

_KINDS = {".json": "json", ".jsonl": "json", ".ndjson": "json", ".csv": "csv", ".parquet": "parquet"}
READABLE = f"{', '.join(_KINDS)} (the text files also with .gz)"


def kind_of_file(file: str | Path) -> str | None:
    """`json`, `csv` or `parquet`, by the end of a file's name, in upper or lower case; None for other files."""
    name = Path(file).name.lower()
    kind = _KINDS.get(Path(name.removesuffix(".gz")).suffix)
    return None if kind == "parquet" and name.endswith(".gz") else kind


def saved_splits(path: Path, split: str) -> dict[str, Callable[[], Dataset]] | None:
    """
    A function for each split of a folder that the datasets library saved with `save_to_disk`; None for other folders.

    Args:
        split: Name of the split, if a `Dataset` was saved, and not a `DatasetDict`.
    """
    from datasets import load_from_disk

    if (path / "dataset_dict.json").is_file():
        saved = load_from_disk(str(path))
        return {str(name): functools.partial(saved.__getitem__, name) for name in saved}
    if (path / "state.json").is_file() and (path / "dataset_info.json").is_file():
        return {split: functools.partial(load_from_disk, str(path))}
    return None


def local_splits(path: Path, split: str, config: str | None) -> dict[str, list[Path]] | None:
    """
    The files of each split of a file or a folder, all of one kind. None if the datasets library has to read the data:
    other files in a folder, and names on the Hub.

    Args:
        split: Name of the split of a single file.
        config: Configuration of a folder, as its README.md defines it.

    Raises:
        ValueError: if a file or a folder does not exist, or holds no readable file.
    """
    if path.is_file():
        if kind_of_file(path) is None:
            raise ValueError(f"{path} must be a folder, or a file that ends in {READABLE}")
        return {split: [path]}
    if not path.is_dir():
        if kind_of_file(path) or str(path).startswith(("/", ".", "~")):
            raise ValueError(f"there is no file or folder {path}")
        return None
    files = [file for file in sorted(path.rglob("*")) if kind_of_file(file) and not _is_hidden(file, path)]
    if not files:
        raise ValueError(f"the folder {path} holds no file that ends in {READABLE}")
    splits, kind = _splits_of_folder(path, files, config)
    used = {file for found in splits.values() for file in found}
    left = [file.name for file in files if file.absolute() not in used]
    if left and not (path / "README.md").is_file():
        logger.warning(
            f"{path} is read as {kind}, without {', '.join(left[:5])}: to read one of these files, set "
            "`dataset_name` to it."
        )
    return splits if kind in _KINDS.values() and all(kind_of_file(file) == kind for file in used) else None


def _is_hidden(file: Path, folder: Path) -> bool:
    return not file.is_file() or any(part.startswith((".", "__")) for part in file.relative_to(folder).parts)


def _splits_of_folder(path: Path, files: list[Path], config: str | None) -> tuple[dict[str, list[Path]], str]:
    """The files of each split, as the datasets library finds them, and their kind."""
    from datasets import load_dataset_builder
    from datasets.data_files import DataFilesDict, get_data_patterns

    if any(file.suffix != file.suffix.lower() for file in files) and not (path / "README.md").is_file():
        # The builder does not see files whose names end in upper case.
        kind = Counter(map(kind_of_file, files)).most_common(1)[0][0]
        base = str(path.absolute())
        found = DataFilesDict.from_patterns(get_data_patterns(base), base_path=base)
        found = {split: [file for file in listed if kind_of_file(file) == kind] for split, listed in found.items()}
    else:
        builder = load_dataset_builder(str(path), name=config)
        found, kind = builder.config.data_files, builder.name
    return {str(split): list(map(Path, listed)) for split, listed in found.items() if listed}, kind
