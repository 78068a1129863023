"""
The study that chose recipes/congestion/aajr.yaml. It tries many settings of the penalty with one seed, and trains the
best of them with five other seeds. All agents of a seed are attacked together, each also with what was found on the
others.

    python scripts/recipe_study.py                       # about three hours on two cores
    python scripts/recipe_study.py --settings "adversarial, K = 3" "AAJR, K = 1" --seeds 1 2

Training starts from docs/results/agents/congestion. Agents and evaluations that exist in `--work` are not made again.
The script writes recipe.json and recipe.md to `--output`.
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from shared.commands import ROOT, evaluate_once, slug, train_once
from shared.tables import differences, runs_of, table, write_results

TUNING_SEED, TUNING_EXAMPLES = 0, 128
K1, K3 = {"ascent_steps": 1}, {"ascent_steps": 3}
# These settings are written out in full, so that a change of the recipe does not change the study.
SAMPLED = {"penalty_trajectory": "sample", "penalty_fraction": 0.5, "penalty_interval": 1}
EVERY = {"penalty_trajectory": "all", "penalty_fraction": 1.0}
ABSOLUTE = {"lambda_mode": "absolute"}
GLOBAL = ABSOLUTE | {"regularizer_lambda": 6e-4}


def _aajr(weight: float, **fields) -> tuple[str, dict]:
    return "aajr", SAMPLED | K1 | ABSOLUTE | {"regularizer_lambda": weight} | fields


# Name -> recipe, and the fields that are set instead of the recipe's.
SETTINGS: dict[str, tuple[str, dict]] = {
    "adversarial, K = 3": ("adversarial", K3),
    "adversarial, K = 1": ("adversarial", K1),
    "global spectral, K = 3": ("global", K3 | GLOBAL),
    "global spectral, K = 1": ("global", K1 | GLOBAL),
    "random direction, K = 1": _aajr(0.03, regularizer="random_direction"),
    "AAJR, K = 3, lambda 6e-5": _aajr(6e-5, **K3),
    "AAJR, K = 3, lambda 6e-4": _aajr(6e-4, **K3),
    "AAJR, K = 1, lambda 6e-6": _aajr(6e-6),
    "AAJR, K = 1, lambda 6e-5": _aajr(6e-5),
    "AAJR, K = 1, lambda 6e-4": _aajr(6e-4),
    "AAJR, K = 1, lambda 6e-3": _aajr(6e-3),
    "AAJR, K = 2, lambda 6e-5": _aajr(6e-5, ascent_steps=2),
    "AAJR, K = 1, lambda 2e-4": _aajr(2e-4),
    "every point, K = 1, lambda 6e-5": _aajr(6e-5, **EVERY),
    "every point, K = 1, lambda 2e-4": _aajr(2e-4, **EVERY),
    "amortised, K = 1, lambda 6e-5": _aajr(6e-5, penalty_fraction=0.125, penalty_interval=4),
    "660 steps, K = 1, lambda 6e-5": _aajr(6e-5, max_steps=660),
    "660 steps, adversarial, K = 3": ("adversarial", K3 | {"max_steps": 660}),
    "penalty to 2 epsilon, lambda 6e-4": _aajr(6e-4, penalty_radius=2),
    "penalty to 3 epsilon, lambda 6e-4": _aajr(6e-4, penalty_radius=3),
    "Fisher metric, lambda 1e-3": _aajr(1e-3, penalty_output="fisher"),
    "Fisher metric, lambda 0.01": _aajr(0.01, penalty_output="fisher"),
    "Fisher metric, lambda 0.1": _aajr(0.1, penalty_output="fisher"),
    "Fisher metric, lambda 1": _aajr(1.0, penalty_output="fisher"),
    "margin, lambda 6e-4": _aajr(6e-4, penalty_output="margin"),
    "margin, lambda 6e-3": _aajr(6e-3, penalty_output="margin"),
}
FINALISTS = [
    "adversarial, K = 3",
    "adversarial, K = 1",
    "global spectral, K = 3",
    "AAJR, K = 1, lambda 6e-5",
    "every point, K = 1, lambda 2e-4",
    "random direction, K = 1",
    "amortised, K = 1, lambda 6e-5",
]
# recipes/congestion/aajr.yaml, but for the unit of lambda, which lambda_study.py chose later
CHOSEN = "AAJR, K = 1, lambda 6e-5"


INTRODUCTION = """# How the recipe was chosen

`python scripts/recipe_study.py` makes this page and `recipe.json`. One base agent of `congestion`
(`docs/results/agents`) is fine-tuned for 330 steps with each setting: first with all settings and one seed, then with a
few settings and five other seeds, which also sample other training data. The agents of a seed are attacked together, by
every attack of `aajr evaluate`, and each agent also with what was found on the others. Do not compare numbers of the
two tables, because they have different numbers of other agents. Success is in percent of held-out observations, which
differ between seeds; 1x is the training radius. *ampl.* is the mean `||J u||` along the ascent. With several seeds, the
tables show means with 95 % intervals over seeds (Student's t). Times were measured with two runs at once, on one thread
each, on a machine that also did other work."""


def folder_of(work: Path, name: str, seed: int) -> Path:
    return work / f"{slug(name)}-{seed}"


def train(name: str, seed: int, work: Path, steps: int | None) -> None:
    train_once(folder_of(work, name, seed), *SETTINGS[name], seed, steps)


def evaluate(names: list[str], seed: int, work: Path, examples: int) -> dict[str, dict]:
    """Return the numbers of all agents of one seed, attacked together on observations of that seed."""
    agents = {name: folder_of(work, name, seed) for name in names}
    return evaluate_once(work / f"evaluation-{seed}", agents, ["--examples", str(examples), "--seed", str(seed)])


def page(runs: list[dict]) -> str:
    tuning = [run for run in runs if run["seed"] == TUNING_SEED]
    final = [run for run in runs if run["seed"] != TUNING_SEED]
    lines = [INTRODUCTION, ""]
    if final:
        lines += ["## Five seeds", "", *table(final), ""]
        for reference in (*FINALISTS[:2], CHOSEN):
            lines += [*differences(final, reference), ""]
    if tuning:
        lines += ["## All that was tried, on one seed", "", *table(tuning), ""]
    lines += ["## Settings", "", "| setting | recipe | fields |", "|---|---|---|"]
    for name in dict.fromkeys(run["setting"] for run in runs):
        recipe, fields = SETTINGS[name]
        texts = ", ".join(f"`{field}: {value}`" for field, value in fields.items())
        lines.append(f"| {name} | `{recipe}.yaml` | {texts} |")
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "results", help="folder of the results")
    parser.add_argument("--work", type=Path, default=ROOT / "outputs" / "recipe-study", help="folder of the agents")
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), metavar="NAME", help="of those in this file")
    parser.add_argument("--finalists", nargs="+", default=FINALISTS, metavar="NAME", help="trained on all seeds")
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2, 3, 4, 5], help="of the finalists")
    parser.add_argument("--examples", type=int, default=160, help="observations per seed (default: %(default)s)")
    parser.add_argument("--max_steps", type=int, help="of training, instead of the recipes'")
    parser.add_argument(
        "--jobs", type=int, default=2, help="trainings at once, one thread each (default: %(default)s)"
    )
    arguments = parser.parse_args()
    if TUNING_SEED in arguments.seeds:
        sys.exit(f"error: `--seeds`: {TUNING_SEED} is the seed that chooses the finalists: give other seeds.")
    by_seed = {TUNING_SEED: arguments.settings} | dict.fromkeys(arguments.seeds, arguments.finalists)
    for name in {name for names in by_seed.values() for name in names} - SETTINGS.keys():
        sys.exit(f"error: there is no setting {name!r}: choose from {', '.join(SETTINGS)}.")
    jobs = [(name, seed) for seed, names in by_seed.items() for name in names]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        list(pool.map(lambda job: train(*job, arguments.work, arguments.max_steps), jobs))
    runs: list[dict] = []
    for seed, names in by_seed.items():
        examples = TUNING_EXAMPLES if seed == TUNING_SEED else arguments.examples
        runs += runs_of(evaluate(names, seed, arguments.work, examples), seed)
    write_results(arguments.output / "recipe", runs, page(runs))


if __name__ == "__main__":
    main()
