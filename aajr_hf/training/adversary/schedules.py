"""How epsilon, lambda and the number of ascent steps grow at the beginning of training."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback, TrainerState

from ..config.sft import AAJRConfigMixin
from ..runs.state import Memory

# Of the running mean of success, over optimizer steps.
_DECAY = 0.9


class Schedules(TrainerCallback):
    """
    The fractions of epsilon, lambda and K that are in force at an optimizer step, from `epsilon_schedule`, `lambda_schedule` and
    `ascent_steps_schedule`. With n optimizer steps of warm-up (`aajr_warmup_ratio` of all) and p = (step + 1) / n, at most 1,

        constant: 1,    linear: p,    cosine: (1 - cos(pi p)) / 2,    curriculum: (c + 1) / n, at most 1,

    where c counts the optimizer steps so far after which the running mean of success under attack was at least
    `curriculum_threshold`: a linear schedule whose clock stands still while the agent fails. The curriculum lies in `memory`,
    which is saved and restored with checkpoints, and depends on numbers alone that all processes share.

    Args:
        state: Returns the trainer's state.
        memory: What checkpoints keep.
    """

    def __init__(self, config: AAJRConfigMixin, state: Callable[[], TrainerState], memory: Memory):
        self.config, self._state, self._memory = config, state, memory
        self._seen: list[float] = []

    @property
    def epsilon_fraction(self) -> float:
        """Fraction of epsilon in force, in (0, 1]."""
        return self._fraction(self.config.epsilon_schedule)

    @property
    def lambda_fraction(self) -> float:
        """Fraction of lambda in force, in (0, 1]."""
        return self._fraction(self.config.lambda_schedule)

    @property
    def ascent_steps(self) -> int:
        """The number of steps of the ascent, from 1 to K."""
        # Rounded first: a third of three is one.
        return math.ceil(round(self._fraction(self.config.ascent_steps_schedule) * self.config.ascent_steps, 9))

    def observe(self, success: float) -> None:
        """The share of a micro-batch's examples, of all processes, that were answered rightly under attack."""
        self._seen.append(success)

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if not self._seen:
            return
        mean, known = sum(self._seen) / len(self._seen), self._curriculum
        known["success"] = _DECAY * known.get("success", mean) + (1 - _DECAY) * mean
        known["grown"] += known["success"] >= self.config.curriculum_threshold
        self._seen = []

    @property
    def _curriculum(self) -> dict[str, Any]:
        return self._memory.section("curriculum", grown=0)

    def _fraction(self, schedule: str) -> float:
        steps = self.config.aajr_warmup_ratio * self._state().max_steps
        if schedule == "constant" or steps <= 1:
            return 1.0
        done = self._curriculum["grown"] if schedule == "curriculum" else self._state().global_step
        fraction = min(1.0, (done + 1) / steps)
        return (1 - math.cos(math.pi * fraction)) / 2 if schedule == "cosine" else fraction
