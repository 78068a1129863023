"""The results of `study.py` as JSON and as a Markdown page of tables and text, with 95 % confidence intervals."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path

from study_choice import choose, is_penalised, superseded, tuning_scores, value_of
from study_compare import (
    AAJR,
    Methods,
    against,
    at_matched,
    epsilon,
    interval,
    nominal,
    prices,
    rows_of,
    sampled,
)
from study_episodes import episodes
from study_plot import draw_differences
from study_settings import EPSILON, MEASURES
from study_stability import sensitivity, stability

from aajr_hf.environments import WORLDS
from aajr_hf.evaluation.comparison.runs import UNPENALISED
from aajr_hf.evaluation.reporting.report import replace_file

ORDER = (*UNPENALISED, "global_spectral", "local_spectral", "global_frobenius", "random_direction", *AAJR)

INTRODUCTION = f"""# Does AAJR pay?

`python scripts/study.py` makes this page and `study.json`, which contains every run; the base agents are in
`docs/results/agents`. In each world, each method fine-tunes one base agent with the same number of steps and with
frozen embeddings. All methods except plain training train against the same adversary (up to epsilon {EPSILON} of an
embedding's norm, K = 3, half clean and half adversarial loss). Four settings of each method are tried on tuning seeds.
Methods without a penalty try learning rates. Penalties try lambdas that would give the base agents' penalties a weight
of about 0.01, 0.1, 1 and 10 nats, at the best learning rate of adversarial training without a penalty. Adversarial
training is therefore every penalty's lambda of zero, with everything else equal. Steps and schedules are the same for
all methods and tuned for none of them: epsilon and lambda grow over the first 30 % of the steps. The setting with the
best sampled success, averaged over no attack and the four radii, is trained again on fresh seeds and measured on fresh
observations; each seed also has its own training data. All intervals are over seeds of the fine-tuning of one base
agent per world; [other base agents](bases.md) of `commons` do not share what is found in its episodes.

`aajr` evaluates its penalty at all points of the ascent. `aajr_amortised` evaluates it at a few points, sampled at
random, with the same mean. Both use the lambda found with the latter. `local_spectral` and `random_direction` are also
evaluated at points of the ascent, the global penalties between observations of the batch. The largest singular value is
computed with two power iterations in training, and with {MEASURES.power_iterations} in the tables.

Success is the share of held-out observations that the agent answers exactly as the expert does, token by token. The
first number is for greedy answers, the number in brackets for answers sampled at temperature 1, which shows if a
penalty was met by smaller logits. The attack is one projected gradient ascent on the expected system cost, from the
clean embeddings, with {MEASURES.attack_steps} steps; it takes the best iterate of each example. Numbers with a ± are
means over seeds with their 95 % confidence intervals (Student's t over seeds; paired by seed if two methods are
compared). Numbers in brackets, costs and times are means alone. Times were measured with several runs at once, on a
machine that also did other work."""

PICTURE = """![Points ahead of adversarial training](study.png)

Difference in sampled success between each method and adversarial training alone, at the chosen settings, paired by
seed, with 95 % confidence intervals."""


def write_report(runs: list[dict], folder: Path) -> None:
    """Write `study.json`, `study.md` and, if there is something to compare, `study.png`."""
    text = page(runs)
    picture = draw_differences({world: _final(here) for world, here in by_world(runs).items()})
    if picture:
        text = text.replace(INTRODUCTION, f"{INTRODUCTION}\n\n{PICTURE}", 1)
        replace_file(folder / "study.png", picture)
    replace_file(folder / "study.json", (json.dumps(runs, indent=1) + "\n").encode())
    replace_file(folder / "study.md", text.encode())


def page(runs: list[dict]) -> str:
    worlds = by_world(runs)
    parts = [INTRODUCTION]
    for name, here in worlds.items():
        parts += [f"## `{name}`", *_world(here)]
    if len(worlds) > 1:
        parts += _all_worlds(list(worlds.values()))
    return "\n\n".join(parts) + "\n"


def _world(runs: list[dict]) -> list[str]:
    final, tuning, old = _final(runs), _tuning(runs), superseded(runs)
    if not final:
        return [f"Tuning is not finished: {len(runs)} runs."]
    notes = [f"Each agent was trained for {' or '.join(sorted({str(r['steps']) for r in runs if r['steps']}))} steps."]
    if WORLDS[runs[0]["world"]].two_sided:
        notes.append("Held-out observations are of one side only, training data of both sides.")
    if old:
        notes.append(f"Left out, because tuning now chooses other settings: {len(old)} runs.")
    diverged = sorted(_name(run) for run in _current(runs, "result") if run.get("diverged"))
    if diverged:
        notes.append(f"Not finite, and left out: {', '.join(diverged)}.")
    return [
        " ".join(notes),
        _table(final),
        *([_settings(tuning)] if tuning else []),
        "### The price of robustness",
        prices(final),
        "### AAJR against each baseline",
        *(against(ours, [final]) for ours in AAJR if ours in final),
        *(at_matched(ours, [tuning]) for ours in AAJR if ours in tuning),
        "### What is left of the sensitivity",
        sensitivity(final),
        "### Stability: the gradient, and the inner loop",
        stability(final),
        "### Episodes",
        episodes(final),
    ]


def _all_worlds(worlds: list[list[dict]]) -> list[str]:
    finals, tunings = [_final(runs) for runs in worlds], [_tuning(runs) for runs in worlds]
    return [
        "## All worlds",
        "These tables use the pairs of all worlds together. The intervals treat the pairs as independent, but pairs "
        "of one world are not fully independent: the intervals say little about a fourth world.",
        *(against(ours, finals) for ours in AAJR if any(ours in final for final in finals)),
        *(at_matched(ours, tunings) for ours in AAJR if any(ours in tuning for tuning in tunings)),
    ]


def _current(runs: list[dict], phase: str) -> list[dict]:
    old = superseded(runs)
    return [run for run in runs if run["phase"] == phase and run not in old]


def _final(runs: list[dict]) -> Methods:
    return by_method([run for run in _current(runs, "result") if not run.get("diverged")])


def _tuning(runs: list[dict]) -> Methods:
    return by_method(_current(runs, "tuning"))


def by_world(runs: list[dict]) -> dict[str, list[dict]]:
    return {
        name: [run for run in runs if run["world"] == name] for name in dict.fromkeys(run["world"] for run in runs)
    }


def by_method(runs: list[dict]) -> Methods:
    """Group runs by method, in the order of the page, and sort the runs of a method by seed."""
    return {
        name: sorted((run for run in runs if run["method"] == name), key=lambda run: (run["seed"], value_of(run) or 0))
        for name in ORDER
        if any(run["method"] == name for run in runs)
    }


def _name(run: dict) -> str:
    return f"{run['method']} with seed {run['seed']}"


def _table(final: Methods) -> str:
    radii = sorted(next(iter(final.values()))[0]["worst_case_success"], key=float)
    header = [
        "method",
        "setting",
        "nominal %",
        *(f"worst case % at {epsilon(r)}" for r in radii),
        "cost",
        "train s",
    ]
    rows = []
    for name, runs in final.items():
        value = value_of(runs[0])
        setting = "-" if value is None else f"{'lambda' if is_penalised(name) else 'rate'} {value:g}"
        cells = [f"{interval([nominal(r) for r in runs])} ({statistics.mean(sampled(r) for r in runs):.1f})"]
        for radius in radii:
            greedy = [run["worst_case_success"][radius] for run in runs]
            mean = statistics.mean(run["sampled_worst_case_success"][radius] for run in runs)
            cells.append(f"{interval(greedy)} ({mean:.1f})")
        cost = statistics.mean(run.get("nominal_cost", math.nan) for run in runs)
        seconds = [run["train_seconds"] for run in runs if "train_seconds" in run]
        rows.append([name, setting, *cells, f"{cost:.2f}", f"{statistics.mean(seconds):.0f}" if seconds else "-"])
    return rows_of(header, rows)


def _settings(tuning: Methods) -> str:
    """Return a table of the tried settings and their scores; methods whose tuning is not finished have empty cells."""
    rows = []
    for name, runs in tuning.items():
        chosen, scores = choose(runs), tuning_scores(runs).items()
        cells = [
            f"**{value:g}: {score:.1f}**" if value == chosen else f"{value:g}: {score:.1f}" for value, score in scores
        ]
        rows.append([name, *cells])
    rates = sorted({run["learning_rate"] for name, runs in tuning.items() if is_penalised(name) for run in runs})
    text = (
        "Settings that were tried (learning rates without a penalty, lambdas with a "
        f"penalty{', at a rate of ' + ' or '.join(f'{rate:g}' for rate in rates) if rates else ''}), each with its "
        "score on the tuning seeds: sampled success in percent, averaged over no attack and the four radii. The best "
        "setting is in bold; if it is the first or the last, a better setting may lie beyond it."
    )
    widest = max(map(len, rows))
    header = ["method", *(f"setting {i}" for i in range(1, widest))]
    return f"{text}\n\n{rows_of(header, [row + ['-'] * (widest - len(row)) for row in rows])}"
