"""Data that is no part of the project: tests that read it are skipped where it is absent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from . import ROOT

_BESIDE = ROOT.parent / "shared" / "data"


def bfcl() -> Path:
    """The folder of the Berkeley Function Calling Leaderboard's files, in `$AAJR_DATA` or beside the repository."""
    folder = Path(os.environ.get("AAJR_DATA", _BESIDE)) / "bfcl"
    if not folder.is_dir():
        pytest.skip(f"there is no {folder}: set AAJR_DATA to the folder that holds `bfcl`")
    return folder
