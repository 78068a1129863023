"""
Share a measurement out over processes. Every process does whole pieces of work, such as batches or groups of episodes,
in the same way as one process alone would do them, so the numbers do not depend on the number of processes.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed

_T = TypeVar("_T")
# The first process to finish waits for the slowest.
_PATIENCE = timedelta(days=7)


@contextlib.contextmanager
def several_processes() -> Iterator[None]:
    """
    Join the other processes of a launch inside the context, and take the accelerator of this process. Does nothing where
    there is one process.

    Raises:
        ValueError: if this machine has fewer accelerators than processes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    if torch.accelerator.is_available():
        local, devices = int(os.environ["LOCAL_RANK"]), torch.accelerator.device_count()
        if local >= devices:
            raise ValueError(f"`--num_processes` is more than the {devices} accelerators of this machine: give fewer.")
        torch.accelerator.set_device_index(local)
    # Only results are exchanged, from the CPU.
    distributed.init_process_group("gloo", timeout=_PATIENCE)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def number_of_processes() -> int:
    return distributed.get_world_size() if distributed.is_initialized() else 1


def is_first() -> bool:
    """Return whether this process is the only one, or the first."""
    return not distributed.is_initialized() or distributed.get_rank() == 0


def my_share(pieces: int) -> range:
    """Return the numbers of the pieces of work that this process does."""
    return range(distributed.get_rank() if distributed.is_initialized() else 0, pieces, number_of_processes())


def gathered(own: dict[int, _T]) -> list[_T]:
    """
    Return what all processes found, in the order of the pieces' numbers. All processes must call this together.

    Args:
        own: What this process found, by number of the piece. Tensors of other processes arrive on the CPU.
    """
    found = dict(own)
    if number_of_processes() > 1:
        written = io.BytesIO()
        torch.save(own, written)
        everything: list[bytes] = [b""] * number_of_processes()
        distributed.all_gather_object(everything, written.getvalue())
        for content in everything:
            # Written by this program a moment ago, so it may hold any object.
            found |= torch.load(io.BytesIO(content), map_location="cpu", weights_only=False)
    return [found[number] for number in sorted(found)]
