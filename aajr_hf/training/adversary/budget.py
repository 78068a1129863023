"""A budget of amplification as a constraint: the penalty's weight is found during training, not given."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback

from ..runs.state import Memory

# Powers of the ratio of excess to slack: how far the multiplier moves a step, and how far the weight in force is ahead of it.
_RATE, _AUGMENTATION = 0.04, 0.25
# Beyond e to this, either way, the ratio counts as that.
_LARGEST_LOG = 2.5
# In units of the system loss over the squared budget: where its steps turn from factors to additions, and its upper bound. At the
# upper one, an amplification of twice the budget costs as much as ten times the system loss: more would be noise.
_SMALL, _HIGHEST = 1e-2, 10.0
# Of the running means over optimizer steps in which the penalty is evaluated.
_DECAY = 0.8


class AmplificationBudget(TrainerCallback):
    """
    Minimise the system loss such that the mean amplification a is at most the budget gamma: the mean of `||J(s + delta_t) u_t||`
    over the evaluated examples and points t of all micro-batches and processes, and, as a running mean, over the last few
    optimizer steps in which the penalty is evaluated.

    The exponential method of multipliers (Kort and Bertsekas, 1972). After an optimizer step that comes n steps after the last such
    one,

        lambda <- min(max((lambda + f) q^(0.04 n) - f, 0), c),    weight of the penalty in force: lambda q^(1/4),
        q = mean max(a - gamma, 0) / mean max(gamma - a, 0),      cut to [e^-2.5, e^2.5]

    Both means leave out examples in which the loss has no gradient, and so no direction (of GRPO, those without an advantage).
    The ratio q of excess to slack is 1 where the mean amplification is gamma, like a / gamma; and where a penalty that is far too
    large has pushed all examples into the budget it is 0, however little they are below it. The multiplier moves by factors where
    it is large, and where it is small by additions, of the size f, a hundredth of the system loss over gamma^2: so it can reach
    zero and leave it. Its bound c is ten times the system loss over gamma^2. The factor of the weight is the augmentation, which damps
    what the multiplier alone would overshoot (a proportional beside the integral term: Stooke, Achiam and Abbeel, arXiv
    2007.03964). Where the model meets the budget by itself, the multiplier goes to zero, and the constraint is slack.

    The state lies in `memory`, which is saved and restored with checkpoints; it depends on numbers alone that all processes share.

    Args:
        budget: gamma, above 0.
        start: The multiplier at first.
        memory: What checkpoints keep.
        may_grow: Returns whether the multiplier may grow. During a warm-up of the penalty it must not: what the full penalty would
            hold below the budget, a part of it may not.
    """

    def __init__(self, budget: float, start: float, memory: Memory, may_grow: Callable[[], bool]):
        self.budget, self.start, self._memory, self._may_grow = budget, start, memory, may_grow
        self._seen: list[tuple[float, float, float]] = []

    @property
    def state(self) -> dict[str, Any]:
        """`multiplier`, and once something was seen running means of `excess`, `slack` and `loss`, and the `step` of the last."""
        return self._memory.section("budget", multiplier=self.start)

    @property
    def weight(self) -> float:
        """lambda in force."""
        return self.state["multiplier"] * math.exp(_AUGMENTATION * self._log_ratio())

    def observe(self, excess: float, slack: float, magnitude: float) -> None:
        """
        Means over a micro-batch of all processes: of `max(a - gamma, 0)`, of `max(gamma - a, 0)` where the loss has a gradient,
        and of the absolute system loss. Where no example had a gradient, nothing was seen.
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
        """log q, cut."""
        excess, slack = self.state.get("excess", 0.0), self.state.get("slack", 0.0)
        if excess == slack:  # nothing was seen, or nothing is amiss
            return 0.0
        if excess == 0 or slack == 0:
            return math.copysign(_LARGEST_LOG, excess - slack)
        return min(max(math.log(excess / slack), -_LARGEST_LOG), _LARGEST_LOG)
