"""
How many directions of nuisances should a penalty cover, and does it matter which? Agents are trained with `regularizer:
matched` along the directions of the ascents, along random ones, and along those to observations with other right answers,
over `nuisance_rank`; and with a random direction of the whole embedding.

    python scripts/nuisance_study.py                    # about 40 minutes on one core

Training starts from docs/results/agents/congestion, with recipes/congestion/methods/matched.yaml. Agents and evaluations that
exist in `--work` are not made again. The script writes nuisance.json, nuisance.md and nuisance.png to `--output`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from methods import differences
from shared.commands import ROOT, evaluate_once, slug, train_once
from shared.tables import runs_of, table, text_of, write_results

from aajr_hf.evaluation.reporting.plots import WIDE, render

NUISANCES = ("ascent", "random", "answers")
RANKS = (4, 16, 64)
ISOTROPIC = "isotropic"
# The recipe's lambda, 0.03, is too small to tell directions apart.
WEIGHT, STEPS = 1.0, 120


def name_of(nuisance: str, rank: int) -> str:
    return f"{nuisance}, rank {rank}"


SETTINGS = {
    name_of(nuisance, rank): {"nuisance": nuisance, "nuisance_rank": rank} for nuisance in NUISANCES for rank in RANKS
} | {ISOTROPIC: {"regularizer": "random_direction"}}
# Title of a panel -> the number of a run that it shows.
PANELS = {
    "success at 1x (%)": lambda run: run["worst_case_success"]["1"],
    "success without attack, sampled (%)": lambda run: run["sampled_success"],
    "drift along variants": lambda run: run["drift"],
}
INTRODUCTION = """# Which directions a penalty should cover

`python scripts/nuisance_study.py --seeds {seeds}` makes this page, its figure and `nuisance.json`. One base agent of `congestion`
(`docs/results/agents`) is fine-tuned for {steps} steps by `recipes/congestion/methods/matched.yaml` with a relative lambda of
{weight:g}, along the first directions of the adversary's ascents (*ascent*), along random ones (*random*), along those to observations
with other right answers (*answers*), and along random directions of all {dimensions} dimensions of a token (*isotropic*). All agents of a
seed are attacked together by `warm_nll`, `restart` and `from_others`. Success is in percent of {examples} held-out observations a
seed; 1x is the training radius. *Drift* is the mean squared change of the logits of the right answer per squared length of a small
change towards a variant of the observation, which has the same right answer. With three seeds or more, the tables show means
with 95 % intervals over seeds (Student's t)."""


def page(runs: list[dict], arguments: argparse.Namespace) -> str:
    seeds = " ".join(str(seed) for seed in dict.fromkeys(run["seed"] for run in runs))
    asked = {"seeds": seeds, "examples": arguments.examples, "steps": arguments.max_steps}
    lines = [INTRODUCTION.format(**asked, weight=WEIGHT, dimensions=runs[0]["dimensions"]), "", *table(runs), ""]
    for rank in RANKS:
        names = [name_of(nuisance, rank) for nuisance in NUISANCES]
        lines += [*differences([run for run in runs if run["setting"] in names], names[0]), ""]
    lines += ["| setting | drift along variants |", "|---|---:|"]
    lines += [f"| {name} | {text_of(values(runs, name, PANELS['drift along variants']))} |" for name in SETTINGS]
    return "\n".join([*lines, "", "![Success and drift over the rank of the penalty](nuisance.png)", ""])


def values(runs: list[dict], name: str, number) -> list[float]:
    return [number(run) for run in runs if run["setting"] == name]


def draw(figure: Figure, runs: list[dict]) -> None:
    """Means over seeds, by the kind of directions over the rank."""
    for axes, (title, number) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        for nuisance, marker in zip(NUISANCES, "os^", strict=True):
            means = [np.mean(values(runs, name_of(nuisance, rank), number)) for rank in RANKS]
            axes.plot(RANKS, means, marker=marker, label=nuisance)
        axes.axhline(np.mean(values(runs, ISOTROPIC, number)), color="0.4", linestyle="--", label=ISOTROPIC)
        axes.set_xscale("log", base=2)
        axes.set_xticks(RANKS, [str(rank) for rank in RANKS])
        axes.set(xlabel="rank", title=title)
    handles = figure.axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=len(NUISANCES) + 1, frameon=False)


def measure(arguments: argparse.Namespace) -> list[dict]:
    runs: list[dict] = []
    for seed in arguments.seeds:
        agents = {
            name: train_once(
                arguments.work / f"{slug(name)}-{seed}",
                "methods/matched",
                {"regularizer_lambda": WEIGHT} | fields,
                seed,
                arguments.max_steps,
            )
            for name, fields in SETTINGS.items()
        }
        options = ["--examples", str(arguments.examples), "--seed", str(seed), "--nuisance"]
        options += ["--attacks", "warm_nll", "restart", "from_others"]
        numbers = evaluate_once(arguments.work / f"evaluation-{seed}", agents, options)
        for run in runs_of(numbers, seed):
            measured = numbers[run["setting"]]["nuisance"]
            drift = measured["subspaces"]["variants"]["drift"]
            runs.append(run | {"drift": drift, "dimensions": measured["dimensions"]})
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "results", help="folder of the results")
    parser.add_argument("--work", type=Path, default=ROOT / "outputs" / "nuisance", help="folder of the agents")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="of training (default: %(default)s)")
    parser.add_argument("--examples", type=int, default=64, help="observations per seed (default: %(default)s)")
    parser.add_argument("--max_steps", type=int, default=STEPS, help="of training (default: %(default)s)")
    arguments = parser.parse_args()
    runs = measure(arguments)
    write_results(arguments.output / "nuisance", runs, page(runs, arguments))
    (arguments.output / "nuisance.png").write_bytes(render(lambda figure: draw(figure, runs), WIDE))


if __name__ == "__main__":
    main()
