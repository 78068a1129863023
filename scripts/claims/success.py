"""What sections of a few methods show of them: success without attack and at the training radius, and what it differs by."""

from __future__ import annotations

from collections.abc import Iterable

from matplotlib.figure import Figure
from shared.tables import markdown_table, text_of

from .page import by_seed, cells_of, number_of, verdict, where


def success_table(runs: list[dict]) -> list[str]:
    """Return a table of the methods: greedy and sampled success in percent."""
    names = ("nominal", "1", "sampled", "sampled 1")
    rows = [
        [agent, *(text_of([number_of(name)(run) for run in where(runs, agent=agent)]) for name in names)]
        for agent in cells_of(runs, "agent")
    ]
    return markdown_table(["method", "nominal", "1x", "sampled nominal", "sampled 1x"], rows)


def success_verdicts(runs: list[dict], pairs: Iterable[tuple[str, str]]) -> list[str]:
    """Return lines on whether the first method of each pair withstands more at 1x than the second, where there are both."""
    methods = set(cells_of(runs, "agent"))
    return [
        f"- {ours} withstands more at 1x, {said}, than {other}: "
        f"{verdict(by_seed(where(runs, agent=ours), where(runs, agent=other), number_of(name)))}."
        for ours, other in pairs
        if {ours, other} <= methods
        for name, said in (("1", "greedy"), ("sampled 1", "sampled"))
    ]


def draw_success(figure: Figure, runs: list[dict]) -> None:
    """Draw the success at 1x of each method and seed, greedy and sampled."""
    axes, methods = figure.subplots(), cells_of(runs, "agent")
    for which, shift, color, said in (("1", -0.1, "#0072B2", "greedy"), ("sampled 1", 0.1, "#D55E00", "sampled")):
        places = [methods.index(run["agent"]) + shift for run in runs]
        axes.plot([number_of(which)(run) for run in runs], places, "o", color=color, label=said)
    axes.set(xlabel="success at 1x, %", xlim=(-2, 102))
    axes.set_yticks(range(len(methods)), methods)
    axes.invert_yaxis()
    axes.legend(frameon=False)
