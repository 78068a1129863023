"""The amplification budget as a constraint: training finds the weight of the penalty."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback

from ..runs.state import Memory

# Exponents of the ratio of excess to slack: in the multiplier's change per step, and in the weight in force relative
# to the multiplier.
_RATE, _AUGMENTATION = 0.04, 0.25
# Largest absolute logarithm of the ratio; values beyond it are cut.
_LARGEST_LOG = 2.5
# In units of the system loss over the squared budget: the multiplier below which its steps are additions instead of
# factors, and its upper bound. At the upper bound, an amplification of twice the budget costs as much as ten times the
# system loss: more would be noise.
_SMALL, _HIGHEST = 1e-2, 10.0
# Decay of the running means over optimizer steps in which the penalty is evaluated.
_DECAY = 0.8


class AmplificationBudget(TrainerCallback):
    """
    Callback that minimises the system loss under the constraint that the mean amplification a is at most the budget
    gamma. The mean of `||J(s + delta_t) u_t||` is over the evaluated examples and points t of all micro-batches and
    processes, and is a running mean over the last few optimizer steps in which the penalty is evaluated.

    It uses the exponential method of multipliers (Kort and Bertsekas, 1972). After an optimizer step with the penalty,
    n steps after the last optimizer step with it,

        lambda <- min(max((lambda + f) q^(0.04 n) - f, 0), c),    weight of the penalty in force: lambda q^(1/4),
        q = mean max(a - gamma, 0) / mean max(gamma - a, 0),      cut to [e^-2.5, e^2.5]

    In both means, an example without a gradient of the loss, and so without a direction, counts as 0 (in GRPO, an
    example without an advantage). The ratio q of excess to slack is 1 if the mean amplification is gamma, like a /
    gamma. If a far too large penalty has pushed all examples below the budget, q is 0, however close to the budget
    they are.

    A large multiplier changes by factors. A small multiplier changes by additions of size f, a hundredth of the system
    loss over gamma^2, so that it can reach zero and leave it. Its bound c is ten times the system loss over gamma^2.
    The factor q^(1/4) of the weight is the augmentation, which damps the overshoot of the multiplier (a proportional
    term beside the integral term: Stooke, Achiam and Abbeel, arXiv 2007.03964). If the model meets the budget by
    itself, the multiplier goes to zero, and the constraint is slack.

    The state is kept in `memory`, which is saved and restored with checkpoints. It depends only on numbers that are
    equal in all processes.

    Args:
        budget: gamma, above 0.
        start: The initial multiplier.
        memory: The numbers that checkpoints keep.
        may_grow: Function that returns whether the multiplier may grow. During the penalty's warm-up it must not grow:
            the full penalty may meet the budget where a part of the penalty does not.
    """

    def __init__(self, budget: float, start: float, memory: Memory, may_grow: Callable[[], bool]):
        self.budget, self.start, self._memory, self._may_grow = budget, start, memory, may_grow
        self._seen: list[tuple[float, float, float]] = []

    @property
    def state(self) -> dict[str, Any]:
        """
        `multiplier`; after the first observation also the running means of `excess`, `slack` and `loss`, and the
        `step` of the last observation.
        """
        return self._memory.section("budget", multiplier=self.start)

    @property
    def weight(self) -> float:
        """The penalty's weight in force, before its schedule."""
        return self.state["multiplier"] * math.exp(_AUGMENTATION * self._log_ratio())

    def observe(self, excess: float, slack: float, magnitude: float) -> None:
        """
        Record means over a micro-batch of all processes: of `max(a - gamma, 0)`, of `max(gamma - a, 0)` (0 if the loss
        has no gradient), and of the absolute system loss. If no example had a gradient, nothing is recorded.
        """
        if excess > 0 or slack > 0:
            self._seen.append((excess, slack, magnitude))

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if not self._seen:
            return
        known = self.state
        for name, values in zip(("excess", "slack", "loss"), zip(*self._seen, strict=True), strict=True):
            mean = sum(values) / len(values)
            known[name] = _DECAY * known.get(name, mean) + (1 - _DECAY) * mean
        passed = state.global_step - known.get("step", state.global_step - 1)
        known["step"] = state.global_step
        self._seen = []
        unit = known["loss"] / self.budget**2
        multiplier, small = known["multiplier"], _SMALL * unit
        moved = (multiplier + small) * math.exp(_RATE * passed * self._log_ratio()) - small
        highest = _HIGHEST * unit if self._may_grow() else min(multiplier, _HIGHEST * unit)
        known["multiplier"] = min(max(moved, 0.0), highest)

    def _log_ratio(self) -> float:
        """log q, cut to its range."""
        excess, slack = self.state.get("excess", 0.0), self.state.get("slack", 0.0)
        if excess == slack:  # nothing was observed, or q is 1
            return 0.0
        if excess == 0 or slack == 0:
            return math.copysign(_LARGEST_LOG, excess - slack)
        return min(max(math.log(excess / slack), -_LARGEST_LOG), _LARGEST_LOG)
