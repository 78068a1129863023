"""Show the spectra of `measure_rank` as a table and a plot."""

from __future__ import annotations

import io

from matplotlib.figure import Figure
from rich.table import Table

from ...training.sharing.results import RankNumbers, Spectrum
from ..reporting.tables import plain_table
from .measure import SHARES

_COLUMNS = {
    "directions": "directions u",
    "images": "images J u",
    "penalty_gradient": "penalty's gradient",
    "update": "update",
}
_BY_MODULE = ("penalty_gradient", "update")
_COLORS = {"directions": "#0072B2", "images": "#D55E00", "penalty_gradient": "#009E73", "update": "#CC79A7"}


def rank_table(result: RankNumbers) -> Table:
    """Return a table of the share of the energy by rank; for gradient and update, the module with the lowest share."""
    caption = (
        "Share of the energy in the first directions, up to each rank; for gradient and update, in the worst module."
    )
    table = plain_table(caption=caption, gap=2)
    found = {name: spectra for name in _COLUMNS if (spectra := _spectra(result, name))}
    table.add_column("rank", justify="right")
    for name in found:
        table.add_column(_COLUMNS[name], justify="right")
    ranks = sorted({int(rank) for spectra in found.values() for s in spectra for rank in s["coverage"]})
    for rank in ranks:
        table.add_row(str(rank), *(_least(spectra, rank) for spectra in found.values()))
    for share in SHARES:
        needed = ([s["directions"][f"{share:.0%}"] for s in spectra] for spectra in found.values())
        cells = ["over 256" if None in ranks_needed else str(max(ranks_needed)) for ranks_needed in needed]
        table.add_row(f"for {share:.0%}", *cells, style="bold", end_section=share == SHARES[-1])
    table.add_row("stable rank", *(f"{max(s['stable_rank'] for s in spectra):.1f}" for spectra in found.values()))
    return table


def _spectra(result: RankNumbers, name: str) -> list[Spectrum]:
    return list(result[name].values()) if name in _BY_MODULE else [result[name]]


def _least(spectra: list[Spectrum], rank: int) -> str:
    shares = [s["coverage"].get(str(rank), 1.0) for s in spectra]
    return f"{min(shares):.1%}"


def rank_plot(result: RankNumbers) -> bytes:
    """Plot coverage by rank as a PNG: one line per spectrum, with bands from the worst to the best module."""
    figure = Figure(figsize=(6.4, 4.3), dpi=220, layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    for name, label in _COLUMNS.items():
        spectra = _spectra(result, name)
        ranks = sorted({int(rank) for s in spectra for rank in s["coverage"]})
        shares = [[100 * s["coverage"].get(str(rank), 1.0) for s in spectra] for rank in ranks]
        if not spectra:
            continue
        worst = label if len(spectra) == 1 else f"{label} (worst to best module)"
        axes.plot(ranks, [min(s) for s in shares], marker="o", color=_COLORS[name], label=worst)
        if len(spectra) > 1:
            axes.fill_between(
                ranks, [min(s) for s in shares], [max(s) for s in shares], color=_COLORS[name], alpha=0.15, linewidth=0
            )
    for share in SHARES:
        axes.axhline(100 * share, color="0.6", linewidth=0.8, linestyle=(0, (2, 2)))
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set(xlabel="rank", ylabel="share of the energy (%)", ylim=(0, 102))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
