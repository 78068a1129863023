"""Which of several processes speaks for all."""

from __future__ import annotations

import os


def is_first() -> bool:
    """Return whether this process prints for all processes."""
    return os.environ.get("RANK", "0") == "0"
