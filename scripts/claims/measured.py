"""What `aajr train` says of a setting: the time and the robustness that the study measured of it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping

from shared.tables import ENOUGH_SEEDS, text_of

from aajr_hf.cli.common.measured import objective_of

from . import one_step
from .cells import Agent
from .methods import METHODS, under_pressure
from .page import by_seed, cells_of, number_of, where
from .robustness import REFERENCE

PLAIN = "sft"
NAMES = {PLAIN: "plain fine-tuning", REFERENCE: "adversarial training with as many ascent steps"}


def entries(runs: list[dict], with_one_step: list[dict], chosen: Mapping[str, float]) -> list[dict]:
    """
    Return settings and sentences, for each method and number of ascent steps with enough seeds, from the runs of `robustness`
    with most training rows, and from those of `one_step`.
    """
    found = []
    for steps in sorted({run["ascent_steps"] for run in runs}):
        here = where(runs, ascent_steps=steps)
        most = max(run["rows"] for run in here)
        found += _of_agents(where(here, rows=most), under_pressure(METHODS, chosen, steps, most))
    known = [entry["settings"] for entry in found]
    of_one_step = _of_agents(where(with_one_step, harder=False), one_step.compared(METHODS, chosen))
    return found + [entry for entry in of_one_step if entry["settings"] not in known]


def _of_agents(runs: list[dict], agents: Mapping[str, Agent]) -> list[dict]:
    """Return the settings of each method and what its runs say, against adversarial training or, of that, plain fine-tuning."""
    found = []
    for method in (name for name in cells_of(runs, "agent") if name in agents and name != PLAIN):
        against = PLAIN if method == REFERENCE else REFERENCE
        if sentence := _sentence(where(runs, agent=method), where(runs, agent=against), NAMES[against]):
            found.append({"settings": objective_of(agents[method].config()), "measured": sentence})
    return found


def _sentence(mine: list[dict], reference: list[dict], name: str) -> str | None:
    gains, prices = (by_seed(mine, reference, number_of(which)) for which in ("1", "sampled"))
    if len(gains) < ENOUGH_SEEDS:
        return None
    seconds = [statistics.median(run["train_seconds"] for run in runs) for runs in (mine, reference)]
    return (
        f"Measured with this objective on a small agent of congestion, against {name}: about {seconds[0] / seconds[1]:.1f} times "
        f"the time, {text_of(gains, sign=True)} points of success under all attacks at 1x, "
        f"{text_of(prices, sign=True)} of sampled success without attack ({len(gains)} seeds, 95 % intervals; "
        "docs/results/study.md)."
    )
