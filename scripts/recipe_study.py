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
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from aajr_hf.evaluation.reporting.statistics import mean_interval

ROOT = Path(__file__).resolve().parent.parent
BASE = ROOT / "docs" / "results" / "agents" / "congestion"
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
# Student's interval of two values is nine times their standard deviation, or nothing at all if they are equal.
ENOUGH_SEEDS = 3
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


def slug(name: str) -> str:
    """Turn a setting's name into a name that is valid for a folder and for `aajr evaluate`."""
    return "".join(c if c.isalnum() else "-" for c in name)


def folder_of(work: Path, name: str, seed: int) -> Path:
    return work / f"{slug(name)}-{seed}"


def train(name: str, seed: int, work: Path, steps: int | None) -> None:
    train_once(folder_of(work, name, seed), *SETTINGS[name], seed, steps)


def train_once(folder: Path, recipe: str, fields: dict, seed: int, steps: int | None) -> Path:
    """
    Train the base agent with a recipe of `congestion` and these fields, in a new process with one thread, unless the agent
    is there. Return its folder.
    """
    if not (folder / "train_results.json").is_file():
        fields = {"model_name_or_path": BASE, "output_dir": folder, "seed": seed, "environment_seed": seed} | fields
        fields |= {"overwrite": "true"} | ({"max_steps": steps} if steps else {})
        options = [part for field, value in fields.items() for part in (f"--{field}", str(value))]
        run_command(["train", "--config", str(ROOT / "recipes" / "congestion" / f"{recipe}.yaml"), *options], folder)
        print(f"trained {folder.name}", flush=True)
    return folder


def evaluate(names: list[str], seed: int, work: Path, examples: int) -> dict[str, dict]:
    """Return the numbers of all agents of one seed, attacked together on observations of that seed."""
    agents = {name: folder_of(work, name, seed) for name in names}
    return evaluate_once(work / f"evaluation-{seed}", agents, ["--examples", str(examples), "--seed", str(seed)])


def evaluate_once(output: Path, agents: dict[str, Path], options: list[str]) -> dict[str, dict]:
    """Attack the agents together, unless the same was asked for before, and return the numbers of each by its name."""
    models = [f"{slug(name)}={folder}" for name, folder in agents.items()]
    file, asked = output / "results.json", output / "asked.json"
    if not (file.is_file() and json.loads(asked.read_text()) == [models, options]):
        run_command(["evaluate", *models, *options, "--output", str(output)], output)
        asked.write_text(json.dumps([models, options]))
        print(f"evaluated {output.name}", flush=True)
    runs = json.loads(file.read_text())["runs"]
    return {name: runs[slug(name)] for name in agents}


def run_command(command: list[str], folder: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    folder.parent.mkdir(parents=True, exist_ok=True)
    log = folder.with_suffix(".log")
    with log.open("w") as file:
        done = subprocess.run(
            [sys.executable, "-m", "aajr_hf", *command], env=environment, stdout=file, stderr=subprocess.STDOUT
        )
    if done.returncode:
        sys.exit(f"error: {folder.name} failed: see {log}")


def runs_of(runs: dict[str, dict], seed: int) -> list[dict]:
    """Return the fields of each agent that the page needs."""
    kept = (
        *("nominal_success", "sampled_success", "worst_case_success", "sampled_worst_case_success"),
        *("amplification", "gradients", "attacks", "trust", "train_seconds", "examples"),
    )
    return [{"setting": name, "seed": seed} | {field: run[field] for field in kept} for name, run in runs.items()]


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


def table(runs: list[dict]) -> list[str]:
    """Return a table of means over seeds, with 95 % intervals if there are several seeds."""
    radii = list(runs[0]["worst_case_success"])
    headers = ["setting", "nominal", *(f"{m}x" for m in radii), "sampled nominal", "sampled 1x", "ampl.", "train s"]
    lines = [f"| {' | '.join(headers)} |", "|---|" + "---:|" * (len(headers) - 1)]
    by_setting: dict[str, list[dict]] = {}
    for run in runs:
        by_setting.setdefault(run["setting"], []).append(run)
    order = sorted(by_setting, key=lambda name: -sum(r["worst_case_success"]["1"] for r in by_setting[name]))
    for name in order:
        members = by_setting[name]
        columns = [[run["nominal_success"] for run in members]]
        columns += [[run["worst_case_success"][m] for run in members] for m in radii]
        columns += [[run["sampled_success"] for run in members]]
        columns += [[run["sampled_worst_case_success"]["1"] for run in members]]
        columns += [[run["amplification"] for run in members], [run["train_seconds"] for run in members]]
        lines.append(f"| {name} | {' | '.join(cell(values) for values in columns)} |")
    return lines


def cell(values: list[float], sign: str = "") -> str:
    """Return the mean over seeds, with its 95 % interval if there are enough; `sign="+"` shows plus signs."""
    mean, half = mean_interval(values)
    return f"{mean:{sign}.1f}" if len(values) < ENOUGH_SEEDS else f"{mean:{sign}.1f} ± {half:.1f}"


def differences(runs: list[dict], reference: str) -> list[str]:
    """Return a table of the differences between each setting and a reference, paired by seed."""
    theirs = {run["seed"]: run for run in runs if run["setting"] == reference}
    radii = list(runs[0]["worst_case_success"])
    headers = ["setting", "nominal", *(f"{m}x" for m in radii), "sampled nominal", "sampled 1x"]
    lines = [f"Difference from {reference} in points, paired by seed:", "", f"| {' | '.join(headers)} |"]
    lines += ["|---|" + "---:|" * (len(headers) - 1)]
    for name in dict.fromkeys(run["setting"] for run in runs):
        pairs = [(run, theirs[run["seed"]]) for run in runs if run["setting"] == name and run["seed"] in theirs]
        if name == reference or not pairs:
            continue
        cells = [cell([run["nominal_success"] - other["nominal_success"] for run, other in pairs])]
        cells += [cell([r["worst_case_success"][m] - o["worst_case_success"][m] for r, o in pairs]) for m in radii]
        cells += [cell([run["sampled_success"] - other["sampled_success"] for run, other in pairs])]
        sampled = "sampled_worst_case_success"
        cells += [cell([run[sampled]["1"] - other[sampled]["1"] for run, other in pairs])]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


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
    arguments.output.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(run) for run in runs)  # one run per line
    (arguments.output / "recipe.json").write_text(f"[\n{lines}\n]\n")
    (arguments.output / "recipe.md").write_text(page(runs))


if __name__ == "__main__":
    main()
