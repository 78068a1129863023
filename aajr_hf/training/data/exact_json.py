"""JSON columns of the datasets library without rounding: a tool call's 0.95 is trained on as 0.95."""

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
    Let columns of the type [`~datasets.Json`] be written and read by Python's own parser. The library takes that of pandas,
    which writes ten decimals (1e-12 becomes 0.0) and reads with an error in the last digit (0.95 becomes
    0.9500000000000001): another text to train on. See https://github.com/huggingface/datasets/pull/8652. For the whole
    process: called where the command line reads data, and not when this package is imported.
    """
    for module in map(importlib.import_module, (f"datasets.{name}" for name in _MODULES)):
        for name, function in (("ujson_dumps", _dumps), ("ujson_loads", json.loads)):
            if hasattr(module, name):
                setattr(module, name, function)
