"""
Which methods withstand most with one ascent step, the cheapest? Penalties were tuned with three steps, where a small lambda is
enough. With one step they need the larger one of the recipe `recipes/congestion/aajr.yaml`, so here they all have it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from matplotlib.figure import Figure
from shared.tables import ENOUGH_SEEDS

from .cells import Agent, Cell
from .methods import METHODS, under_pressure
from .page import where
from .preset import Preset
from .stronger import ATTACK
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
PAIRS = ((OURS, REFERENCE), (OURS, DROPOUT), (BOTH, DROPOUT), (RANDOM, DROPOUT), (OURS, RANDOM))
LAMBDA, ROWS = 0.03, 8000
# The attack of the section on a stronger one, which also knows AAJR's checkpoints: a quarter of the observations.
HARDER, HARDER_OF, SHARE = "a stronger attack", (DROPOUT, OURS, RANDOM), 4


def cells(preset: Preset, chosen: Mapping[str, float]) -> list[Cell]:
    """Two cells for each of a few seeds: all attacks, and a stronger attack on those that withstand most."""
    agents = compared(preset.methods, chosen)
    some = {name: agents[name] for name in HARDER_OF if name in agents}
    sources = agents[OURS].checkpoints(preset.steps)
    examples = -(-preset.examples // SHARE)
    return [
        cell
        for seed in preset.seeds[:ENOUGH_SEEDS]
        for cell in (
            Cell(
                f"seed {seed}",
                agents,
                seed,
                preset.steps,
                preset.examples,
                ("--multiples", "1"),
                facts={"harder": False},
            ),
            Cell(
                f"{HARDER}, seed {seed}",
                some,
                seed,
                preset.steps,
                examples,
                ATTACK,
                sources=sources,
                facts={"harder": True},
            ),
        )
    ]


def compared(methods: Iterable[str], chosen: Mapping[str, float]) -> dict[str, Agent]:
    """Return the agents: those of these methods that are compared."""
    lambdas = {name: LAMBDA for name in COMPARED if METHODS[name].tuned == "regularizer_lambda"}
    return under_pressure([name for name in COMPARED if name in methods], dict(chosen) | lambdas, 1, ROWS)


def section(runs: list[dict]) -> list[str]:
    lines = [f"K = 1, {ROWS} rows, lambda {LAMBDA:g} of each penalty. Success in percent."]
    for harder, said in (
        (False, "All attacks"),
        (True, f"A stronger attack: `aajr evaluate {' '.join(ATTACK)} --transfer_from` checkpoints of AAJR"),
    ):
        if here := where(runs, harder=harder):
            lines += ["", f"**{said}**", "", *success_table(here), "", *success_verdicts(here, PAIRS)]
    return lines


def draw(figure: Figure, runs: list[dict]) -> None:
    """Draw success at 1x under all attacks."""
    draw_success(figure, where(runs, harder=False) or runs)
