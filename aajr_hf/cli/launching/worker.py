"""Differences between a process launched by a command and one started by a user."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

LAUNCHED = "AAJR_LAUNCHED"


def hand_up(message: str) -> bool:
    """Pass an error message to the launcher, which prints that of the first process. Return False if there is none."""
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if LAUNCHED not in os.environ or not file:
        return False
    # This is the format that torch.distributed.elastic reads.
    Path(file).write_text(json.dumps({"message": message, "timestamp": int(time.time())}))
    return True


def shard_on_cpu() -> None:
    """
    Let FSDP2 run on a CPU. Accelerate supports it only on accelerators, and silently uses plain data parallelism on a
    CPU. Do nothing unless FSDP is requested. Call this function before the trainer is made.
    """
    if os.environ.get("ACCELERATE_USE_FSDP", "false") != "true":
        return
    from ..._compat.accelerate import offer_fsdp_on_cpu

    offer_fsdp_on_cpu()
