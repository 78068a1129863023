"""A comparison as a terminal table, plain sentences, JSON, plots and one self-contained web page."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from .compare import DECODINGS
from .compare_plots import draw_comparison
from .compare_sentences import comparison_sentences
from .report import points_text, render_page, replace_file
from .results import multiples, number_text, percent_text, times
from .tables import plain_table

PLOTS = {
    "trade_off": (
        "Nominal success against success under the strongest attack",
        "The price of robustness: up withstands more, right costs less. Lines lead through the runs of a method by lambda and "
        "epsilon; thin crosses are 95 % intervals of the examples, dots the single seeds of a mean.",
    ),
    "epsilon": (
        "Success against the radius of the attack, one line per run",
        "Success as the adversary may push harder: a flatter line is a more robust agent.",
    ),
    "lambda": (
        "Success against lambda, one line per method",
        "What the weight of the penalty buys and costs. Level lines are runs without a penalty.",
    ),
    "train_epsilon": (
        "Success against the training radius, one line per method",
        "What a larger adversary in training buys and costs.",
    ),
    "amplification_profile": (
        "Amplification against the step of the ascent, one line per run",
        "How strongly the logits answer along the adversary's direction at each step of its ascent: lower is calmer.",
    ),
    "gradient_norm": (
        "Norm of the training's gradient against the step, one line per run",
        "How steady training was. A band, where there are few runs, is one standard deviation of the steps since the last entry of "
        "the log.",
    ),
}
TABLE_WIDTH = 100
# In the terminal there is room for so many.
_RADII = 3
_NAME_WIDTHS, _SUCCESS_WIDTH, _POINTS_WIDTH = (10, 11), 6, 7


def write_comparison(comparison: dict[str, Any], folder: Path) -> None:
    """
    Write `comparison.json`, the PNGs and `comparison.html`, each atomically; all of them are made before the first is
    written. Plots of an earlier comparison that this one does not have are removed.
    """
    sentences = comparison_sentences(comparison)
    images = draw_comparison(comparison)
    text = json.dumps(comparison | {"sentences": sentences}, indent=2, allow_nan=False) + "\n"
    page = _page(comparison, sentences, images, text)
    for name in PLOTS:
        if f"{name}.png" not in images:
            (folder / f"{name}.png").unlink(missing_ok=True)
    for name, content in ({"comparison.json": text.encode()} | images | {"comparison.html": page}).items():
        replace_file(folder / name, content)


def comparison_table(comparison: dict[str, Any]) -> Table:
    """One row a run, in `TABLE_WIDTH` columns: success, price, amplification, the variance of the gradient's norm, and time."""
    attacks = multiples(comparison)[-_RADII:]
    headers, rows = comparison_cells(comparison, attacks)
    left_out = {("spectral", "norm"), ("grad.", "mean")}
    if len(comparison["configurations"]) == len(rows):
        left_out.add(("seed", ""))
    kept = [i for i, header in enumerate(headers) if header not in left_out]
    table = plain_table(caption="\n".join(notes(comparison)), gap=0)
    for i in kept:
        # Folded, to leave room for all: names where they are long, success between its two numbers.
        widths = {"%": _SUCCESS_WIDTH, "points": _POINTS_WIDTH}
        width = min(_NAME_WIDTHS[i], max(len(row[i]) for row in rows)) if i < 2 else widths.get(headers[i][1])
        table.add_column(
            "\n".join(headers[i]).replace("worst ", "worst\n"),
            justify="left" if i < 2 else "right",
            width=width,
            no_wrap=width is None,
            overflow="fold",
        )
    for row in rows:
        # Text, not str: a run's name is not markup.
        table.add_row(*(Text(row[i]) for i in kept))
    return table


def notes(comparison: dict[str, Any]) -> list[str]:
    """What the columns of the table are, and which of their numbers are not what they should be."""
    found = [
        "Success in percent, price in points of it: greedy decoding (sampling at temperature 1).",
        f"Nx: attacked at N times the training radius, {comparison['train_epsilon']:g}.",
    ]
    if any(run["price"]["greedy"] is not None for run in comparison["runs"].values()):
        found.append("Price: nominal success below that of the best run without a penalty.")
    logged = {n: run["gradient_norm"] for n, run in comparison["runs"].items() if run["gradient_norm"]}
    estimated = sorted({g["values"] for g in logged.values() if not g["every_step"]})
    if estimated:
        counts = " or ".join(map(str, estimated))
        found.append(f"* of the {counts} gradient norms that were logged alone, not of every step's.")
    skipped = sum(g["left_out"] for g in logged.values())
    if skipped:
        found.append(f"{skipped} gradient norms were not finite and are left out.")
    return found


def comparison_cells(comparison: dict[str, Any], attacks: list[str]) -> tuple[list[tuple[str, str]], list[list[str]]]:
    """Headers in two lines, and the cells of each run as text."""
    headers = [("run", ""), ("method", ""), ("lambda", ""), ("eps.", ""), ("seed", ""), ("nom.", "%")]
    headers += [(f"worst {times(m)}", "%") for m in attacks]
    headers += [("price", "points"), ("ampl.", "ascent"), ("spectral", "norm"), ("grad.", "mean")]
    headers += [("grad.", "var."), ("train", "s")]
    rows = []
    for name, run in comparison["runs"].items():
        gradient = run["gradient_norm"] or {}
        star = "*" if gradient and not gradient["every_step"] else ""
        settings = (
            "-" if run[field] is None else f"{run[field]:g}" for field in ("regularizer_lambda", "epsilon", "seed")
        )
        row = [name, run["method"], *settings, _both(run, None), *(_both(run, m) for m in attacks)]
        price = [run["price"][decoding] for decoding in DECODINGS]
        row.append("-" if None in price else f"{points_text(price[0])} ({points_text(price[1])})")
        row += [number_text(run["amplification"]), number_text(run["spectral_norm"])]
        row += [number_text(gradient.get("mean")), number_text(gradient.get("variance")) + star]
        rows.append([*row, number_text(run.get("train_seconds"))])
    return headers, rows


def _both(run: dict[str, Any], multiple: str | None) -> str:
    texts = []
    for nominal, worst in DECODINGS.values():
        texts.append(percent_text(run[nominal] if multiple is None else run[worst][multiple]))
    return f"{texts[0]} ({texts[1]})"


def _page(comparison: dict[str, Any], sentences: list[str], images: dict[str, bytes], everything: str) -> bytes:
    headers, rows = comparison_cells(comparison, multiples(comparison))
    drawn = [
        (base64.b64encode(images[f"{name}.png"]).decode(), alt, caption)
        for name, (alt, caption) in PLOTS.items()
        if f"{name}.png" in images
    ]
    return render_page(
        "compare.html.j2",
        sentences=sentences,
        headers=headers,
        rows=rows,
        notes=notes(comparison),
        matched=[_matched_row(entry) for entry in comparison["matched"]],
        focus=comparison["matched"][0]["methods"][0] if comparison["matched"] else "",
        plots=drawn,
        profiles=any(run.get("amplification_profile") for run in comparison["runs"].values()),
        train_epsilon=comparison["train_epsilon"],
        settings=comparison["settings"],
        everything=everything,
    )


def _matched_row(entry: dict[str, Any]) -> list[str]:
    row = [entry["methods"][1], times(entry["multiple"]), entry["decoding"]]
    for place, field in (("at_worst_case", "nominal"), ("at_nominal", "worst_case")):
        found = entry[place]
        ours, theirs = (round(value, 1) for value in found[field])
        row += [percent_text(found["level"]), percent_text(ours), percent_text(theirs)]
        row.append(f"{points_text(ours - theirs, '+')} ± {found['margin']:.1f}")
    return row
