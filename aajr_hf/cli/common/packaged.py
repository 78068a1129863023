"""Folders at the top of the repository that are installed inside the package (`setup.py`)."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[2]


def packaged(name: str) -> Path:
    """Return such a folder: beside the package in a checkout, inside it once installed."""
    inside = _PACKAGE / name
    return inside if inside.is_dir() else _PACKAGE.parent / name
