"""JSON columns of the datasets library without rounding, so that 0.95 in a tool call stays 0.95."""

from __future__ import annotations

import importlib
import json
from typing import Any

from datasets.utils.json import ujson_dumps

_MODULES = ("utils.json", "features.features", "arrow_writer", "packaged_modules.json.json")


def _dumps(value: Any) -> str:
    try:
        return json.dumps(value)
    except TypeError:  # times and dates, which pandas writes as numbers
        return ujson_dumps(value)


def use_exact_json() -> None:
    """
    Write and read columns of the type [`~datasets.Json`] with Python's own parser. The library uses the parser of
    pandas, which writes ten decimals (1e-12 becomes 0.0) and reads with an error in the last digit (0.95 becomes
    0.9500000000000001), so that training would see another text. See
    https://github.com/huggingface/datasets/pull/8652. The change affects the whole process. Therefore it is made when
    data are read, and not when this package is imported.
    """
    for module in map(importlib.import_module, (f"datasets.{name}" for name in _MODULES)):
        for name, function in (("ujson_dumps", _dumps), ("ujson_loads", json.loads)):
            if hasattr(module, name):
                setattr(module, name, function)
