"""
Which methods make agents robust, within the training radius and beyond it, with how many ascent steps and how many rows?
Every method has as many optimizer steps, and the setting that the same tuning chose for it.
"""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from .cells import Cell
from .methods import METHODS
from .page import by_seed, cells_of, markdown_table, number_of, text_of, verdict
from .preset import Preset

TITLE = "Robust success inside and outside the ball"
REFERENCE = "adversarial"


def cells(preset: Preset, chosen: Mapping[str, float]) -> list[Cell]:
    """One cell for each seed, number of ascent steps and number of rows, with all methods that were tuned."""
    options = ("--multiples", *(f"{radius:g}" for radius in preset.radii))
    return [
        Cell(
            f"K = {steps}, {rows} rows, seed {seed}",
            {
                method: METHODS[method].under_pressure(chosen[method], steps, rows)
                for method in preset.methods
                if method in chosen
            },
            seed,
            preset.steps,
            preset.examples,
            options,
        )
        for steps, rows in preset.pressure
        for seed in preset.seeds
    ]


def section(runs: list[dict]) -> list[str]:
    lines = [
        "Success in percent without attack and under all attacks at multiples of the training radius. *against adversarial*: "
        "points at 1x, paired by seed.",
    ]
    for setting in dict.fromkeys(map(_setting, runs)):
        here = [run for run in runs if _setting(run) == setting]
        lines += ["", f"**{setting}**", "", *_table(here), ""]
        for method in cells_of(here, "agent"):
            if METHODS[method].tuned == "regularizer_lambda":
                gains = by_seed(_named(here, method), _named(here, REFERENCE), number_of("1"))
                lines.append(f"- {method} withstands more at 1x than adversarial training: {verdict(gains)}.")
    return lines


def _table(runs: list[dict]) -> list[str]:
    radii, rows = list(runs[0]["worst_case_success"]), []
    for method in cells_of(runs, "agent"):
        mine = _named(runs, method)
        numbers = [text_of([number_of(name)(run) for run in mine]) for name in ("nominal", "sampled", *radii)]
        against = by_seed(mine, _named(runs, REFERENCE), number_of("1")) if method != REFERENCE else []
        rows.append([method, *numbers, text_of(against, sign=True), text_of([run["train_seconds"] for run in mine])])
    header = ["method", "nominal", "sampled", *(f"{radius}x" for radius in radii), "against adversarial", "train s"]
    return markdown_table(header, rows)


def draw(figure: Figure, runs: list[dict]) -> None:
    """Success at 1x over the number of training rows, a panel for each number of ascent steps."""
    every = sorted({ascent_and_rows(run)[0] for run in runs})
    grid = figure.subplots(1, len(every), sharey=True, squeeze=False)[0]
    for axes, steps in zip(grid, every, strict=True):
        here = [run for run in runs if ascent_and_rows(run)[0] == steps]
        rows = sorted({ascent_and_rows(run)[1] for run in here})
        for i, method in enumerate(cells_of(here, "agent")):
            mine = [[run for run in _named(here, method) if ascent_and_rows(run)[1] == number] for number in rows]
            means = [sum(map(number_of("1"), some)) / len(some) for some in mine]
            axes.plot(rows, means, "o-" if i < 10 else "s--", markersize=4, label=method)
        axes.set(xscale="log", xlabel="training rows", title=f"K = {steps}", ylim=(-2, 102))
    grid[0].set_ylabel("success at 1x, %")
    handles = grid[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=4, frameon=False, fontsize="small")


def ascent_and_rows(run: dict) -> tuple[int, int]:
    """Return the number of ascent steps and of training rows of a run."""
    steps, rows = _setting(run).split(", ")
    return int(steps.rpartition(" ")[2]), int(rows.partition(" ")[0])


def _setting(run: dict) -> str:
    return run["cell"].rpartition(", seed ")[0]


def _named(runs: list[dict], agent: str) -> list[dict]:
    return [run for run in runs if run["agent"] == agent]
