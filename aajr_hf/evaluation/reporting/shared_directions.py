"""What the worst cases of different prompts have in common, as sentences, a table and a plot."""

from __future__ import annotations

from matplotlib.figure import Figure

from ...training.sharing.results import EvaluationResults, Run, SharedDirections
from .plots import legend, render, run_styles, shown
from .results import interval_text, multiples, number_text, percent_text, times
from .statistics import wilson

TITLE = "What the worst cases of different prompts share"
# Below one of these, a step along the predicted gradient keeps less than half of the rise, or little more than a guess.
LEAST_COSINE, LEAST_SIGNS = 0.5, 60.0
# Numbers of directions that a sentence and the table name.
_RANKS = ("8", "32")


def shared_cells(results: EvaluationResults) -> tuple[list[str], list[list[str]]]:
    """Return headers, and one row of text cells for each run that has these numbers."""
    radii = multiples(results)
    headers = ["run", "dims", *(f"top {rank} %" for rank in _RANKS), *(f"explained {times(m)} %" for m in radii)]
    rows = []
    for name, shared in _runs(results).items():
        energies = [percent_text(shared["energy"].get(rank)) for rank in _RANKS]
        explained = [_explained(shared, m) for m in radii]
        agreed = [number_text(shared.get("cosine")), percent_text(shared.get("signs"))]
        rows.append([name, str(shared["dimensions"]), *energies, *explained, *agreed])
    return [*headers, "cosine", "signs %"], rows


def _explained(shared: SharedDirections, multiple: str) -> str:
    worst = shared["worst"].get(multiple)
    if not worst:
        return "-"
    share = 100 * shared["explained"][multiple] / worst
    return f"{percent_text(share)} {interval_text(wilson(share, worst))}"


def shared_sentences(results: EvaluationResults) -> list[str]:
    """
    Return for each run that has these numbers a sentence about the energy of its ascents, and a warning if predicted
    gradients agree too little with true ones.
    """
    sentences = []
    for name, shared in _runs(results).items():
        energy, dimensions = shared["energy"], shared["dimensions"]
        largest = next((rank for rank in reversed(_RANKS) if rank in energy), None)
        if largest is not None:
            sentences.append(
                f"{name}: the top {largest} of {dimensions} dimensions hold {percent_text(energy[largest])}% of the energy "
                f"of the ascent directions on other prompts; of random directions they would hold "
                f"{percent_text(100 * int(largest) / dimensions)}%."
            )
        if "cosine" in shared and (shared["cosine"] < LEAST_COSINE or shared["signs"] < LEAST_SIGNS):
            sentences.append(
                f"WARNING: {name}: predicted gradients have a cosine of {shared['cosine']:.2f} with the true ones and "
                f"{percent_text(shared['signs'])}% equal signs, below {LEAST_COSINE:g} or {LEAST_SIGNS:g}%: do not trust what "
                "the attack `predicted` leaves."
            )
    return sentences


def draw_shared(results: EvaluationResults) -> dict[str, bytes]:
    """Draw the energy by the number of directions: `energy.png`, or nothing if no run has it."""
    return {"energy.png": render(lambda figure: _draw(figure, results))} if _with_energy(results) else {}


def _draw(figure: Figure, results: EvaluationResults) -> None:
    axes, handles, styles = figure.add_subplot(), [], run_styles(results)
    for name, shared in _with_energy(results).items():
        color, marker = styles[name]
        ranks = list(map(int, shared["energy"]))
        handles += axes.plot(
            ranks, list(shared["energy"].values()), color=color, marker=marker, markersize=6, label=shown(name)
        )
        axes.plot(ranks, [100 * rank / shared["dimensions"] for rank in ranks], color=color, linestyle=":")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.set(ylim=(-3, 103), xlabel="number of principal directions of other prompts (dotted: of random directions)")
    axes.set_ylabel("energy of the ascent directions (%)")
    axes.grid(alpha=0.3)
    legend(figure, handles)


def _runs(results: EvaluationResults) -> dict[str, SharedDirections]:
    runs: dict[str, Run] = results["runs"]
    return {name: run["shared_directions"] for name, run in runs.items() if run.get("shared_directions")}


def _with_energy(results: EvaluationResults) -> dict[str, SharedDirections]:
    return {name: shared for name, shared in _runs(results).items() if shared["energy"]}
