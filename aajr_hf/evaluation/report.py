"""Results of several agents as a terminal table, plain sentences, JSON, plots and one self-contained web page."""

from __future__ import annotations

import base64
import json
import math
import os
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from rich.table import Table
from rich.text import Text

from .. import __version__
from .attack_report import attack_cells, sanity_cells, sanity_sentences
from .membership import HEADERS, membership_cells, membership_sentences
from .plots import draw_plots
from .results import check_results, multiples, number_text, percent_text, times, value
from .stability_plots import draw_stability
from .stability_report import runs_with_stability, stability_cells, stability_sentences
from .tables import plain_table

_OTHER_COLUMNS = {
    ("nom.", "cost"): "nominal_cost",
    ("ampl.", "ascent"): "amplification",
    ("ampl.", "random"): "random_amplification",
    ("spectral", "norm"): "spectral_norm",
    ("train", "s"): "train_seconds",
}


def results_table(results: dict[str, Any]) -> Table:
    """
    One row a run: success in percent, cost, amplification and training time; it fits 100 columns.

    Args:
        results: `{"runs": {name: numbers}, "train_epsilon": float, "settings": {...}}`. Absent numbers show as "-".

    Returns:
        A rich table; the best value of each success column is bold.
    """
    headers, rows = _cells(results)
    caption = (
        "Success in percent: greedy decoding (sampling at temperature 1).\n"
        f"worst Nx: attacked at N times the training epsilon, {results['train_epsilon']:g}."
    )
    table = plain_table(caption=caption, gap=0)
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
    are there, then the most robust run of all, then the runs whose attack is not to be trusted.

    Raises:
        ValueError: If a number is absent or not finite; names the run and the field.
    """
    check_results(results)
    runs, top = results["runs"], multiples(results)[-1]
    sentences = []
    if "aajr" in runs:
        sentences += [_comparison(runs, name, top) for name in ("adversarial", "sft", "base") if name in runs]
    worst = {name: round(run["worst_case_success"][top], 1) for name, run in runs.items()}
    leaders = ", ".join(
        f"{name} (sampled {percent_text(run['sampled_worst_case_success'][top])}%; "
        f"{percent_text(run['nominal_success'])}% without attack)"
        for name, run in runs.items()
        if worst[name] == max(worst.values())
    )
    sentences.append(
        f"Most robust at {times(top)} the training radius, with {percent_text(max(worst.values()))}% success: {leaders}."
    )
    sentences += chance_sentences(results)
    return sentences + membership_sentences(results) + sanity_sentences(results)


def chance_sentences(results: dict[str, Any]) -> list[str]:
    """Which difference between two runs can be chance, where there are two."""
    runs = results["runs"].values()
    examples = min(run["examples"] for run in runs)
    if examples == 0 or len(runs) < 2:
        return []
    margin = 196 * math.sqrt(0.5 / examples)  # two independent shares, both one half: the widest margin
    return [f"With {examples} examples, a difference in success of less than {margin:.1f} points can be chance."]


def write_json(results: dict[str, Any], path: str | Path) -> None:
    """
    Write the results as JSON, atomically; folders are made as needed.

    Raises:
        ValueError: If a number is absent or not finite; names the run and the field, and nothing is written.
    """
    check_results(results)
    replace_file(Path(path), (json.dumps(results, indent=2, allow_nan=False) + "\n").encode())


def write_report(results: dict[str, Any], folder: str | Path) -> None:
    """
    Write the plots of [`draw_plots`] and [`draw_stability`] and `report.html`, a page that needs no other file and no network:
    summary, table, plots and settings. Each is written atomically; the folder is made as needed.

    Raises:
        ValueError: If a number is absent or not finite; names the run and the field, and nothing is written.
    """
    images = draw_plots(results) | draw_stability(results)
    files = images | {"report.html": _page(results, images)}
    for name, content in files.items():
        replace_file(Path(folder) / name, content)


def _page(results: dict[str, Any], images: dict[str, bytes]) -> bytes:
    headers, rows = _cells(results)
    attack_headers, attack_rows = attack_cells(results)
    stability_headers, stability_rows = stability_cells(results)
    measured = runs_with_stability(results).values()
    return render_page(
        "report.html.j2",
        sentences=summary_sentences(results),
        headers=headers,
        rows=rows,
        attack_headers=attack_headers,
        attack_rows=attack_rows,
        checks=sanity_cells(results),
        membership_headers=HEADERS,
        membership_rows=membership_cells(results),
        stability_headers=stability_headers,
        stability_rows=stability_rows,
        stability_sentences=stability_sentences(results),
        stability_steps=max((len(run["stability"]["shares"]["monotone"]) for run in measured), default=0),
        images={Path(name).stem: base64.b64encode(image).decode() for name, image in images.items()},
        top=times(multiples(results)[-1]),
        train_epsilon=results["train_epsilon"],
        settings=results["settings"],
        everything=json.dumps(results, indent=2, allow_nan=False),
    )


def render_page(template: str, **values) -> bytes:
    """A page from a template of this folder; values are escaped, and one that the template asks for must be there."""
    folder = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=folder, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(template).render(version=__version__, **values).encode()


def points_text(points: float, sign: str = "-") -> str:
    """Points of success to one decimal place, with `sign="+"` always with a sign; what rounds to nothing has none."""
    return f"{round(points, 1):{sign if round(points, 1) else '-'}.1f}".replace("-0.0", "0.0")


def _cells(results: dict[str, Any]) -> tuple[list[tuple[str, str]], list[list[tuple[str, bool]]]]:
    """Headers in two lines, and per run the cells as text and whether it is the best of its column."""
    runs = results["runs"].values()
    headers, rows = [("run", "")], [[(name, False)] for name in results["runs"]]
    success = [("nominal", "nominal_success", "sampled_success", None)]
    for multiple in multiples(results):
        success.append((f"worst {times(multiple)}", "worst_case_success", "sampled_worst_case_success", multiple))
    for header, greedy_field, sampled_field, multiple in success:
        headers.append((header, "%"))
        greedy = [value(run, greedy_field, multiple) for run in runs]
        # Compared as shown: of two numbers that look the same, none is the better one.
        best = percent_text(
            max((share for share in greedy if share is not None and math.isfinite(share)), default=None)
        )
        for row, run, share in zip(rows, runs, greedy, strict=True):
            text = percent_text(share)
            row.append((f"{text} ({percent_text(value(run, sampled_field, multiple))})", text == best != "-"))
    for header, field in _OTHER_COLUMNS.items():
        headers.append(header)
        for row, run in zip(rows, runs, strict=True):
            row.append((number_text(run.get(field)), False))
    return headers, rows


def _comparison(runs: dict[str, Any], name: str, top: str) -> str:
    ours, theirs = runs["aajr"], runs[name]

    def change(greedy: str, sampled: str, multiple: str | None = None) -> str:
        (before, sampled_before), (after, sampled_after) = (
            [round(value(run, field, multiple), 1) for field in (greedy, sampled)] for run in (theirs, ours)
        )
        # From the rounded numbers, so that a difference is the one between the two that the reader sees.
        points, sampled_points = round(after - before, 1), round(sampled_after - sampled_before, 1)
        verb = (
            f"gains {points} points of" if points > 0 else f"loses {-points} points of" if points < 0 else "keeps its"
        )
        return (
            f"{verb} success ({percent_text(after)} against {percent_text(before)}%; sampled {sampled_points:+.1f}, "
            f"{percent_text(sampled_after)} against {percent_text(sampled_before)}%)"
        )

    worst = change("worst_case_success", "sampled_worst_case_success", top)
    nominal = change("nominal_success", "sampled_success")
    sentence = (
        f"aajr against {name}: attacked at {times(top)} the training radius it {worst}; without attack it {nominal}"
    )
    seconds, reference = ours.get("train_seconds"), theirs.get("train_seconds")
    if seconds and reference:
        longer = f"{number_text(seconds / reference)} times as long"
        sentence += f"; training took {longer} ({number_text(seconds)} against {number_text(reference)} s)"
    elif seconds:
        sentence += f"; training took {number_text(seconds)} s"
    return sentence + "."


def replace_file(path: Path, content: bytes) -> None:
    """Write beside `path`, then rename: whatever interrupts this, `path` is the old file or the new one, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
