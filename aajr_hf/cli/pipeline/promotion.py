"""Put a new agent in the place of the old one, at once."""

from __future__ import annotations

import os
from pathlib import Path


def promote(link: Path, folder: Path) -> None:
    """
    Make `link` name `folder`. The link is replaced in one step of the file system, so that whoever opens it sees the old
    agent or the new one, also if this process is killed.
    """
    link.parent.mkdir(parents=True, exist_ok=True)
    temporary = link.with_name(f".{link.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(folder.resolve(), target_is_directory=True)
    os.replace(temporary, link)
