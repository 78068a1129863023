"""What a process that `aajr train` has launched does differently from one that a user starts."""

from __future__ import annotations

import functools
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
    from accelerate import DistributedType
    from accelerate.state import AcceleratorState, PartialState

    original = AcceleratorState.__init__

    @functools.wraps(original)
    def init(self, *args, fsdp_plugin=None, **kwargs):
        original(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            if self.mixed_precision != "no":
                fsdp_plugin.set_mixed_precision(self.mixed_precision)
            self.fsdp_plugin = fsdp_plugin
            self.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    AcceleratorState.__init__ = init
