"""Catastrophic overfitting, named: an agent that withstands its training's own ascent, and no longer one."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback

from .state import Memory

logger = logging.getLogger(__name__)

# Number of steps of the stronger ascent, and the difference of the two shares of right answers that is worth a warning.
STEPS, _APART = 10, 0.25
# For each metric, its name in the log.
_NAMES = {
    "own": "aajr/probe_success",
    "strong": f"aajr/probe_success_{STEPS}_steps",
    "cosine": "aajr/probe_direction_cosine",
}


class OverfittingMixin:
    """
    Mixin for a trainer with a `memory` ([`~.state.Memory`]) and a `probe`
    ([`~aajr_hf.training.trainers.probe.ProbeMixin`]): the comparison of `overfitting_interval`.
    """

    overfitting: OverfittingWatch | None = None

    def _begin_overfitting_watch(self) -> None:
        """Add the callback if `overfitting_interval` is set; raise ValueError if weights are sharded."""
        if self.args.overfitting_interval == 0:
            return
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise ValueError(
                "`overfitting_interval` does not work with FSDP and DeepSpeed, where all processes need equal numbers of passes: "
                "set it to 0."
            )
        self.overfitting = OverfittingWatch(self.args.overfitting_interval, self._compare_ascents, self.memory)
        self.add_callback(self.overfitting)

    def _compare_ascents(self) -> dict[str, float]:
        own, strong = self.probe(with_cosine=True), self.probe(steps=STEPS)
        return {"own": own.success, "strong": strong.success, "cosine": own.cosine}

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        found = {}
        if self.overfitting is not None and "loss" in logs:
            known = self.overfitting.state
            found = {shown: known[name] for name, shown in _NAMES.items() if name in known}
        super().log(logs | found if found else logs, *args, **kwargs)  # TRL adds to what it is given


class OverfittingWatch(TrainerCallback):
    """
    Callback that measures after every n-th optimizer step, and warns once if success under the stronger ascent is lower by
    more than a quarter.

    Args:
        interval: n, at least 1.
        measure: Function that returns the shares of right answers under the training's `own` ascent and under a `strong` one,
            and the `cosine` of the first two directions; the same numbers in all processes.
        memory: The numbers that checkpoints keep.
    """

    def __init__(self, interval: int, measure: Callable[[], dict[str, float]], memory: Memory):
        self.interval, self._measure, self._memory = interval, measure, memory

    @property
    def state(self) -> dict[str, Any]:
        """`warned`, and after the first measurement its numbers."""
        return self._memory.section("overfitting", warned=False)

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if state.global_step % self.interval:
            return
        known = self.state
        known |= self._measure()
        if known["own"] - known["strong"] > _APART and not known["warned"]:
            known["warned"] = True
            logger.warning(
                f"Step {state.global_step}: catastrophic overfitting. Under the ascent of the training, {known['own']:.0%} of the "
                f"probe's answers are right, and under {STEPS} steps {known['strong']:.0%}: the agent has learnt to hide its gradient. "
                "Raise `ascent_steps` or `regularizer_lambda`, or set `ascent_start` to random."
            )
