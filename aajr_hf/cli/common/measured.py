"""What the study of the paper's claims measured of some settings: `aajr train` says it before it begins."""

from __future__ import annotations

import json
from pathlib import Path

from ...training.config.base import AAJRConfigMixin

# Written by scripts/study.py: settings, and a sentence about the agents that were trained with them.
MEASURED = Path(__file__).with_name("measured.json")


def measured_of(config: AAJRConfigMixin) -> str | None:
    """Return what was measured of agents that were trained with these settings; None if none were."""
    for entry in json.loads(MEASURED.read_text(encoding="utf-8")):
        if all(getattr(config, name) == value for name, value in entry["settings"].items()):
            return entry["measured"]
    return None
