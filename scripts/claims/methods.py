"""The methods that the study compares, and the field that each of them tunes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .cells import Agent

# Learning rates, and weights of the penalty in the relative unit: the increase of the loss that a division of the penalty
# by e may cost.
RATES, LAMBDAS = (1e-3, 2e-3, 4e-3), (0.03, 0.3, 0.003)


@dataclass(frozen=True)
class Method:
    """
    A method with its settings but one, which is tuned.

    Attributes:
        tuned: Field that is tuned; a dot leads into a mapping.
        values: Values that are tried, the most promising first: a small study tries the first ones alone.
    """

    recipe: str
    tuned: str
    values: tuple[float, ...]
    fields: dict[str, Any] = field(default_factory=dict)

    def agent(self, value: float, **fields: Any) -> Agent:
        """Return the agent with this value of the tuned field, and with other fields of a claim."""
        name, _, key = self.tuned.partition(".")
        # A mapping is given as JSON, as on the command line.
        tuned = f'{{"{key}": {value}}}' if key else value
        return Agent(self.recipe, self.fields | {name: tuned} | fields)

    def under_pressure(self, value: float, steps: int, rows: int) -> Agent:
        """Return the agent with so many ascent steps, if it has an adversary, and training rows."""
        ascent = {} if self.recipe == "sft" else {"ascent_steps": steps}
        return self.agent(value, environment_examples=rows, **ascent)


def under_pressure(names: Iterable[str], chosen: Mapping[str, float], steps: int, rows: int) -> dict[str, Agent]:
    """Return the agents of the methods that were tuned, each with what was chosen for it."""
    return {name: METHODS[name].under_pressure(chosen[name], steps, rows) for name in names if name in chosen}


def _penalty(recipe: str, **fields: Any) -> Method:
    return Method(recipe, "regularizer_lambda", LAMBDAS, fields)


METHODS: dict[str, Method] = {
    "sft": Method("sft", "learning_rate", RATES),
    "adversarial": Method("adversarial", "learning_rate", RATES),
    # The plain cure for overfitting.
    "adversarial, dropout": Method("adversarial", "model_init_kwargs.attention_dropout", (0.1, 0.3, 0.05)),
    # Penalties along what the adversary finds or along random directions, each at one point of half of the ascents.
    "AAJR": _penalty("aajr", ascent_steps=3),
    "random direction": _penalty("aajr", ascent_steps=3, regularizer="random_direction"),
    "matched": _penalty("methods/matched", ascent_steps=3),
    # At every point of all ascents, as in the paper, and at one of them from time to time.
    "AAJR, exact": _penalty("aajr", ascent_steps=3, penalty_trajectory="all", penalty_fraction=1.0),
    "AAJR, amortised": _penalty("aajr-amortised", ascent_steps=3),
    # With dropout, a penalty must see all of the examples.
    "AAJR, dropout": _penalty(
        "aajr", ascent_steps=3, penalty_fraction=1.0, model_init_kwargs='{"attention_dropout": 0.1}'
    ),
    "global spectral": _penalty("global"),
}
