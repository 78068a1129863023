"""Growth of epsilon, lambda and the number of ascent steps at the beginning of training."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback, TrainerState

from ..config.base import AAJRConfigMixin
from ..runs.state import Memory

# Decay of the running mean of success over optimizer steps.
_DECAY = 0.9


class Schedules(TrainerCallback):
    """
    The current fractions of epsilon, lambda and K at an optimizer step, from `epsilon_schedule`, `lambda_schedule` and
    `ascent_steps_schedule`. With n optimizer steps of warm-up (`aajr_warmup_ratio` of all steps) and p = (step + 1) /
    n, at most 1, the fraction is

        constant: 1,    linear: p,    cosine: (1 - cos(pi p)) / 2,    curriculum: (c + 1) / n, at most 1,

    where c is the number of past optimizer steps after which the running mean of success under attack was at least
    `curriculum_threshold`: a linear schedule that pauses while the agent fails. The curriculum's state is kept in
    `memory`, which is saved and restored with checkpoints. It depends only on numbers that are equal in all processes.

    Args:
        state: Function that returns the trainer's state.
        memory: The numbers that checkpoints keep.
    """

    def __init__(self, config: AAJRConfigMixin, state: Callable[[], TrainerState], memory: Memory):
        self.config, self._state, self._memory = config, state, memory
        self._seen: list[float] = []

    @property
    def epsilon_fraction(self) -> float:
        """Current fraction of epsilon, in (0, 1]."""
        return self._fraction(self.config.epsilon_schedule)

    @property
    def lambda_fraction(self) -> float:
        """Current fraction of lambda, in (0, 1]."""
        return self._fraction(self.config.lambda_schedule)

    @property
    def ascent_steps(self) -> int:
        """Current number of ascent steps, from 1 to K."""
        # Round first, so that a rounding error does not add a step.
        steps = self._fraction(self.config.ascent_steps_schedule) * self.config.ascent_steps
        return max(math.ceil(round(steps, 9)), 1)

    def observe(self, success: float) -> None:
        """Record the share of right answers under attack in a micro-batch of all processes."""
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
