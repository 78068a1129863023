"""
Which method makes an agent robust, at what cost? Methods of docs/methods.md are put beside plain fine-tuning, adversarial
training and AAJR: the same base agent, the same seeds, and the same attacks, all of them. All agents of a seed are attacked
together, each also with what was found on the others.

    python scripts/methods.py                                   # about an hour on one core
    python scripts/methods.py --methods all --examples 128      # about two and a half hours
    python scripts/methods.py --methods sft AAJR floor --seeds 1

Training starts from docs/results/agents/congestion, with the recipes of recipes/congestion. Agents and evaluations that
exist in `--work` are not made again. After each seed, the script writes methods.json and methods.md to `--output`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from shared.commands import ROOT, evaluate_once, slug, train_once
from shared.tables import ENOUGH_SEEDS, runs_of, table, text_of, write_results

from aajr_hf.evaluation.reporting.statistics import mean_interval

# The agent that teaches in a distillation.
TEACHER = "AAJR"
# Name -> recipe, and the fields that are set instead of the recipe's.
METHODS: dict[str, tuple[str, dict]] = {
    "sft": ("sft", {}),
    "adversarial": ("adversarial", {}),
    "AAJR": ("aajr", {}),
    "AAJR, fast": ("aajr-fast", {}),
    "local spectral": ("global", {"regularizer": "local_spectral"}),
    "matched": ("methods/matched", {}),
    "matched, random": ("methods/matched", {"nuisance": "random"}),
    "matched, answers": ("methods/matched", {"nuisance": "answers"}),
    "variants": ("methods/variants", {}),
    "distillation": ("methods/distillation", {}),
    "long tail": ("methods/long-tail", {}),
    "floor": ("methods/floor", {}),
    "rollback": ("methods/rollback", {}),
    "latent": ("methods/latent", {}),
}
REFERENCES = ("adversarial", "AAJR")
# Without `--methods`. Left out is what aims at something else than the worst case of such balanced and calm runs: rollback, a
# radius for each class, less time; and the local spectral penalty, which other studies measure.
COMPARED = ("sft", "adversarial", "AAJR", "matched", "variants", "distillation", "floor", "latent")
INTRODUCTION = """# The methods side by side

`python scripts/methods.py {options}` makes this page and `methods.json`. One base agent of `congestion` (`docs/results/agents`) is
fine-tuned with the recipe of each method, and all agents of a seed are attacked together by every attack of `aajr
evaluate`, each also with what was found on the others. Success is in percent of {examples} held-out observations a seed; 1x is the
training radius. With three seeds or more, the tables show means with 95 % intervals over seeds (Student's t). The settings are those
of the recipes, with the same relative lambda in all penalties; nothing else of a method was tuned in this world, so one that does
not lead here may do so with other settings. *matched, random* and *matched, answers* are controls: a random subspace, and
directions to other answers. Times were measured beside other work."""


def train(name: str, seed: int, work: Path, steps: int | None) -> Path:
    """Train one agent unless it is there, and return its folder. A teacher is trained before its student."""
    recipe, fields = METHODS[name]
    if name == "distillation":
        fields = fields | {"teacher": train(TEACHER, seed, work, steps)}
    return train_once(work / f"{slug(name)}-{seed}", recipe, fields, seed, steps)


def page(runs: list[dict], examples: int) -> str:
    seeds = " ".join(str(seed) for seed in dict.fromkeys(run["seed"] for run in runs))
    methods = "--methods all " if {run["setting"] for run in runs} == METHODS.keys() else ""
    introduction = INTRODUCTION.format(examples=examples, options=f"{methods}--seeds {seeds}")
    lines = [introduction, "", *table(runs), ""]
    for reference in REFERENCES:
        lines += [*differences(runs, reference), ""]
    lines += ["## Recipes", "", "| method | recipe | changed |", "|---|---|---|"]
    for name in dict.fromkeys(run["setting"] for run in runs):
        recipe, fields = METHODS[name]
        changed = ", ".join(f"`{field}: {value}`" for field, value in fields.items())
        lines.append(f"| {name} | `recipes/congestion/{recipe}.yaml` | {changed} |")
    return "\n".join([*lines, ""])


def differences(runs: list[dict], reference: str) -> list[str]:
    """Return a table of what each method gives and costs against a reference, paired by seed, and whether it helps."""
    theirs = {run["seed"]: run for run in runs if run["setting"] == reference}
    lines = [
        f"Against {reference}, in points, paired by seed:",
        "",
        "| method | no attack | no attack, sampled | 1x | effect at 1x |",
        "|---|---:|---:|---:|---|",
    ]
    for name in dict.fromkeys(run["setting"] for run in runs):
        pairs = [(run, theirs[run["seed"]]) for run in runs if run["setting"] == name and run["seed"] in theirs]
        if name == reference or not pairs:
            continue
        nominal = [one["nominal_success"] - other["nominal_success"] for one, other in pairs]
        sampled = [one["sampled_success"] - other["sampled_success"] for one, other in pairs]
        worst = [one["worst_case_success"]["1"] - other["worst_case_success"]["1"] for one, other in pairs]
        lines.append(
            f"| {name} | {text_of(nominal, sign=True)} | {text_of(sampled, sign=True)} | {text_of(worst, sign=True)} | {_verdict(worst)} |"
        )
    return lines


def _verdict(gains: list[float]) -> str:
    if len(gains) < ENOUGH_SEEDS:
        return "too few seeds"
    mean, half = mean_interval(gains)
    if abs(mean) <= half:
        return "is not seen to differ"
    return "helps" if mean > 0 else "harms"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "results", help="folder of the results")
    parser.add_argument("--work", type=Path, default=ROOT / "outputs" / "methods", help="folder of the agents")
    help_of_methods = f"of those in this file, or all (default: {', '.join(COMPARED)})"
    parser.add_argument("--methods", nargs="+", default=list(COMPARED), metavar="NAME", help=help_of_methods)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="of training (default: %(default)s)")
    parser.add_argument("--examples", type=int, default=64, help="observations per seed (default: %(default)s)")
    parser.add_argument("--max_steps", type=int, help="of training, instead of the recipes'")
    arguments = parser.parse_args()
    chosen = list(METHODS) if arguments.methods == ["all"] else arguments.methods
    for name in set(chosen) - METHODS.keys():
        sys.exit(f"error: there is no method {name!r}: choose from {', '.join(METHODS)}.")
    runs: list[dict] = []
    for seed in arguments.seeds:
        agents = {name: train(name, seed, arguments.work, arguments.max_steps) for name in chosen}
        options = ["--examples", str(arguments.examples), "--seed", str(seed)]
        runs += runs_of(evaluate_once(arguments.work / f"evaluation-{seed}", agents, options), seed)
        write(runs, arguments.output, arguments.examples)


def write(runs: list[dict], folder: Path, examples: int) -> None:
    """Write what is known so far, so that a run that is stopped leaves the seeds that it has finished."""
    write_results(folder / "methods", runs, page(runs, examples))


if __name__ == "__main__":
    main()
