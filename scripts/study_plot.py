"""A plot of the study: how far each method is ahead of adversarial training, with 95 % confidence intervals."""

from __future__ import annotations

import io

from matplotlib.figure import Figure
from study_compare import RADII, Methods, epsilon, paired, sampled, sampled_worst

from aajr_hf.evaluation.reporting.statistics import mean_interval

# The compared measures, with label, marker and colour (from Okabe and Ito's palette).
_MEASURES = [("no attack", sampled, "o", "#000000")] + [
    (f"attack {epsilon(radius)}", sampled_worst(radius), marker, color)
    for radius, marker, color in zip(RADII, ("s", "^"), ("#0072B2", "#D55E00"), strict=True)
]
_REFERENCE = "adversarial"


def draw_differences(worlds: dict[str, Methods]) -> bytes | None:
    """
    Draw one panel for each world, with one row for each method.

    Args:
        worlds: The result runs of each world, by method.

    Returns:
        A PNG; None if no world has both adversarial training and another method.
    """
    worlds = {name: runs for name, runs in worlds.items() if _REFERENCE in runs and len(runs) > 1}
    if not worlds:
        return None
    methods = [m for m in dict.fromkeys(m for runs in worlds.values() for m in runs) if m != _REFERENCE]
    figure = Figure(figsize=(2.2 + 3.2 * len(worlds), 1.4 + 0.5 * len(methods)), layout="constrained")
    panels = figure.subplots(1, len(worlds), sharey=True, squeeze=False)[0]
    for axes, (world, runs) in zip(panels, worlds.items(), strict=True):
        for offset, (label, number, marker, color) in zip((-0.22, 0, 0.22), _MEASURES, strict=True):
            points = [(row, paired(runs.get(m, []), runs[_REFERENCE], number)) for row, m in enumerate(methods)]
            means = [(row + offset, *mean_interval(values)) for row, values in points if values]
            rows, centers, halves = zip(*means, strict=True) if means else ((), (), ())
            errors = [half or 0 for half in halves]
            axes.errorbar(centers, rows, xerr=errors, fmt=marker, color=color, ms=4, lw=1, capsize=2, label=label)
        axes.axvline(0, color="#7f7f7f", lw=1)
        axes.set_title(world, fontsize="medium")
        axes.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(range(len(methods)), methods)
    panels[0].invert_yaxis()
    figure.supxlabel("sampled success: points ahead of adversarial training", fontsize="medium")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=130)
    return file.getvalue()
