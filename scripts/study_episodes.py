"""What the study says of whole episodes, shocked and attacked."""

from __future__ import annotations

from study_compare import Methods, interval, rows_of
from study_settings import EPISODE_STEPS

from aajr_hf.environments import WORLDS


def episodes(final: Methods) -> str:
    """The world's success under every condition, and all that the world measures under the hardest one."""
    played = {name: [run["shocked"] for run in runs if run.get("shocked")] for name, runs in final.items()}
    played = {name: results for name, results in played.items() if results}
    conditions = list(dict.fromkeys(c for results in played.values() for result in results for c in result))
    if not conditions:
        return "No episodes were simulated."
    kind = WORLDS[next(iter(final.values()))[0]["world"]]
    opponents = ", of which the opponents are scripted experts and are not attacked" if kind.two_sided else ""
    text = (
        f"Whole episodes of ten agents{opponents}; greedy answers. Success in percent (`{kind.success}` among the metrics below), with the shock and the "
        f"attack named; the attack moves the embeddings of every prompt of the agent's by so much of their norm, in {EPISODE_STEPS} steps."
    )
    successes = [
        [name, *(interval([100 * r[c]["success"] for r in results if c in r]) for c in conditions)]
        for name, results in played.items()
    ]
    hardest = conditions[-1]
    metrics = [m for m in next(iter(played.values()))[0].get(hardest, {}) if m != "success" or m == kind.success]
    measured = [
        [name, *(interval([r[hardest][m] for r in results if hardest in r], 2) for m in metrics)]
        for name, results in played.items()
    ]
    return "\n\n".join(
        [
            text,
            rows_of(["method", *conditions], successes),
            f"All metrics of the world under `{hardest}`; malformed: the share of answers that could not be read.",
            rows_of(["method", *metrics], measured),
        ]
    )
