"""What a process that `aajr train` has launched does differently from one that a user starts."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

LAUNCHED = "AAJR_LAUNCHED"


def is_first() -> bool:
    """Whether this process speaks for all."""
    return os.environ.get("RANK", "0") == "0"


def hand_up(message: str) -> bool:
    """Leave an error's one line to the launcher, which prints that of the first process; False if there is none."""
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if LAUNCHED not in os.environ or not file:
        return False
    # As torch.distributed.elastic reads it.
    Path(file).write_text(json.dumps({"message": message, "timestamp": int(time.time())}))
    return True


def shard_on_cpu() -> None:
    """
    Let FSDP2 run on a CPU: Accelerate offers it to accelerators alone, and trains with plain data parallelism there
    without a word. Does nothing unless FSDP is asked for; to be called before the trainer is made.
    """
    if os.environ.get("ACCELERATE_USE_FSDP", "false") != "true":
        return
    from ..._compat.accelerate import offer_fsdp_on_cpu

    offer_fsdp_on_cpu()
