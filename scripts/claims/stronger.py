"""
Do the methods that withstand most also withstand a stronger attack: thrice the steps, a second start of each attack, and what is
found on checkpoints after each third of training with dropout? The agents are some of those of `robustness`.
"""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from .cells import Cell, saved_every
from .methods import under_pressure
from .page import by_seed, cells_of, markdown_table, number_of, of_agent, text_of, verdict
from .preset import Preset

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
    saved = range(saved_every(preset.steps), preset.steps, saved_every(preset.steps))
    sources = tuple(agents[DROPOUT].after(step) for step in saved)
    examples = preset.examples // SHARE
    return [
        Cell(f"seed {seed}", agents, seed, preset.steps, examples, ATTACK, sources=sources)
        for seed in preset.seeds[:SEEDS]
    ]


def section(runs: list[dict]) -> list[str]:
    names = ("nominal", "1", "sampled", "sampled 1")
    rows = [
        [agent, *(text_of([number_of(name)(run) for run in of_agent(runs, agent)]) for name in names)]
        for agent in cells_of(runs, "agent")
    ]
    lines = [f"`aajr evaluate {' '.join(ATTACK)} --transfer_from` the checkpoints. Success in percent.", ""]
    lines += [*markdown_table(["method", "nominal", "1x", "sampled nominal", "sampled 1x"], rows), ""]
    for name, said in (("1", "greedy"), ("sampled 1", "sampled")):
        gains = by_seed(of_agent(runs, OURS), of_agent(runs, DROPOUT), number_of(name))
        lines.append(f"- {OURS} withstands more at 1x, {said}, than {DROPOUT}: {verdict(gains)}.")
    return lines


def draw(figure: Figure, runs: list[dict]) -> None:
    """Success at 1x of each method and seed, greedy and sampled."""
    axes, methods = figure.subplots(), cells_of(runs, "agent")
    for which, shift, color, said in (("1", -0.1, "#0072B2", "greedy"), ("sampled 1", 0.1, "#D55E00", "sampled")):
        places = [methods.index(run["agent"]) + shift for run in runs]
        axes.plot([number_of(which)(run) for run in runs], places, "o", color=color, label=said)
    axes.set(xlabel="success at 1x, %", xlim=(-2, 102))
    axes.set_yticks(range(len(methods)), methods)
    axes.invert_yaxis()
    axes.legend(frameon=False)
