"""What costs each training of the tests a share of its time and shows nothing."""

from __future__ import annotations

import functools
import gc
import importlib.metadata

import accelerate.utils.memory
import datasets
import torch


def leave_out_what_shows_nothing() -> None:
    """
    Call this once in a process, after its imports. A collection of garbage takes half a second with the objects of torch,
    Transformers and TRL: what the imports made stays out of it.
    """
    gc.collect()
    gc.freeze()
    # Accelerate asks for the same packages at each training, and parses their metadata each time.
    importlib.metadata.metadata = functools.cache(importlib.metadata.metadata)
    # It collects again at the start of each training, for the sake of a device's memory.
    if not torch.cuda.is_available():
        accelerate.utils.memory.clear_device_cache = lambda garbage_collection=False: None
    # Datasets names each step of a preparation by a hash of the code and of all that the code refers to, under which it
    # could be found again on disk. Rows in memory are never found again: a random name serves, at a tenth of the time.
    for module in (datasets.arrow_dataset, datasets.fingerprint):
        module.update_fingerprint = lambda *_: datasets.fingerprint.generate_random_fingerprint()
    datasets.arrow_dataset.generate_fingerprint = lambda _: datasets.fingerprint.generate_random_fingerprint()
