"""
Does a strong penalty make an agent dull, and does a floor under its sensitivity help? AAJR is trained with large lambdas, with
and without a `sensitivity_floor`.

    python scripts/dullness.py                          # about 15 minutes on one core

Training starts from docs/results/agents/congestion, with recipes/congestion/aajr.yaml. Agents and evaluations that exist in
`--work` are not made again. The script writes dullness.json and dullness.md to `--output`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from methods import differences
from shared.commands import ROOT, evaluate_once, slug, train_once
from shared.tables import runs_of, table, write_results

LAMBDAS = (0.3, 3.0)
FLOORS = (0.0, 20.0)
INTRODUCTION = """# A strong penalty, with and without a floor

`python scripts/dullness.py --seeds {seeds}` makes this page and `dullness.json`. One base agent of `congestion`
(`docs/results/agents`) is fine-tuned for {steps} steps by `recipes/congestion/aajr.yaml` with a relative lambda of ten and of a
hundred times the recipe's, with and without a `sensitivity_floor`. All agents of a seed are attacked together by `warm_nll`, `restart` and
`from_others`. Success is in percent of {examples} held-out observations a seed; 1x is the training radius. With three seeds
or more, the tables show means with 95 % intervals over seeds (Student's t). *Sampled* success falls first where an agent
becomes dull: it is less sure of its answers."""


def name_of(weight: float, floor: float) -> str:
    return f"lambda {weight:g}" + (f", floor {floor:g}" if floor else "")


SETTINGS = {
    name_of(weight, floor): {"regularizer_lambda": weight, "sensitivity_floor": floor}
    for weight in LAMBDAS
    for floor in FLOORS
}


def page(runs: list[dict], examples: int, steps: int) -> str:
    seeds = " ".join(str(seed) for seed in dict.fromkeys(run["seed"] for run in runs))
    lines = [INTRODUCTION.format(seeds=seeds, examples=examples, steps=steps), "", *table(runs), ""]
    for weight in LAMBDAS:
        of_weight = [run for run in runs if run["setting"] in {name_of(weight, floor) for floor in FLOORS}]
        lines += [*differences(of_weight, name_of(weight, 0.0)), ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "results", help="folder of the results")
    parser.add_argument("--work", type=Path, default=ROOT / "outputs" / "dullness", help="folder of the agents")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="of training (default: %(default)s)")
    parser.add_argument("--examples", type=int, default=64, help="observations per seed (default: %(default)s)")
    parser.add_argument("--max_steps", type=int, default=120, help="of training (default: %(default)s)")
    arguments = parser.parse_args()
    runs: list[dict] = []
    for seed in arguments.seeds:
        agents = {
            name: train_once(arguments.work / f"{slug(name)}-{seed}", "aajr", fields, seed, arguments.max_steps)
            for name, fields in SETTINGS.items()
        }
        options = ["--examples", str(arguments.examples), "--seed", str(seed)]
        options += ["--attacks", "warm_nll", "restart", "from_others"]
        runs += runs_of(evaluate_once(arguments.work / f"evaluation-{seed}", agents, options), seed)
    write_results(arguments.output / "dullness", runs, page(runs, arguments.examples, arguments.max_steps))


if __name__ == "__main__":
    main()
