"""Plots of a report as PNGs: success by attack radius, trade-off, amplification, and the ray."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import Bbox

from ...training.sharing.results import EvaluationResults, Results, RobustnessResults
from .results import DECODINGS, check_results, headline, multiples, times
from .statistics import wilson

_BARS = {
    "ascent\ndirections": "amplification",
    "random\ndirections": "random_amplification",
    "worst direction\n(spectral norm)": "spectral_norm",
}
# Okabe and Ito's palette, which is safe for colour-blind readers. Its yellow is left out, because it is faint on
# white.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
# Widths in inches of one panel, and of two panels side by side.
_NARROW, WIDE = 5.6, 9.6
DECODING_TITLES = ("greedy decoding", "sampling at temperature 1")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def draw_plots(results: RobustnessResults) -> dict[str, bytes]:
    """
    Draw success by attack radius, success under attack by nominal success, amplification and, if a run has it, success
    and loss along the ray through the worst perturbation.

    Returns:
        PNGs by file name: `worst_case.png`, `trade_off.png`, `amplification.png` and `ray.png`.

    Raises:
        ValueError: If a number is missing or not finite; names the run and the field.
    """
    check_results(results)
    plots = {
        "worst_case": (_draw_worst_case, WIDE),
        "trade_off": (_draw_trade_off, _NARROW),
        "amplification": (_draw_bars, _NARROW),
    }
    if any(run.get("ray") for run in results["runs"].values()):
        plots["ray"] = _draw_ray, WIDE
    return {f"{name}.png": render(partial(draw, results=results), width) for name, (draw, width) in plots.items()}


def render(draw: Callable[[Figure], None], width: float = _NARROW) -> bytes:
    """Call `draw` on a new figure, `width` inches wide, and return it as a PNG."""
    # pyplot is not used, because it keeps figures and the backend as global state.
    figure = Figure(figsize=(width, 4.3), dpi=220, layout="constrained", facecolor="white")
    draw(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def run_styles(results: Results) -> dict[str, tuple[str, str]]:
    """Return colour and marker of each run, the same in every plot. The pairs repeat only after 56 runs."""
    return {name: (_COLORS[i % len(_COLORS)], MARKERS[i % len(MARKERS)]) for i, name in enumerate(results["runs"])}


def shown(name: str) -> str:
    """Return the name of a run in a form that matplotlib can show."""
    if len(name) > 40:
        name = f"{name[:19]}…{name[-20:]}"
    # A dollar sign would start a formula, and matplotlib 3.9 omits names with a leading underscore from legends.
    return (f" {name}" if name.startswith("_") else name).replace("$", r"\$")


def legend(figure: Figure, handles: list[Any]) -> None:
    """Add a legend below the plots, with as many columns as fit, and make the figure higher by its height."""
    longest = max(len(handle.get_label()) for handle in handles)
    columns = max(1, min(len(handles), round(58 * figure.get_figwidth() / 5.6) // (longest + 7)))
    figure.set_figheight(3.6 + 0.23 * math.ceil(len(handles) / columns))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False)


def error_bars(shares: list[float], examples: int) -> list[list[float]]:
    """Return the distances from shares in percent to the lower and upper ends of their 95 % intervals."""
    intervals = [wilson(share, examples) for share in shares]
    below = [max(0.0, share - low) for share, (low, _) in zip(shares, intervals, strict=True)]
    return [below, [max(0.0, high - share) for share, (_, high) in zip(shares, intervals, strict=True)]]


def interval_bars(axes: Axes, places: list[float], shares: list[float], examples: int, color: Any) -> None:
    """Draw the 95 % intervals of shares as vertical bars."""
    axes.errorbar(places, shares, error_bars(shares, examples), fmt="none", ecolor=color, alpha=0.45, elinewidth=1.2)


def beside(places: list[float], i: int, runs: int) -> list[float]:
    """Shift the places of the i-th of `runs` runs a little, so that the intervals do not overlap."""
    return [place + 0.012 * places[-1] * (i - (runs - 1) / 2) for place in places]


def panels(figure: Figure, titles: tuple[str, ...]) -> tuple[Axes, ...]:
    """Make empty panels side by side."""
    made = tuple(figure.subplots(1, len(titles), squeeze=False)[0])
    for axes, title in zip(made, titles, strict=True):
        axes.set_title(title, fontsize="medium")
        axes.grid(alpha=0.3)
    return made


def _draw_worst_case(figure: Figure, results: RobustnessResults) -> None:
    titles = (DECODING_TITLES[0], "sampling at its own temperature")
    titles = titles if "temperatures" in results["settings"] else DECODING_TITLES
    fields = dict(zip(titles, DECODINGS.values(), strict=True))
    draw_by_radius(figure, results, multiples(results), fields, "success (% of examples)")


def draw_by_radius(
    figure: Figure, results: EvaluationResults, attacks: list[str], fields: dict[str, tuple[str, str]], label: str
) -> None:
    """
    Draw one panel for each of two fields, with one line per run over the attack radii.

    Args:
        fields: By title of the panel, the field without attack and the field by multiple.
    """
    radii, runs, handles = [0.0, *map(float, attacks)], results["runs"], []
    for axes, (nominal, worst) in zip(panels(figure, tuple(fields)), fields.values(), strict=True):
        handles = []
        for i, (name, (color, marker)) in enumerate(run_styles(results).items()):
            heights = [runs[name][nominal], *(runs[name][worst][m] for m in attacks)]
            places = beside(radii, i, len(runs))
            handles += axes.plot(places, heights, color=color, marker=marker, markersize=6, label=shown(name))
            interval_bars(axes, places, heights, runs[name]["examples"], color)
        axes.set(ylim=(-3, 103), xticks=radii, xticklabels=["0\n(nominal)", *map(times, attacks)])
        axes.set_xlabel(f"attack radius (multiples of epsilon {results['train_epsilon']:g})")
        axes.set_ylabel(label)
    legend(figure, handles)


def _draw_ray(figure: Figure, results: RobustnessResults) -> None:
    left, right = panels(figure, ("greedy success", "negative log-likelihood of the expert's answer"))
    handles = []
    for name, (color, _) in run_styles(results).items():
        run = results["runs"][name]
        if not (ray := run.get("ray")):
            continue
        handles += left.plot(ray["multiples"], ray["success"], color=color, linewidth=1.8, label=shown(name))
        below, above = error_bars(ray["success"], run["examples"])
        low, high = (
            [s + sign * bar for s, bar in zip(ray["success"], bars, strict=True)]
            for sign, bars in ((-1, below), (1, above))
        )
        left.fill_between(ray["multiples"], low, high, color=color, alpha=0.12, linewidth=0)
        right.plot(ray["multiples"], ray["nll"], color=color, linewidth=1.8)
    for axes in (left, right):
        axes.axvline(1.0, color="0.35", linestyle=(0, (2, 2)), linewidth=1.2)
        axes.set_xlabel("place on the ray (multiples of epsilon)")
    handles.append(Line2D([], [], color="0.35", linestyle=(0, (2, 2)), linewidth=1.2, label="radius of training"))
    left.set(ylim=(-3, 103), ylabel="success (% of examples)")
    right.set(ylabel="nats per token")
    right.set_ylim(bottom=0)
    legend(figure, handles)


def _draw_trade_off(figure: Figure, results: RobustnessResults) -> None:
    axes, top, runs = figure.add_subplot(), headline(results), results["runs"]
    points = [(run["nominal_success"], run["worst_case_success"][top]) for run in runs.values()]
    styles = list(run_styles(results).values())
    for (color, marker), point, run in zip(styles, points, runs.values(), strict=True):
        across, up = (error_bars([share], run["examples"]) for share in point)
        axes.errorbar(*point, up, across, "none", ecolor=color, alpha=0.4, elinewidth=1.2)
        # Use hollow markers, so that both of two equal points are visible.
        axes.plot(*point, marker, color=color, markerfacecolor="none", markersize=9, markeredgewidth=2)
    for i, axis in enumerate((axes.xaxis, axes.yaxis)):
        ends = [
            end for point, run in zip(points, runs.values(), strict=True) for end in wilson(point[i], run["examples"])
        ]
        middle, half = (min(ends) + max(ends)) / 2, max(7.5, 0.6 * (max(ends) - min(ends)))
        axis.axes.set(**{f"{axis.axis_name}lim": (middle - half, middle + half)})
        # The axis may go beyond 100 percent to make room for labels, but ticks must not.
        axis.set_ticks(
            [tick for tick in axis.get_ticklocs() if max(0, middle - half) <= tick <= min(100, middle + half)]
        )
    axes.set_xlabel("nominal success (% of examples)")
    axes.set_ylabel(f"success at {times(top)} the training epsilon (% of examples)")
    axes.grid(alpha=0.3)
    figure.draw_without_rendering()  # settles the layout, in which the labels are placed
    place_labels(axes, points, map(shown, runs), (color for color, _ in styles))


def place_labels(axes: Axes, points: list[tuple[float, float]], labels: Iterable[str], colors: Iterable[str]) -> None:
    """Write each label near its point, connected by a line, without overlaps. The layout must be final."""
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
            # Labels are drawn over the lines of later labels.
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
    """Return a box of this size, in pixels, near (x, y) and inside the frame that overlaps no taken box."""
    for distance in range(1, 100):
        # Try the diagonals first, because they are free of the interval bars.
        for right, up in ((1, 1), (-1, 1), (1, -1), (-1, -1), (1, 0), (-1, 0), (0, 1), (0, -1)):
            left = x - width / 2 + right * (width / 2 + distance * height / 8)
            bottom = y - height / 2 + up * distance * height / 4
            left = max(frame.x0, min(left, frame.x1 - width))
            bottom = max(frame.y0, min(bottom, frame.y1 - height))
            place = Bbox.from_bounds(left, bottom, width, height)
            if not any(place.overlaps(other) for other in taken):
                return place
    return place


def _draw_bars(figure: Figure, results: RobustnessResults) -> None:
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
