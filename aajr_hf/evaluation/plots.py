"""Plots of a report: success by radius of attack, the trade-off of robustness, and amplification, each as a PNG."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import Bbox

from .results import check_results, multiples, times

_BARS = {
    "ascent\ndirections": "amplification",
    "random\ndirections": "random_amplification",
    "worst direction\n(spectral norm)": "spectral_norm",
}
# Okabe and Ito's palette, safe for colour-blind readers, without its yellow, which is faint on white.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def draw_plots(results: dict[str, Any]) -> dict[str, bytes]:
    """
    Draw success by radius of attack, success under attack by nominal success, and amplification.

    Args:
        results: `{"runs": {name: numbers}, "train_epsilon": float, "settings": {...}}`.

    Returns:
        File name to PNG: `worst_case.png`, `trade_off.png` and `amplification.png`.

    Raises:
        ValueError: If a number is absent or not finite; names the run and the field.
    """
    check_results(results)
    plots = {"worst_case": _draw_worst_case, "trade_off": _draw_trade_off, "amplification": _draw_bars}
    return {f"{name}.png": render(lambda figure, draw=draw: draw(figure, results)) for name, draw in plots.items()}


def render(draw: Callable[[Figure], None], width: float = 5.6) -> bytes:
    """What `draw` draws on a new figure, `width` inches wide, as a PNG."""
    # Without pyplot, which would keep the figures and the choice of backend globally.
    figure = Figure(figsize=(width, 4.3), dpi=220, layout="constrained", facecolor="white")
    draw(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def run_styles(results: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each run, the same in every plot; their pairs repeat after 56 runs only."""
    return {name: (_COLORS[i % len(_COLORS)], MARKERS[i % len(MARKERS)]) for i, name in enumerate(results["runs"])}


def shown(name: str) -> str:
    """A run's name as matplotlib can show it."""
    if len(name) > 40:
        name = f"{name[:19]}…{name[-20:]}"
    # A dollar would start a formula; matplotlib 3.9 leaves names that start with an underscore out of legends.
    return (f" {name}" if name.startswith("_") else name).replace("$", r"\$")


def legend(figure: Figure, handles: list[Any]) -> None:
    """A legend below the plots, in as many columns as there is room for; the figure grows by it."""
    longest = max(len(handle.get_label()) for handle in handles)
    columns = max(1, min(len(handles), round(58 * figure.get_figwidth() / 5.6) // (longest + 7)))
    figure.set_figheight(3.6 + 0.23 * math.ceil(len(handles) / columns))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False)


def _draw_worst_case(figure: Figure, results: dict[str, Any]) -> None:
    greedy, sampled = ("nominal_success", "worst_case_success"), ("sampled_success", "sampled_worst_case_success")
    draw_by_radius(figure, results, multiples(results), greedy, sampled, "sampled (dashed)", "success (% of examples)")


def draw_by_radius(
    figure: Figure,
    results: dict[str, Any],
    attacks: list[str],
    solid: tuple[str, str],
    dashed: tuple[str, str],
    dashed_label: str,
    label: str,
) -> None:
    """Two lines a run over the radii of the attack, each from a field without attack and one by multiple."""
    axes, handles = figure.add_subplot(), []
    radii = [0.0, *map(float, attacks)]

    def heights(run: dict[str, Any], fields: tuple[str, str]) -> list[float]:
        return [run[fields[0]], *(run[fields[1]][m] for m in attacks)]

    for i, (name, (color, marker)) in enumerate(run_styles(results).items()):
        run = results["runs"][name]
        # Earlier lines are wider and their markers larger, so that a run with the same numbers leaves them visible.
        size = max(4.0, 9.0 - i)
        style = {"color": color, "linewidth": size / 3, "label": shown(name)}
        handles += axes.plot(radii, heights(run, solid), marker=marker, markersize=size, **style)
        axes.plot(radii, heights(run, dashed), linestyle=(0, (2, 2)), **style | {"linewidth": 1.2})
    handles.append(Line2D([], [], color="0.35", linestyle=(0, (2, 2)), linewidth=1.2, label=dashed_label))
    axes.set(ylim=(-3, 103), xticks=radii, xticklabels=["0\n(nominal)", *map(times, attacks)])
    axes.set_xlabel(f"attack radius (multiples of the training epsilon, {results['train_epsilon']:g})")
    axes.set_ylabel(label)
    axes.grid(alpha=0.3)
    legend(figure, handles)


def _draw_trade_off(figure: Figure, results: dict[str, Any]) -> None:
    axes, top = figure.add_subplot(), multiples(results)[-1]
    points = [(run["nominal_success"], run["worst_case_success"][top]) for run in results["runs"].values()]
    styles = list(run_styles(results).values())
    for (color, marker), point in zip(styles, points, strict=True):
        # Hollow, so that the other one of two equal points can be seen.
        axes.plot(*point, marker, color=color, markerfacecolor="none", markersize=9, markeredgewidth=2)
    for axis, values in zip((axes.xaxis, axes.yaxis), zip(*points, strict=True), strict=True):
        middle, half = (min(values) + max(values)) / 2, max(7.5, 0.75 * (max(values) - min(values)))
        axis.axes.set(**{f"{axis.axis_name}lim": (middle - half, middle + half)})
        # Room for labels may reach past 100 percent, ticks do not.
        axis.set_ticks(
            [tick for tick in axis.get_ticklocs() if max(0, middle - half) <= tick <= min(100, middle + half)]
        )
    axes.set_xlabel("nominal success (% of examples)")
    axes.set_ylabel(f"success at {times(top)} the training epsilon (% of examples)")
    axes.grid(alpha=0.3)
    figure.draw_without_rendering()  # settles the layout, in which the labels are placed
    place_labels(axes, points, map(shown, results["runs"]), (color for color, _ in styles))


def place_labels(axes: Axes, points: list[tuple[float, float]], labels: Iterable[str], colors: Iterable[str]) -> None:
    """Write each label near its point, with a leader, and over no other label and no point; the layout must be settled."""
    figure = axes.figure
    pixels, point_size = axes.transData.transform(points), figure.dpi / 72
    reach = 8 * point_size
    taken = [Bbox.from_extents(x - reach, y - reach, x + reach, y + reach) for x, y in pixels]
    for i, (text, color) in enumerate(zip(labels, colors, strict=True)):
        x, y = pixels[i]
        label = axes.annotate(
            text,
            points[i],
            (0, 0),
            textcoords="offset points",
            color="0.15",
            ha="center",
            va="center",
            # Labels cover the leaders of later ones.
            zorder=4 - i / len(pixels),
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
            arrowprops={"arrowstyle": "-", "color": color, "alpha": 0.7, "shrinkA": 0, "shrinkB": 6},
        )
        label.set_in_layout(False)
        size = label.get_window_extent().padded(2 * point_size)
        place = _free_place(size.width, size.height, x, y, axes.bbox, taken)
        label.xyann = ((place.x0 + place.x1) / 2 - x) / point_size, ((place.y0 + place.y1) / 2 - y) / point_size
        taken.append(place)


def _free_place(width: float, height: float, x: float, y: float, frame: Bbox, taken: list[Bbox]) -> Bbox:
    """A box of this size close to (x, y), in pixels, that is inside the frame and overlaps none that are taken."""
    for distance in range(1, 100):
        # To the sides first: beside its point a label reads best.
        for right, up in ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1)):
            left = x - width / 2 + right * (width / 2 + distance * height / 8)
            bottom = y - height / 2 + up * distance * height / 4
            left = max(frame.x0, min(left, frame.x1 - width))
            bottom = max(frame.y0, min(bottom, frame.y1 - height))
            place = Bbox.from_bounds(left, bottom, width, height)
            if not any(place.overlaps(other) for other in taken):
                return place
    return place


def _draw_bars(figure: Figure, results: dict[str, Any]) -> None:
    axes, width, handles = figure.add_subplot(), 0.8 / len(results["runs"]), []
    values = [run[field] for run in results["runs"].values() for field in _BARS.values() if run[field] > 0]
    for i, (name, (color, _)) in enumerate(run_styles(results).items()):
        heights = [results["runs"][name][field] for field in _BARS.values()]
        places = [group - 0.4 + (i + 0.5) * width for group in range(len(_BARS))]
        handles.append(axes.bar(places, heights, 0.9 * width, color=color, label=shown(name)))
    if values:
        axes.set_yscale("log")
        axes.set_ylim(10 ** math.floor(math.log10(min(values)) - 0.3), 2 * max(values))
    axes.set_xticks(range(len(_BARS)), _BARS)
    axes.set_ylabel("amplification (log scale):\nlogits per unit of embedding")
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    legend(figure, handles)
