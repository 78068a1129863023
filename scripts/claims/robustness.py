"""
Which methods make agents robust, within the training radius and beyond it, with how many ascent steps and how many rows?
Every method has as many optimizer steps, and the setting that the same tuning chose for it with three ascent steps and 8,000
rows. One comparison was declared before the runs: AAJR against adversarial training with three ascent steps, by the success of
sampled answers at 1x. The section on the inner loop attacks some of these agents harder, also with what is found on earlier
checkpoints.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping

from matplotlib.figure import Figure
from shared.tables import ENOUGH_SEEDS, markdown_table, text_of

from .cells import Cell
from .methods import under_pressure
from .page import by_seed, cells_of, holm, number_of, verdict, where
from .preset import Preset

TITLE = "Robust success inside and outside the ball"
REFERENCE, PENALTY, MEASURE = "adversarial", "AAJR", "sampled 1"
DECLARED = "K = 3, 8000 rows"
# What dropout adds to adversarial training, and AAJR to both.
OF_DROPOUT = (("adversarial, dropout", REFERENCE), ("AAJR, dropout", "adversarial, dropout"))


def cells(preset: Preset, chosen: Mapping[str, float]) -> list[Cell]:
    """
    One cell for each seed, number of ascent steps and number of rows, with all methods that were tuned. The declared
    comparison has all seeds, other steps and rows as many as a verdict needs.
    """
    options = ("--multiples", *(f"{radius:g}" for radius in preset.radii))
    return [
        Cell(
            f"{_named(steps, rows)}, seed {seed}",
            under_pressure(preset.methods, chosen, steps, rows),
            seed,
            preset.steps,
            preset.examples,
            options,
            facts={"ascent_steps": steps, "rows": rows},
        )
        for steps, rows in preset.pressure
        for seed in preset.seeds[: None if (steps, rows) == preset.pressure[0] else ENOUGH_SEEDS]
    ]


def section(runs: list[dict]) -> list[str]:
    lines = [
        "Success in percent: of greedy answers without attack and under all attacks at multiples of the training radius, and "
        "of sampled answers without attack and at 1x. *train s*: median over seeds, on one thread beside other work.",
    ]
    for setting, here in _by_setting(runs).items():
        lines += ["", f"**{setting}**", "", *_table(here), ""]
        declared = by_seed(where(here, agent=PENALTY), where(here, agent=REFERENCE), number_of(MEASURE))
        said = "The declared comparison: " if setting == DECLARED else ""
        lines += [f"{said}{PENALTY} withstands more at 1x, sampled, than adversarial training: {verdict(declared)}."]
        lines += ["", *_differences(here)]
    return lines


def _table(runs: list[dict]) -> list[str]:
    radii, rows = list(runs[0]["worst_case_success"]), []
    for method in cells_of(runs, "agent"):
        mine = where(runs, agent=method)
        numbers = [text_of([number_of(name)(run) for run in mine]) for name in ("nominal", *radii, "sampled", MEASURE)]
        rows.append([method, *numbers, f"{statistics.median(run['train_seconds'] for run in mine):.0f}"])
    header = ["method", "nominal", *(f"{radius}x" for radius in radii), "sampled nominal", "sampled 1x", "train s"]
    return markdown_table(header, rows)


def _differences(runs: list[dict]) -> list[str]:
    """Return a table of what AAJR adds to each other method, and of what dropout adds."""
    methods = cells_of(runs, "agent")
    pairs = {
        f"{PENALTY}, against {other}": (PENALTY, other)
        for other in methods
        if other not in (PENALTY, OF_DROPOUT[1][0])
    }
    pairs |= {f"{more}, against {less}": (more, less) for more, less in OF_DROPOUT}
    found = {
        name: [
            by_seed(*(where(runs, agent=method) for method in pair), number_of(which))
            for which in ("1", MEASURE, "sampled")
        ]
        for name, pair in pairs.items()
    }
    sure = holm({name: values[1] for name, values in found.items() if len(values[1]) >= ENOUGH_SEEDS})
    rows = [
        [name, *(text_of(values, sign=True) for values in found[name]), f"{sure[name]:.3f}"]
        for name in found
        if name in sure
    ]
    header = ["difference in points, paired by seed", "1x", "sampled 1x", "sampled nominal", "p of sampled 1x (Holm)"]
    return markdown_table(header, rows) if rows else []


def draw(figure: Figure, runs: list[dict]) -> None:
    """Success at 1x of each method and seed, greedy and sampled, a panel for each setting."""
    settings, methods = _by_setting(runs), cells_of(runs, "agent")
    grid = figure.subplots(1, len(settings), sharey=True, squeeze=False)[0]
    for axes, (setting, here) in zip(grid, settings.items(), strict=True):
        for which, shift, color in (("1", -0.15, "#0072B2"), (MEASURE, 0.15, "#D55E00")):
            places = [methods.index(run["agent"]) + shift for run in here]
            axes.plot([number_of(which)(run) for run in here], places, "o", color=color, markersize=4)
        axes.set(title=setting, xlabel="success at 1x, %", xlim=(-2, 102))
        axes.grid(axis="y", linewidth=0.3)
    grid[0].set_yticks(range(len(methods)), methods)
    grid[0].invert_yaxis()
    figure.legend(grid[0].lines, ["greedy", "sampled"], loc="outside lower center", ncols=2, frameon=False)


def _by_setting(runs: list[dict]) -> dict[str, list[dict]]:
    """Return the runs by number of ascent steps and of rows, in order."""
    found: dict[str, list[dict]] = {}
    for run in runs:
        found.setdefault(_named(run["ascent_steps"], run["rows"]), []).append(run)
    return found


def _named(ascent_steps: int, rows: int) -> str:
    return f"K = {ascent_steps}, {rows} rows"
