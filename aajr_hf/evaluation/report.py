"""Results of several agents as a terminal table, plain sentences, JSON, plots and one self-contained web page."""

from __future__ import annotations

import base64
import io
import json
import math
import os
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import Bbox
from rich import box
from rich.table import Table
from rich.text import Text

from .. import __version__

_BY_MULTIPLE = ("worst_case_success", "sampled_worst_case_success", "worst_case_cost")
_NUMBERS = (
    *("nominal_success", "sampled_success", "nominal_cost", "amplification", "random_amplification"),
    *("spectral_norm", "embedding_norm", "examples"),
)
_OTHER_COLUMNS = {
    ("nom.", "cost"): "nominal_cost",
    ("ampl.", "ascent"): "amplification",
    ("ampl.", "random"): "random_amplification",
    ("spectral", "norm"): "spectral_norm",
    ("train", "s"): "train_seconds",
}
_BARS = {
    "ascent\ndirections": "amplification",
    "random\ndirections": "random_amplification",
    "worst direction\n(spectral norm)": "spectral_norm",
}
# Okabe and Ito's palette, safe for colour-blind readers, without its yellow, which is faint on white.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def results_table(results: dict[str, Any]) -> Table:
    """
    One row a run: success in percent, cost, amplification and training time; it fits 100 columns.

    Args:
        results: `{"runs": {name: numbers}, "train_epsilon": float, "settings": {...}}`. Absent numbers show as "-".

    Returns:
        A rich table; the best value of each success column is bold.
    """
    headers, rows = _cells(results)
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False, caption_justify="left")
    table.caption = (
        "Success in percent: greedy decoding (sampling at temperature 1).\n"
        f"worst Nx: attacked at N times the training epsilon, {results['train_epsilon']:g}."
    )
    # A usual name stays whole; where space is short, success folds first, between its two numbers.
    short_names = max(map(len, results["runs"]), default=0) <= 24
    table.add_column("run", no_wrap=short_names, overflow="fold")
    for first, second in headers[1:]:
        table.add_column(f"{first}\n{second}", justify="right", no_wrap=second != "%")
    for row in rows:
        # Text, not str: a run's name is not markup.
        table.add_row(*(Text(text, style="bold" if best else "") for text, best in row))
    return table


def summary_sentences(results: dict[str, Any]) -> list[str]:
    """
    Whether regularization helped and what it cost: run "aajr" against "adversarial", "sft" and "base", as far as they
    are there, then the most robust run of all.

    Raises:
        ValueError: If a number is absent or not finite; names the run and the field.
    """
    _check(results)
    runs, top = results["runs"], _multiples(results)[-1]
    sentences = []
    if "aajr" in runs:
        sentences += [_comparison(runs, name, top) for name in ("adversarial", "sft", "base") if name in runs]
    worst = {name: round(run["worst_case_success"][top], 1) for name, run in runs.items()}
    leaders = ", ".join(
        f"{name} (sampled {_percent(run['sampled_worst_case_success'][top])}%; "
        f"{_percent(run['nominal_success'])}% without attack)"
        for name, run in runs.items()
        if worst[name] == max(worst.values())
    )
    sentences.append(
        f"Most robust at {_times(top)} the training radius, with {_percent(max(worst.values()))}% success: {leaders}."
    )
    examples = min(run["examples"] for run in runs.values())
    if examples > 0 and len(runs) > 1:
        margin = 196 * math.sqrt(0.5 / examples)  # two independent shares, both one half: the widest margin
        sentences.append(
            f"With {examples} examples, a difference in success of less than {margin:.1f} points can be chance."
        )
    return sentences


def write_json(results: dict[str, Any], path: str | Path) -> None:
    """
    Write the results as JSON, atomically; folders are made as needed.

    Raises:
        ValueError: If a number is absent or not finite; names the run and the field, and nothing is written.
    """
    _check(results)
    _replace_file(Path(path), (json.dumps(results, indent=2, allow_nan=False) + "\n").encode())


def write_plots(results: dict[str, Any], folder: str | Path) -> list[Path]:
    """
    Write `worst_case.png`, `trade_off.png` and `amplification.png`, each atomically; folders are made as needed.

    Returns:
        The three paths.

    Raises:
        ValueError: If a number is absent or not finite; names the run and the field, and nothing is written.
    """
    plots = _plots(results)
    for name, image in plots.items():
        _replace_file(Path(folder) / name, image)
    return [Path(folder) / name for name in plots]


def write_report(results: dict[str, Any], path: str | Path) -> None:
    """
    Write one HTML page, atomically, that needs no other file and no network: summary, table, plots and settings.

    Raises:
        ValueError: If a number is absent or not finite; names the run and the field, and nothing is written.
    """
    images = {Path(name).stem: base64.b64encode(image).decode() for name, image in _plots(results).items()}
    headers, rows = _cells(results)
    template = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = template.from_string(Path(__file__).with_name("report.html.j2").read_text(encoding="utf-8")).render(
        sentences=summary_sentences(results),
        headers=headers,
        rows=rows,
        images=images,
        top=_times(_multiples(results)[-1]),
        train_epsilon=results["train_epsilon"],
        settings=results["settings"],
        everything=json.dumps(results, indent=2, allow_nan=False),
        version=__version__,
    )
    _replace_file(Path(path), page.encode())


def _check(results: dict[str, Any]) -> None:
    runs, multiples = results["runs"], _multiples(results)
    if not runs:
        raise ValueError("the results hold no runs")
    if not multiples:
        raise ValueError(f"run {next(iter(runs))!r}, field 'worst_case_success': no radius of attack")
    for name, run in runs.items():
        values = {field: run.get(field) for field in _NUMBERS}
        values |= {f"{field}.{m}": _value(run, field, m) for field in _BY_MULTIPLE for m in multiples}
        if run.get("train_seconds") is not None:
            values["train_seconds"] = run["train_seconds"]
        for field, value in values.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(f"run {name!r}, field {field!r}: expected a finite number, got {value!r}")
    for field, value in {"train_epsilon": results["train_epsilon"], **results["settings"]}.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"settings, field {field!r}: expected a finite number, got {value!r}")


def _value(run: dict[str, Any], field: str, multiple: str | None = None) -> float | None:
    return run.get(field) if multiple is None else (run.get(field) or {}).get(multiple)


def _multiples(results: dict[str, Any]) -> list[str]:
    """The radii of the attack in multiples of the training radius, ascending: every run's, as the objects name them."""
    names = {name for run in results["runs"].values() for name in run.get("worst_case_success") or ()}
    return sorted(names, key=float)


def _times(multiple: str) -> str:
    return f"{float(multiple):g}x"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}".replace("100.0", "100")


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if 100 <= abs(value) < 1e5 else f"{value:#.3g}".rstrip(".")


def _cells(results: dict[str, Any]) -> tuple[list[tuple[str, str]], list[list[tuple[str, bool]]]]:
    """Headers in two lines, and per run the cells as text and whether it is the best of its column."""
    runs = results["runs"].values()
    headers, rows = [("run", "")], [[(name, False)] for name in results["runs"]]
    success = [("nominal", "nominal_success", "sampled_success", None)]
    for multiple in _multiples(results):
        success.append((f"worst {_times(multiple)}", "worst_case_success", "sampled_worst_case_success", multiple))
    for header, greedy_field, sampled_field, multiple in success:
        headers.append((header, "%"))
        greedy = [_value(run, greedy_field, multiple) for run in runs]
        # Compared as shown: of two numbers that look the same, none is the better one.
        best = _percent(max((value for value in greedy if value is not None and math.isfinite(value)), default=None))
        for row, run, value in zip(rows, runs, greedy, strict=True):
            text = _percent(value)
            row.append((f"{text} ({_percent(_value(run, sampled_field, multiple))})", text == best != "-"))
    for header, field in _OTHER_COLUMNS.items():
        headers.append(header)
        for row, run in zip(rows, runs, strict=True):
            row.append((_number(run.get(field)), False))
    return headers, rows


def _comparison(runs: dict[str, Any], name: str, top: str) -> str:
    ours, theirs = runs["aajr"], runs[name]

    def change(greedy: str, sampled: str, multiple: str | None = None) -> str:
        (before, sampled_before), (after, sampled_after) = (
            [round(_value(run, field, multiple), 1) for field in (greedy, sampled)] for run in (theirs, ours)
        )
        # From the rounded numbers, so that a difference is the one between the two that the reader sees.
        points, sampled_points = round(after - before, 1), round(sampled_after - sampled_before, 1)
        verb = (
            f"gains {points} points of" if points > 0 else f"loses {-points} points of" if points < 0 else "keeps its"
        )
        return (
            f"{verb} success ({_percent(after)} against {_percent(before)}%; sampled {sampled_points:+.1f}, "
            f"{_percent(sampled_after)} against {_percent(sampled_before)}%)"
        )

    worst = change("worst_case_success", "sampled_worst_case_success", top)
    nominal = change("nominal_success", "sampled_success")
    sentence = (
        f"aajr against {name}: attacked at {_times(top)} the training radius it {worst}; without attack it {nominal}"
    )
    seconds, reference = ours.get("train_seconds"), theirs.get("train_seconds")
    if seconds and reference:
        times = f"{_number(seconds / reference)} times as long"
        sentence += f"; training took {times} ({_number(seconds)} against {_number(reference)} s)"
    elif seconds:
        sentence += f"; training took {_number(seconds)} s"
    return sentence + "."


def _replace_file(path: Path, content: bytes) -> None:
    """Write beside `path`, then rename: whatever interrupts this, `path` is the old file or the new one, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _plots(results: dict[str, Any]) -> dict[str, bytes]:
    """File name to PNG. Figures are made without pyplot, which would keep them and the choice of backend globally."""
    _check(results)
    images = {}
    for name, draw in (
        ("worst_case", _draw_worst_case),
        ("trade_off", _draw_trade_off),
        ("amplification", _draw_bars),
    ):
        figure = Figure(figsize=(5.6, 4.3), dpi=220, layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        draw(figure, results)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
        images[f"{name}.png"] = buffer.getvalue()
    return images


def _styles(results: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each run, the same in every plot; their pairs repeat after 56 runs only."""
    return {name: (_COLORS[i % len(_COLORS)], _MARKERS[i % len(_MARKERS)]) for i, name in enumerate(results["runs"])}


def _label(name: str) -> str:
    if len(name) > 40:
        name = f"{name[:19]}…{name[-20:]}"
    # A dollar would start a formula; matplotlib 3.9 leaves names that start with an underscore out of legends.
    return (f" {name}" if name.startswith("_") else name).replace("$", r"\$")


def _legend(figure: Figure, handles: list[Any]) -> None:
    longest = max(len(handle.get_label()) for handle in handles)
    columns = max(1, min(len(handles), 58 // (longest + 7)))
    figure.set_figheight(3.6 + 0.23 * math.ceil(len(handles) / columns))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False)


def _draw_worst_case(figure: Figure, results: dict[str, Any]) -> None:
    axes = figure.add_subplot()
    multiples, handles = _multiples(results), []
    radii = [0.0, *map(float, multiples)]
    for i, (name, (color, marker)) in enumerate(_styles(results).items()):
        run = results["runs"][name]
        greedy = [run["nominal_success"], *(run["worst_case_success"][m] for m in multiples)]
        sampled = [run["sampled_success"], *(run["sampled_worst_case_success"][m] for m in multiples)]
        # Earlier lines are wider and their markers larger, so that a run with the same numbers leaves them visible.
        size = max(4.0, 9.0 - i)
        style = {"color": color, "linewidth": size / 3, "label": _label(name)}
        handles += axes.plot(radii, greedy, marker=marker, markersize=size, **style)
        axes.plot(radii, sampled, linestyle=(0, (2, 2)), **style | {"linewidth": 1.2})
    handles.append(Line2D([], [], color="0.35", linestyle=(0, (2, 2)), linewidth=1.2, label="sampled (dashed)"))
    axes.set(ylim=(-3, 103), xticks=radii, xticklabels=["0\n(nominal)", *map(_times, multiples)])
    axes.set_xlabel(f"attack radius (multiples of the training epsilon, {results['train_epsilon']:g})")
    axes.set_ylabel("success (% of examples)")
    axes.grid(alpha=0.3)
    _legend(figure, handles)


def _draw_trade_off(figure: Figure, results: dict[str, Any]) -> None:
    axes, top = figure.add_subplot(), _multiples(results)[-1]
    points = [(run["nominal_success"], run["worst_case_success"][top]) for run in results["runs"].values()]
    styles = list(_styles(results).values())
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
    axes.set_ylabel(f"success at {_times(top)} the training epsilon (% of examples)")
    axes.grid(alpha=0.3)
    figure.draw_without_rendering()  # settles the layout, in which the labels are placed
    pixels, point_size = axes.transData.transform(points), figure.dpi / 72
    reach = 8 * point_size
    taken = [Bbox.from_extents(x - reach, y - reach, x + reach, y + reach) for x, y in pixels]
    for i, name in enumerate(results["runs"]):
        (x, y), color = pixels[i], styles[i][0]
        label = axes.annotate(
            _label(name),
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
    for i, (name, (color, _)) in enumerate(_styles(results).items()):
        heights = [results["runs"][name][field] for field in _BARS.values()]
        places = [group - 0.4 + (i + 0.5) * width for group in range(len(_BARS))]
        handles.append(axes.bar(places, heights, 0.9 * width, color=color, label=_label(name)))
    if values:
        axes.set_yscale("log")
        axes.set_ylim(10 ** math.floor(math.log10(min(values)) - 0.3), 2 * max(values))
    axes.set_xticks(range(len(_BARS)), _BARS)
    axes.set_ylabel("amplification (log scale):\nlogits per unit of embedding")
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    _legend(figure, handles)
