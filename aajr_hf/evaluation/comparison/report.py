"""Write a comparison as terminal tables, sentences, JSON, plots and a self-contained web page."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from ...training.sharing.reading import threat_model_line
from ...training.sharing.results import ComparisonResults, MatchedPair
from ..files import replace_file
from ..reporting.attack_report import attack_cells, trust_cells
from ..reporting.report import json_text, points_text, render_page
from ..reporting.results import (
    DECODINGS,
    everything_but_outcomes,
    multiples,
    number_text,
    percent_text,
    share_text,
    times,
)
from ..reporting.statistics import PairedDifference
from ..reporting.tables import plain_table
from .plots import draw_comparison
from .sentences import comparison_sentences

PLOTS = {
    "trade_off": (
        "Nominal success against success under the strongest attack",
        "The price of robustness: higher runs withstand more, and runs further right cost less. A line connects the "
        "runs of one method by lambda and epsilon. Thin crosses are 95 % intervals; dots are the seeds behind a mean.",
    ),
    "epsilon": (
        "Success against the radius of the attack, one line per run",
        "Success against the strength of the adversary, with 95 % intervals. A flatter line is a more robust agent.",
    ),
    "lambda": (
        "Success against lambda, one line per method",
        "Benefit and cost of the penalty's weight, with 95 % intervals. Horizontal lines are runs without a penalty.",
    ),
    "train_epsilon": (
        "Success against the training radius, one line per method",
        "Benefit and cost of a larger adversary in training.",
    ),
    "amplification_profile": (
        "Amplification against the step of the ascent, one line per run",
        "Change of the logits per unit of perturbation along the adversary's direction, at each step of its ascent. "
        "Lower values mean a calmer agent.",
    ),
    "gradient_norm": (
        "Gradient norm in training against the step, one line per run",
        "Steadiness of training. Bands (only with few runs) show one standard deviation over the steps since the "
        "previous log entry.",
    ),
}
TABLE_WIDTH = 100
# The terminal has room for this many radii.
_RADII = 3
_NAME_WIDTH = 12


def write_comparison(comparison: ComparisonResults, folder: Path) -> None:
    """
    Write `comparison.json`, the PNGs and `comparison.html`. Each file is written atomically, and only after the
    contents of all files are ready. Plots of an earlier comparison that this one does not have are removed.
    """
    sentences = comparison_sentences(comparison)
    images = draw_comparison(comparison)
    text = json_text(comparison | {"sentences": sentences}) + "\n"
    page = _page(comparison, sentences, images)
    for name in PLOTS:
        if f"{name}.png" not in images:
            (folder / f"{name}.png").unlink(missing_ok=True)
    for name, content in ({"comparison.json": text.encode()} | images | {"comparison.html": page}).items():
        replace_file(folder / name, content)


def comparison_table(comparison: ComparisonResults) -> Group:
    """
    Return two tables of at most `TABLE_WIDTH` columns: success and its price, with two rows per run; then training
    settings and amplification.
    """
    success = success_cells(comparison, multiples(comparison)[-_RADII:])
    headers, rows = training_cells(comparison)
    left_out = {("seed", "")} if len(comparison["configurations"]) == len(rows) else set()
    kept = [i for i, header in enumerate(headers) if header not in left_out]
    training = [headers[i] for i in kept], [[row[i] for i in kept] for row in rows]
    return Group(_table(*success, left=3), *map(Text, notes(comparison)), "", _table(*training, left=1))


def _table(headers: list[tuple[str, str]], rows: list[list[str]], left: int) -> Table:
    table = plain_table(gap=0)
    for i, header in enumerate(headers):
        # Fold long names, to leave room for numbers.
        name = header[0] in ("run", "method")
        width = min(_NAME_WIDTH, max(len(row[i]) for row in rows)) if name else None
        justify = "left" if i < left else "right"
        table.add_column("\n".join(header), justify=justify, width=width, no_wrap=not name, overflow="fold")
    for row in rows:
        # Text, not str: a run's name is not markup.
        table.add_row(*map(Text, row))
    return table


def notes(comparison: ComparisonResults) -> list[str]:
    """Return notes: the meaning of the columns, the threat model, and limits of the gradient norms."""
    found = [
        "Success in percent [95 % interval], price in percentage points; sampled: at temperature 1.",
        f"worst Nx: not broken by any attack within N times the training radius, {comparison['train_epsilon']:g}.",
        threat_model_line(comparison),
    ]
    if any(run["price"]["greedy"] is not None for run in comparison["runs"].values()):
        found.append("Price: nominal success of the best run without a penalty, minus that of the run.")
    logged = {n: run["gradient_norm"] for n, run in comparison["runs"].items() if run["gradient_norm"]}
    estimated = sorted({g["values"] for g in logged.values() if not g["every_step"]})
    if estimated:
        counts = " or ".join(map(str, estimated))
        found.append(f"*: only over the {counts} logged gradient norms, not over every step.")
    skipped = sum(g["left_out"] for g in logged.values())
    if skipped:
        found.append(f"{skipped} gradient norms were not finite and are left out.")
    return found


def success_cells(comparison: ComparisonResults, attacks: list[str]) -> tuple[list[tuple[str, str]], list[list[str]]]:
    """Return headers of two lines, and a row of text cells for each run and way of decoding."""
    headers = [("run", ""), ("method", ""), ("decoding", ""), ("nominal", "% [95 %]")]
    headers += [*((f"worst {times(m)}", "% [95 %]") for m in attacks), ("price", "points")]
    rows = []
    for name, run in comparison["runs"].items():
        for decoding, (nominal, worst) in DECODINGS.items():
            price = run["price"][decoding]
            shares = [share_text(run, nominal), *(share_text(run, worst, m) for m in attacks)]
            # The row above already shows the name of the run.
            names = [name, run["method"]] if decoding == "greedy" else ["", ""]
            rows.append([*names, decoding, *shares, "-" if price is None else points_text(price)])
    return headers, rows


def training_cells(comparison: ComparisonResults) -> tuple[list[tuple[str, str]], list[list[str]]]:
    """Return headers of two lines, and a row of text cells for each run."""
    headers = [("run", ""), ("lambda", ""), ("eps.", ""), ("seed", ""), ("ampl.", "ascent"), ("spectral", "norm")]
    headers += [("grad.", "mean"), ("grad.", "var."), ("train", "s")]
    rows = []
    for name, run in comparison["runs"].items():
        gradient = run["gradient_norm"] or {}
        star = "*" if gradient and not gradient["every_step"] else ""
        settings = (
            "-" if run[field] is None else f"{run[field]:g}" for field in ("regularizer_lambda", "epsilon", "seed")
        )
        row = [name, *settings, number_text(run["amplification"]), number_text(run["spectral_norm"])]
        row += [number_text(gradient.get("mean")), number_text(gradient.get("variance")) + star]
        rows.append([*row, number_text(run.get("train_seconds"))])
    return headers, rows


def _page(comparison: ComparisonResults, sentences: list[str], images: dict[str, bytes]) -> bytes:
    drawn = [
        (base64.b64encode(images[f"{name}.png"]).decode(), alt, caption)
        for name, (alt, caption) in PLOTS.items()
        if f"{name}.png" in images
    ]
    return render_page(
        "compare.html.j2",
        sentences=sentences,
        success=success_cells(comparison, multiples(comparison)),
        training=training_cells(comparison),
        notes=notes(comparison),
        attacks=attack_cells(comparison),
        checks=trust_cells(comparison),
        matched=[_matched_row(entry) for entry in comparison["matched"]],
        focus=comparison["matched"][0]["methods"][0] if comparison["matched"] else "",
        plots=drawn,
        profiles=any(run.get("amplification_profile") for run in comparison["runs"].values()),
        train_epsilon=comparison["train_epsilon"],
        settings=comparison["settings"],
        everything=json_text(_for_reading(comparison) | {"sentences": sentences}),
    )


def _for_reading(comparison: ComparisonResults) -> dict[str, Any]:
    """Return the comparison without the outcomes of single examples, because the lists are long."""
    configurations = [{f: v for f, v in c.items() if f != "outcomes"} for c in comparison["configurations"]]
    return everything_but_outcomes(comparison) | {"configurations": configurations}


def _matched_row(entry: MatchedPair) -> list[str]:
    row = [entry["methods"][1], times(entry["multiple"]), entry["decoding"]]
    for place, field in (("at_worst_case", "nominal"), ("at_nominal", "worst_case")):
        found = entry[place]
        difference = PairedDifference(**found["difference"])
        row += map(percent_text, (found["level"], *found[field]))
        row.append(f"{points_text(difference.points, '+')} {difference.chance_text()}")
    return row
