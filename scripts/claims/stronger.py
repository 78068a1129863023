"""
Do the methods that withstand most also withstand a stronger attack: thrice the steps, a second start of each attack, and what is
found on checkpoints after each third of training with dropout? The agents are some of those of `robustness`.
"""

from __future__ import annotations

from collections.abc import Mapping

from .cells import Cell
from .methods import under_pressure
from .preset import Preset
from .success import draw_success, success_table, success_verdicts

TITLE = "A stronger attack"
DROPOUT, OURS = "adversarial, dropout", "AAJR, dropout"
COMPARED = (DROPOUT, "matched", OURS)
ATTACK = ("--multiples", "1", "--attack_steps", "30", "--attack_restarts", "2")
# A row takes six times as long as in `robustness`: half of the observations, four seeds.
SHARE, SEEDS = 2, 4


def cells(preset: Preset, chosen: Mapping[str, float]) -> list[Cell]:
    """One cell for each of a few seeds, with a share of the observations."""
    agents = under_pressure([name for name in COMPARED if name in preset.methods], chosen, *preset.pressure[0])
    if DROPOUT not in agents:
        return []
    sources = agents[DROPOUT].checkpoints(preset.steps)
    examples = preset.examples // SHARE
    return [
        Cell(f"seed {seed}", agents, seed, preset.steps, examples, ATTACK, sources=sources)
        for seed in preset.seeds[:SEEDS]
    ]


def section(runs: list[dict]) -> list[str]:
    lines = [f"`aajr evaluate {' '.join(ATTACK)} --transfer_from` the checkpoints. Success in percent.", ""]
    return [*lines, *success_table(runs), "", *success_verdicts(runs, ((OURS, DROPOUT),))]


draw = draw_success
