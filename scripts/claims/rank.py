"""
Does the rank of an adapter bound robustness (the paper's section 6)? SmolLM2-135M-Instruct, which knows `congestion`, is fine-tuned
with AAJR on LoRA of several ranks, on families whose updates have full rank with as many parameters as LoRA of rank 16, and on all
of its weights.
"""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure
from shared.tables import markdown_table, text_of
from smollm2_study import LIMITS

from aajr_hf.evaluation.reporting.plots import panels

from .forgetting import RealCell, real_cells
from .page import by_seed, cells_of, number_of, verdict, where
from .preset import Preset

TITLE = "High rank (section 6)"
NEEDS_MODEL = True
RANKS = (1, 4, 16, 64)
FULL = "all weights"


def _adapter(name: str, rank: int, rate: float) -> tuple[str, dict]:
    return "aajr-lora", {"adapter": name, "adapter_rank": rank, "learning_rate": rate}


# Families of full rank need a larger learning rate (docs/results/rank.md).
METHODS = {f"LoRA {rank}": _adapter("lora", rank, 1e-3) for rank in RANKS} | {
    "HiRA 16": _adapter("hira", 16, 1e-2),
    "SHiRA 16": _adapter("shira", 16, 1e-2),
    FULL: ("aajr", {}),
}


# Its own gradients. Within the whole training radius every agent that was tried withstands nothing (docs/results/smollm2.md), so
# it tells none apart.
RADII = ("0.25", "0.5")
ATTACKS = ("--attacks", "warm_nll", "restart", "nll", "margin", *LIMITS, "--multiples", *RADII)
PAIRS = ((f"LoRA {RANKS[-1]}", f"LoRA {RANKS[0]}"), ("SHiRA 16", "LoRA 16"), (FULL, f"LoRA {RANKS[-1]}"))


def cells(preset: Preset, chosen: Mapping[str, float]) -> list[RealCell]:
    return real_cells(preset, METHODS, ATTACKS)


def section(runs: list[dict]) -> list[str]:
    rows = []
    for agent in cells_of(runs, "agent"):
        mine = where(runs, agent=agent)
        numbers = [text_of([number_of(name)(run) for run in mine]) for name in ("nominal", *RADII)]
        rows.append(
            [agent, *numbers, text_of([run["kl"] for run in mine], 3), text_of([run["train_seconds"] for run in mine])]
        )
    lines = [
        "Each agent is attacked by itself. *0.25x*, *0.5x*: what the agent's own gradients leave within these multiples of the training radius. "
        "*KL*: what is forgotten, in nats per token of the model's answers to general prompts. LoRA is trained with a learning rate of 1e-3, HiRA and SHiRA with 1e-2.",
        "",
        *markdown_table(["trained", "nominal, %", *(f"{radius}x, %" for radius in RADII), "KL", "train s"], rows),
        "",
    ]
    for more, less in PAIRS:
        pair = [where(runs, agent=agent) for agent in (more, less)]
        if all(pair):
            gains = by_seed(*pair, number_of(RADII[0]))
            lines.append(f"- {more} withstands more at {RADII[0]}x than {less}: {verdict(gains)}.")
    return lines


def draw(figure: Figure, runs: list[dict]) -> None:
    """Success over LoRA's rank, with the other families and all weights as lines."""
    titles = ("no attack", f"own gradients at {RADII[0]}x")
    for axes, name in zip(panels(figure, titles), ("nominal", RADII[0]), strict=True):
        for rank in RANKS:
            mine = [number_of(name)(run) for run in where(runs, agent=f"LoRA {rank}")]
            axes.plot([rank] * len(mine), mine, "o", color="#0072B2", label="LoRA" if rank == RANKS[0] else None)
        for agent, color in (("HiRA 16", "#009E73"), ("SHiRA 16", "#D55E00"), (FULL, "#000000")):
            for i, run in enumerate(where(runs, agent=agent)):
                axes.axhline(number_of(name)(run), color=color, linewidth=1, label=agent if i == 0 else None)
        axes.set(xscale="log", xlabel="rank of LoRA", ylabel="success, %", ylim=(-2, 102))
        axes.set_xticks(RANKS, map(str, RANKS))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
