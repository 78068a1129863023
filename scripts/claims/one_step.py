"""
Which methods withstand most with one ascent step, the cheapest? Penalties were tuned with three steps, where a small lambda is
enough. With one step they need the larger one of the recipe `recipes/congestion/aajr.yaml`, so here they all have it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from shared.tables import ENOUGH_SEEDS

from .cells import Agent, Cell
from .methods import METHODS, under_pressure
from .preset import Preset
from .success import draw_success, success_table, success_verdicts

TITLE = "One ascent step, with the recipes' lambda"
REFERENCE, DROPOUT, OURS, BOTH, RANDOM = (
    "adversarial",
    "adversarial, dropout",
    "AAJR",
    "AAJR, dropout",
    "random direction",
)
COMPARED = (REFERENCE, DROPOUT, OURS, BOTH, RANDOM)
PAIRS = ((OURS, REFERENCE), (OURS, DROPOUT), (BOTH, DROPOUT), (OURS, RANDOM))
LAMBDA, ROWS = 0.03, 8000


def cells(preset: Preset, chosen: Mapping[str, float]) -> list[Cell]:
    """One cell for each of a few seeds."""
    agents = compared(preset.methods, chosen)
    return [
        Cell(f"seed {seed}", agents, seed, preset.steps, preset.examples, ("--multiples", "1"))
        for seed in preset.seeds[:ENOUGH_SEEDS]
    ]


def compared(methods: Iterable[str], chosen: Mapping[str, float]) -> dict[str, Agent]:
    """Return the agents: those of these methods that are compared."""
    lambdas = {name: LAMBDA for name in COMPARED if METHODS[name].tuned == "regularizer_lambda"}
    return under_pressure([name for name in COMPARED if name in methods], dict(chosen) | lambdas, 1, ROWS)


def section(runs: list[dict]) -> list[str]:
    lines = [f"K = 1, {ROWS} rows, lambda {LAMBDA:g} of each penalty, all attacks. Success in percent.", ""]
    return [
        *lines,
        *success_table(runs),
        "",
        *success_verdicts(runs, PAIRS),
    ]


draw = draw_success
