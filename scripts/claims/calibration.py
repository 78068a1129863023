"""
Is dullness a matter of temperature? A penalty shrinks logits, so an agent samples right answers less often than it knows
them. `aajr calibrate` finds the temperature with the lowest negative log-likelihood on other held-out observations.
"""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure
from shared.tables import ENOUGH_SEEDS, markdown_table, text_of

from aajr_hf.evaluation.reporting.plots import panels

from .cells import Cell
from .methods import METHODS, under_pressure
from .page import by_seed, cells_of, number_of, verdict, where
from .preset import Preset

TITLE = "Calibration: sampled success at an agent's own temperature"
REFERENCE = "adversarial"
AT_ONE, AT_OWN = "temperature 1", "own temperature"


def cells(preset: Preset, chosen: Mapping[str, float]) -> list[Cell]:
    """Two cells for each of a few seeds: sampled at temperature 1, and at each agent's own. The agents are those of `robustness`."""
    return [
        Cell(
            f"{said}, seed {seed}",
            under_pressure(preset.methods, chosen, *preset.pressure[0]),
            seed,
            preset.steps,
            preset.examples,
            ("--multiples", "1"),
            calibrated=said == AT_OWN,
            facts={"sampled_at": said},
        )
        for seed in preset.seeds[:ENOUGH_SEEDS]
        for said in (AT_ONE, AT_OWN)
    ]


def section(runs: list[dict]) -> list[str]:
    rows = []
    for method in cells_of(runs, "agent"):
        mine = {said: where(runs, agent=method, sampled_at=said) for said in (AT_ONE, AT_OWN)}
        cells = [text_of([run["temperature"] for run in mine[AT_OWN]], 2)]
        for number in (number_of("sampled"), _sampled_worst):
            cells += [text_of([number(run) for run in some]) for some in mine.values()]
        rows.append([method, *cells])
    header = ["method", "own temperature", "sampled at 1", "at its own", "1x, sampled at 1", "1x, at its own"]
    lines = [
        "Success of sampled answers in percent, without attack and under all attacks at 1x. *Duller*: sampling loses more "
        "against greedy answers.",
        "",
    ]
    lines += [*markdown_table(header, rows), ""]
    for method in cells_of(runs, "agent"):
        if METHODS[method].tuned == "regularizer_lambda":
            pair = [where(runs, agent=name, sampled_at=AT_OWN) for name in (method, REFERENCE)]
            said = verdict(by_seed(*pair, _dullness))
            lines.append(f"- At its own temperature, {method} is still duller than adversarial training: {said}.")
    return lines


def draw(figure: Figure, runs: list[dict]) -> None:
    """Sampled success of each method at temperature 1 and at its own, without attack and at 1x."""
    methods = cells_of(runs, "agent")
    numbers = {"no attack": number_of("sampled"), "all attacks at 1x": _sampled_worst}
    drawn = panels(figure, ("no attack", "all attacks at 1x"))
    for axes, number in zip(drawn, numbers.values(), strict=True):
        for shift, said in ((-0.15, AT_ONE), (0.15, AT_OWN)):
            for row, method in enumerate(methods):
                values = [number(run) for run in where(runs, agent=method, sampled_at=said)]
                label = said if row == 0 else None
                color = "#0072B2" if said == AT_ONE else "#D55E00"
                axes.plot(values, [row + shift] * len(values), "o", color=color, label=label)
        axes.set_xlabel("success of sampled answers, %")
    drawn[0].set_yticks(range(len(methods)), methods)
    drawn[1].set_yticks(range(len(methods)), [""] * len(methods))
    for axes in drawn:
        axes.invert_yaxis()
    handles = axes.get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=2, frameon=False)


def _sampled_worst(run: dict) -> float:
    return run["sampled_worst_case_success"]["1"]


def _dullness(run: dict) -> float:
    """How many points of success sampling loses against greedy answers."""
    return run["nominal_success"] - run["sampled_success"]
