"""A patch of Accelerate's state, which offers FSDP only to accelerators."""

from __future__ import annotations

import functools

from accelerate import DistributedType
from accelerate.state import AcceleratorState, PartialState


def offer_fsdp_on_cpu() -> None:
    """Let CPU processes use their FSDP plugin; without this patch, they train with plain data parallelism."""
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
