"""Plots of a comparison as PNGs: trade-off, success by radius, lambda and epsilon, amplification, gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ...training.sharing.results import ComparedRun, ComparisonResults, Configuration
from ..reporting.plots import (
    DECODING_TITLES,
    MARKERS,
    beside,
    error_bars,
    interval_bars,
    legend,
    panels,
    place_labels,
    render,
    shown,
)
from ..reporting.results import DECODINGS, headline, multiples, times
from ..reporting.statistics import wilson
from .runs import METHODS, UNPENALISED

# Okabe and Ito's palette plus a grey. Each method always has the same colour.
_COLORS = dict(
    zip(
        METHODS,
        ("#7f7f7f", "#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442"),
        strict=True,
    )
)
_DASHED = (0, (2, 2))
_WIDTH = 10.4
_TICKS = 6
# With more runs, the bands would cover each other.
_BANDS = 6
_CONSTANT = {"regularizer_lambda": "epsilon", "epsilon": "regularizer_lambda"}


def draw_comparison(comparison: ComparisonResults) -> dict[str, bytes]:
    """
    Draw all plots for which the comparison has data.

    Args:
        comparison: Result of [`compare`].

    Returns:
        PNGs by file name: always `trade_off.png` and `epsilon.png` (success by attack radius); `lambda.png` if a run
        has a penalty; `train_epsilon.png` if a method has several training radii; `amplification_profile.png` and
        `gradient_norm.png` if these numbers were recorded.
    """
    runs, configurations = comparison["runs"], comparison["configurations"]
    plots: dict[str, Callable[[Figure], None]] = {
        "trade_off": lambda figure: _draw_trade_off(figure, comparison),
        "epsilon": lambda figure: _draw_radii(figure, comparison),
    }
    if any(c["regularizer_lambda"] for c in configurations):
        plots["lambda"] = lambda figure: _draw_curves(figure, comparison, "regularizer_lambda")
    if any(len({c["epsilon"] for c in curve}) > 1 for curve in _curves(configurations, "epsilon").values()):
        plots["train_epsilon"] = lambda figure: _draw_curves(figure, comparison, "epsilon")
    if any(run.get("amplification_profile") for run in runs.values()):
        plots["amplification_profile"] = lambda figure: _draw_profiles(figure, runs)
    if any(run["gradient_norm"] for run in runs.values()):
        plots["gradient_norm"] = lambda figure: _draw_gradients(figure, runs)
    return {f"{name}.png": render(draw, _WIDTH) for name, draw in plots.items()}


def run_styles(runs: dict[str, ComparedRun]) -> dict[str, dict[str, Any]]:
    """Return a style for each run: the colour of its method, darker for later runs of it, and its own marker."""
    styles = {}
    for method in METHODS:
        names = [name for name, run in runs.items() if run["method"] == method]
        for i, name in enumerate(names):
            light = 0.6 * (1 - (i + 1) / len(names))
            color = tuple(light + (1 - light) * part for part in to_rgb(_COLORS[method]))
            styles[name] = {"color": color, "marker": MARKERS[i % len(MARKERS)]}
    return styles


def _methods(configurations: list[Configuration]) -> dict[str, list[Configuration]]:
    found: dict[str, list[Configuration]] = {}
    for configuration in configurations:
        found.setdefault(configuration["method"], []).append(configuration)
    return found


def _draw_trade_off(figure: Figure, comparison: ComparisonResults) -> None:
    configurations, top = comparison["configurations"], headline(comparison)
    both = panels(figure, DECODING_TITLES)
    for axes, (nominal, worst) in zip(both, DECODINGS.values(), strict=True):
        for method, members in _methods(configurations).items():
            xs, ys = [c[nominal] for c in members], [c[worst][top] for c in members]
            color = _COLORS[method]
            axes.plot(xs, ys, "-", color=color, linewidth=1.2)
            across, up = (error_bars(values, members[0]["examples"]) for values in (xs, ys))
            axes.errorbar(xs, ys, up, across, "none", ecolor=color, alpha=0.25, elinewidth=1)
            axes.plot(xs, ys, "o", color=color, markerfacecolor="none", markersize=8, markeredgewidth=2)
            for run in (comparison["runs"][name] for c in members if len(c["runs"]) > 1 for name in c["runs"]):
                axes.plot(run[nominal], run[worst][top], ".", color=color, alpha=0.5, markersize=5)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_ticks([tick for tick in axis.get_ticklocs() if 0 <= tick <= 100])
        axes.set_xlabel("nominal success (% of examples)")
        axes.set_ylabel(f"success at {times(top)} the training radius (%)")
        axes.margins(0.12)
    legend(figure, [_handle(method) for method in _methods(configurations)])
    figure.draw_without_rendering()  # settles the layout, in which the labels are placed
    for axes, (nominal, worst) in zip(both, DECODINGS.values(), strict=True):
        points = [(c[nominal], c[worst][top]) for c in configurations]
        labels = [_tag(c, configurations) for c in configurations]
        place_labels(axes, points, labels, [_COLORS[c["method"]] for c in configurations])


def _handle(method: str) -> Line2D:
    style = {"marker": "o", "markerfacecolor": "none", "markersize": 8, "markeredgewidth": 2, "linewidth": 1.2}
    return Line2D([], [], color=_COLORS[method], label=method, **style)


def _tag(configuration: Configuration, configurations: list[Configuration]) -> str:
    """Return the label of a configuration within its method: lambda, and epsilon if the method has several."""
    method, strength, radius = (configuration[field] for field in ("method", "regularizer_lambda", "epsilon"))
    if method == "base":
        return shown(configuration["label"])
    parts = [] if strength is None else [f"λ {strength:g}"]
    if len({c["epsilon"] for c in configurations if c["method"] == method}) > 1:
        parts.append(f"ε {radius:g}")
    return ", ".join(parts) or method


def _draw_radii(figure: Figure, comparison: ComparisonResults) -> None:
    attacks, handles = multiples(comparison), []
    radii = [0.0, *map(float, attacks)]
    styles = run_styles(comparison["runs"])
    for axes, (nominal, worst) in zip(panels(figure, DECODING_TITLES), DECODINGS.values(), strict=True):
        handles = []
        for i, (name, run) in enumerate(comparison["runs"].items()):
            ys = [run[nominal], *(run[worst][m] for m in attacks)]
            xs = beside(radii, i, len(styles))
            handles += axes.plot(xs, ys, **styles[name], markersize=6, linewidth=1.5, label=shown(name), alpha=0.9)
            interval_bars(axes, xs, ys, run["examples"], styles[name]["color"])
        axes.set(ylim=(-3, 103), xticks=radii, xticklabels=["0\n(nominal)", *map(times, attacks)])
        axes.set_xlabel(f"attack radius (multiples of epsilon {comparison['train_epsilon']:g})")
        axes.set_ylabel("success (% of examples)")
    legend(figure, handles)


def _curves(configurations: list[Configuration], field: str) -> dict[tuple, list[Configuration]]:
    """Group the configurations of one method that differ only in `field`, lambda or epsilon; sort them by it."""
    found: dict[tuple, list[Configuration]] = {}
    for c in configurations:
        # Skip configurations that were trained without this field: no adversary, or no penalty.
        if c[field] and not (c["method"] in UNPENALISED and field == "regularizer_lambda"):
            found.setdefault((c["method"], c[_CONSTANT[field]]), []).append(c)
    return {key: sorted(curve, key=lambda c: c[field]) for key, curve in found.items()}


def _draw_curves(figure: Figure, comparison: ComparisonResults, field: str) -> None:
    configurations, top = comparison["configurations"], headline(comparison)
    curves, handles, styles = _curves(configurations, field), {}, run_styles(comparison["runs"])
    if field == "epsilon":
        curves = {key: curve for key, curve in curves.items() if len({c["epsilon"] for c in curve}) > 1}
    drawn = [c["label"] for curve in curves.values() for c in curve]
    level = [c for c in configurations if c["method"] in UNPENALISED and c["label"] not in drawn]
    titles = ("nominal", f"attacked at {times(top)} the training radius")
    for axes, multiple in zip(panels(figure, titles), (None, top), strict=True):
        for dashes, (nominal, worst) in zip(("-", _DASHED), DECODINGS.values(), strict=True):

            def height(c, nominal=nominal, worst=worst, multiple=multiple):
                return c[nominal] if multiple is None else c[worst][multiple]

            for i, ((method, constant), curve) in enumerate(curves.items()):
                style = {"color": _COLORS[method], "linestyle": dashes, "marker": MARKERS[i % len(MARKERS)]}
                several = sum(key[0] == method for key in curves) > 1
                name = "epsilon" if field == "regularizer_lambda" else "lambda"
                label = f"{method}, {name} {constant:g}" if several and constant is not None else method
                xs, ys = [c[field] for c in curve], [height(c) for c in curve]
                line = axes.plot(xs, ys, **style, label=label)
                interval_bars(axes, xs, ys, curve[0]["examples"], _COLORS[method])
                handles.setdefault(label, line[0])
            for c in level:
                style = {"color": styles[c["runs"][0]]["color"], "linestyle": dashes, "linewidth": 1.2}
                handles.setdefault(c["label"], axes.axhline(height(c), **style, label=shown(c["label"])))
                axes.axhspan(*wilson(height(c), c["examples"]), color=style["color"], alpha=0.05, linewidth=0)
        if field == "regularizer_lambda":
            axes.set_xscale("log")
            weights = sorted({c[field] for curve in curves.values() for c in curve})
            # If there are few values, show them instead of powers of ten.
            if len(weights) <= _TICKS:
                axes.set_xticks(weights, [f"{weight:g}" for weight in weights])
                axes.minorticks_off()
        axes.set_xlabel(
            "weight of the penalty, lambda" if field == "regularizer_lambda" else "training radius, epsilon"
        )
        axes.set(ylim=(-3, 103), ylabel="success (% of examples)")
    sampled = Line2D([], [], color="0.35", linestyle=_DASHED, label="sampled (dashed)")
    legend(figure, [*handles.values(), sampled])


def _draw_profiles(figure: Figure, runs: dict[str, ComparedRun]) -> None:
    axes, styles, handles = figure.add_subplot(), run_styles(runs), []
    profiles = {name: run["amplification_profile"] for name, run in runs.items() if run.get("amplification_profile")}
    for name, profile in profiles.items():
        handles += axes.plot(range(len(profile)), profile, **styles[name], markersize=6, label=shown(name))
    if all(value > 0 for profile in profiles.values() for value in profile):
        axes.set_yscale("log")
    axes.set_xticks(range(max(map(len, profiles.values()))))
    axes.set(xlabel="step t of the ascent", ylabel="amplification ||J u_t||")
    axes.grid(alpha=0.3)
    legend(figure, handles)


def _draw_gradients(figure: Figure, runs: dict[str, ComparedRun]) -> None:
    axes, styles, handles = figure.add_subplot(), run_styles(runs), []
    for name, gradient in ((name, run["gradient_norm"]) for name, run in runs.items() if run["gradient_norm"]):
        steps, means, deviations = zip(*gradient["curve"], strict=True)
        style = styles[name] | {"markersize": 4, "linewidth": 1.3}
        handles += axes.plot(steps, means, **style, label=shown(name))
        if gradient["every_step"] and len(runs) <= _BANDS:
            # The band must stay above zero, because a logarithmic scale has no zero.
            low = [max(m - d, m / 10) for m, d in zip(means, deviations, strict=True)]
            high = [m + d for m, d in zip(means, deviations, strict=True)]
            axes.fill_between(steps, low, high, color=style["color"], alpha=0.12, linewidth=0)
    axes.set_yscale("log")
    axes.set(xlabel="training step", ylabel="norm of the gradient (log scale)")
    axes.grid(alpha=0.3)
    legend(figure, handles)
