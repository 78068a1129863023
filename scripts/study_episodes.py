"""The part of the study's page about whole episodes under shocks and attacks."""

from __future__ import annotations

from study_compare import AAJR, Methods, ahead, interval, rows_of
from study_settings import EPISODE_STEPS

from aajr_hf.environments import WORLDS


def episodes(final: Methods) -> str:
    """
    Return tables of the success under every condition, and of all the world's metrics under the hardest condition.
    """
    played = {name: [run for run in runs if run.get("shocked")] for name, runs in final.items()}
    played = {name: runs for name, runs in played.items() if runs}
    conditions = list(dict.fromkeys(c for runs in played.values() for run in runs for c in run["shocked"]))
    if not conditions:
        return "No episodes were simulated."
    kind = WORLDS[next(iter(final.values()))[0]["world"]]
    opponents = " (the opponents are scripted experts and are not attacked)" if kind.two_sided else ""
    text = (
        f"Whole episodes of ten agents{opponents}; greedy answers. Success in percent (`{kind.success}` among the "
        "metrics below). The column names the shock and the attack. The attack moves the embeddings of all the "
        f"agent's prompts by the given fraction of their norm, in {EPISODE_STEPS} steps."
    )
    numbers = {c: lambda run, c=c: 100 * run["shocked"][c]["success"] for c in conditions}
    successes = [
        [name, *(interval(list(map(number, runs))) for number in numbers.values())] for name, runs in played.items()
    ]
    hardest = conditions[-1]
    metrics = [m for m in next(iter(played.values()))[0]["shocked"][hardest] if m != "success" or m == kind.success]
    measured = [
        [name, *(interval([run["shocked"][hardest][m] for run in runs], 2) for m in metrics)]
        for name, runs in played.items()
    ]
    return "\n\n".join(
        [
            text,
            rows_of(["method", *conditions], successes),
            *(ahead(ours, [played], numbers) for ours in AAJR if ours in played),
            f"All metrics of the world under `{hardest}`. *malformed* is the share of answers that could not be "
            "parsed.",
            rows_of(["method", *metrics], measured),
        ]
    )
