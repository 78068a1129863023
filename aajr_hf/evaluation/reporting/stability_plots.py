"""Plots of the stability of the inner ascent as PNGs: curvature, step sizes and shares at each step."""

from __future__ import annotations

import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ...training.sharing.results import RobustnessResults
from .plots import legend, render, run_styles, shown
from .stability_report import runs_with_stability

_DASHED = (0, (3, 2))
# With more runs, the bands would cover each other.
_BANDS = 4
_SHARES = {
    "within_bound": "$\\eta_t \\leq 1/L_{eff}$",
    "within_curvature": "$\\eta_t \\leq 1/\\max|\\kappa|$",
    "monotone": "monotone",
    "at_boundary": "at the boundary",
}


def draw_stability(results: RobustnessResults) -> dict[str, bytes]:
    """
    Draw the stability of the runs for which it was measured.

    Returns:
        PNGs by file name: `stability_curvature.png`, `stability_steps.png` and `stability_shares.png`; empty if no run
        has it.
    """
    if not runs_with_stability(results):
        return {}
    return {
        "stability_curvature.png": render(lambda figure: _draw_curvature(figure, results)),
        "stability_steps.png": render(lambda figure: _draw_step_sizes(figure, results)),
        "stability_shares.png": render(lambda figure: _draw_shares(figure, results)),
    }


def _draw_curvature(figure: Figure, results: RobustnessResults) -> None:
    bounds = {"$L_{eff}$ (dashed)": (_DASHED, lambda medians: medians["effective_smoothness"])}
    label = "$|\\kappa_t|$, absolute curvature (log scale)"
    _draw_against(figure, results, "absolute_curvature", bounds, label)


def _draw_step_sizes(figure: Figure, results: RobustnessResults) -> None:
    bounds = {
        "$1/L_{eff}$ (dashed)": (_DASHED, lambda medians: medians["step_size_bound"]),
        "1/max|κ| (dotted)": (":", lambda medians: 1 / (medians["largest_absolute_curvature"] or math.inf)),
    }
    _draw_against(figure, results, "step_size", bounds, "$\\eta_t$, step size (log scale),\nas of a gradient step")


def _draw_against(
    figure: Figure, results: RobustnessResults, field: str, bounds: dict[str, tuple], label: str
) -> None:
    """
    Draw for each run the median at every step with its quartiles, and horizontal lines for bounds of the whole ascent.

    Args:
        bounds: By label, the line style of a bound, and a function that computes it from the medians over examples.
    """
    axes, handles, runs = figure.add_subplot(), [], runs_with_stability(results)
    styles = run_styles(results)
    for name, run in runs.items():
        color, marker = styles[name]
        low, middle, high = (_positive(values) for values in zip(*run["stability"]["per_step"][field], strict=True))
        handles += axes.plot(
            range(len(middle)), middle, marker=marker, markersize=6, linewidth=1.8, color=color, label=shown(name)
        )
        if len(runs) <= _BANDS:
            axes.fill_between(range(len(middle)), low, high, color=color, alpha=0.12, linewidth=0)
        medians = {name: quartiles[1] for name, quartiles in run["stability"]["per_example"].items()}
        for style, level in bounds.values():
            if level(medians) > 0:
                axes.axhline(level(medians), linestyle=style, linewidth=1.4, color=color)
    for bound, (style, _) in bounds.items():
        handles.append(Line2D([], [], color="0.35", linestyle=style, linewidth=1.4, label=bound))
    if any(value > 0 for line in axes.lines for value in line.get_ydata()):
        axes.set_yscale("log")
    axes.set_ylabel(label)
    _label_steps(axes)
    legend(figure, handles)


def _draw_shares(figure: Figure, results: RobustnessResults) -> None:
    handles, styles = [], run_styles(results)
    grid = figure.subplots(2, 2, sharex=True, sharey=True)
    for axes, (field, title) in zip(grid.flat, _SHARES.items(), strict=True):
        handles = []
        for i, (name, run) in enumerate(runs_with_stability(results).items()):
            color, marker = styles[name]
            shares = run["stability"]["shares"][field]
            # Earlier lines are wider, so that a run with the same numbers leaves them visible.
            size = max(3.0, 8.0 - i)
            style = {"markersize": size, "linewidth": size / 3}
            handles += axes.plot(range(len(shares)), shares, marker=marker, color=color, label=shown(name), **style)
        axes.set(ylim=(-3, 103), title=title)
        _label_steps(axes)
        axes.label_outer()
    for axes in grid[:, 0]:
        axes.set_ylabel("examples (%)")
    legend(figure, handles)
    figure.set_figheight(figure.get_figheight() + 1.2)


def _label_steps(axes: Axes) -> None:
    axes.set_xlabel("step $t$ of the ascent")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(alpha=0.3)


def _positive(values: tuple[float, ...]) -> list[float]:
    """Replace values that a logarithmic axis cannot show with gaps."""
    return [value if value > 0 else math.nan for value in values]
