"""What a computation costs."""

from __future__ import annotations

from torch.utils.flop_counter import FlopCounterMode

from tests.support.tiny import one_step


def flops(folder, **overrides) -> int:
    with FlopCounterMode(display=False) as counter:
        one_step(folder, **overrides)
    return counter.get_total_flops()
