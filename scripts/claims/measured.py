"""What `aajr train` says of a setting: the time and the robustness that the section `robustness` measured of it."""

from __future__ import annotations

import statistics

from shared.tables import ENOUGH_SEEDS, text_of

from aajr_hf.cli.common.measured import objective_of

from .methods import METHODS
from .page import by_seed, cells_of, number_of
from .robustness import REFERENCE, ascent_and_rows

PLAIN = "sft"
NAMES = {PLAIN: "plain fine-tuning", REFERENCE: "adversarial training with as many ascent steps"}


def entries(runs: list[dict], chosen: dict[str, float]) -> list[dict]:
    """
    Return settings and sentences, for each method and number of ascent steps with enough seeds, from the runs with most
    training rows.
    """
    found = []
    for steps in sorted({ascent_and_rows(run)[0] for run in runs}):
        here = [run for run in runs if ascent_and_rows(run)[0] == steps]
        most = max(ascent_and_rows(run)[1] for run in here)
        by_method = {
            method: [run for run in here if run["agent"] == method and ascent_and_rows(run)[1] == most]
            for method in cells_of(here, "agent")
        }
        for method, mine in ((name, some) for name, some in by_method.items() if name in chosen):
            if method != PLAIN:
                against = PLAIN if method == REFERENCE else REFERENCE
                sentence = _sentence(mine, by_method.get(against, []), NAMES[against])
                agent = METHODS[method].under_pressure(chosen[method], steps, most)
                found += [{"settings": objective_of(agent.config()), "measured": sentence}] if sentence else []
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
