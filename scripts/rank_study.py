"""
Does an adapter need a high rank to become robust? The script fine-tunes one base agent with the penalty: by full
fine-tuning, by LoRA of several ranks, and by three families of full-rank adapters with as many parameters, with several
seeds each. All agents are attacked in the same way.

    python scripts/rank_study.py                       # an hour on two cores
    python scripts/rank_study.py --seeds 0 --adapters lora:4 hira:4 --output outputs/rank

Each adapter gets its own learning rate from `RATES`: the rate that gives an agent of one more seed the highest
worst-case success, on other observations than those of the results. The search starts at the second rate and continues
towards better rates. Finished runs are kept in `--work` and not repeated. The script writes rank.json (a list of runs),
rank_tuning.json (the runs that choose learning rates), rank.png and rank.md to `--output`.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rank_study_report import write_report
from shared.commands import BASE, ROOT, flags

RECIPE = ROOT / "recipes" / "congestion" / "aajr.yaml"
ADAPTERS = ["full", *(f"lora:{rank}" for rank in (1, 8, 32)), "hira:8", "shira:8", "oft:8"]
RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
# The penalty's settings are written out in full, so that a change of the recipe does not change the study.
PENALTY = {
    "lambda_mode": "absolute",
    "regularizer_lambda": 6e-5,
    "penalty_trajectory": "sample",
    "penalty_fraction": 0.5,
}
TUNING_SEED = 100
MULTIPLE = 1.0


@dataclass(frozen=True)
class Run:
    """One agent. `adapter` is a name, or a name and a rank with a colon between them."""

    adapter: str
    seed: int
    rate: float

    @property
    def label(self) -> str:
        return f"{self.adapter.replace(':', '-')}-{self.rate:g}-{self.seed}"

    @property
    def observations_seed(self) -> int:
        # Learning rates are chosen on other observations than those of the results.
        return 8 if self.seed == TUNING_SEED else 7


def result_of(run: Run, work: Path, steps: int | None, examples: int) -> dict:
    """Train and measure one agent in a new process, which runs this script with `--one`."""
    file = work / f"{run.label}.json"
    if not file.is_file():
        command = [sys.executable, __file__, "--one", run.adapter, str(run.seed), str(run.rate), "--work", str(work)]
        command += ["--examples", str(examples), *(["--max_steps", str(steps)] if steps else [])]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        with file.with_suffix(".log").open("w") as log:
            done = subprocess.run(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        if done.returncode:
            raise RuntimeError(f"{run.label} failed: see {log.name}")
    result = json.loads(file.read_text())
    print(
        f"{run.label:<20} nominal {result['nominal_success']:.1f}, worst case {result['worst_case_success']:.1f}",
        flush=True,
    )
    return result


def train_and_measure(run: Run, work: Path, steps: int | None, examples: int) -> None:
    from aajr_hf.cli.main import main as aajr
    from aajr_hf.environments import held_out_rows
    from aajr_hf.evaluation.adapter_rank.measure import update_spectra
    from aajr_hf.evaluation.agents import load_agent
    from aajr_hf.evaluation.attacks.settings import RobustnessSettings
    from aajr_hf.evaluation.robustness.evaluate import evaluate_agent

    adapter, _, rank = run.adapter.partition(":")
    folder = work / run.label
    options = {
        "model_name_or_path": BASE,
        "output_dir": folder,
        "seed": run.seed,
        "learning_rate": run.rate,
        "adapter": adapter,
        "overwrite": True,
        "disable_tqdm": True,
    } | PENALTY
    options |= {"adapter_rank": rank} if rank else {}
    options |= {"max_steps": steps} if steps else {}
    status = aajr(["train", "--config", str(RECIPE), *flags(options)])
    if status == 1:  # a number was not finite: this rate is too high
        result = {"adapter": run.adapter, "seed": run.seed, "learning_rate": run.rate, "diverged": True}
        _write(result | {"nominal_success": 0.0, "worst_case_success": 0.0}, work / f"{run.label}.json")
        return
    if status:
        sys.exit(status)
    model, tokenizer = load_agent(str(folder))
    rows = held_out_rows("congestion", examples, seed=run.observations_seed)
    numbers = evaluate_agent(model, tokenizer, rows, RobustnessSettings(multiples=(MULTIPLE,), seed=7))
    updates = update_spectra(model, load_agent(str(BASE))[0]).values()
    trained = json.loads((folder / "train_results.json").read_text())
    result = {
        "adapter": adapter,
        "rank": int(rank) if rank else None,
        "seed": run.seed,
        "learning_rate": run.rate,
        "trainable_parameters": trained["trainable_parameters"],
        "nominal_success": numbers["nominal_success"],
        "worst_case_success": numbers["worst_case_success"][f"{MULTIPLE:g}"],
        "sampled_success": numbers["sampled_success"],
        "sampled_worst_case_success": numbers["sampled_worst_case_success"][f"{MULTIPLE:g}"],
        "amplification": numbers["amplification"],
        # Number of directions that carry 99 % of a layer's update, averaged over layers.
        "update_rank": sum(u["directions"]["99%"] for u in updates) / len(updates),
        "train_seconds": trained["train_runtime"],
    }
    _write(result, work / f"{run.label}.json")


def _write(result: dict, file: Path) -> None:
    file.write_text(json.dumps(result, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "results", help="folder of the results")
    parser.add_argument("--work", type=Path, default=ROOT / "outputs" / "rank-study", help="folder of the agents")
    parser.add_argument("--adapters", nargs="+", default=ADAPTERS, metavar="NAME[:RANK]", help="what is compared")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of training (default: 0 1 2)")
    parser.add_argument("--rates", type=float, nargs="+", default=RATES, help="learning rates to choose from")
    parser.add_argument("--max_steps", type=int, help="of training, instead of the recipe's")
    parser.add_argument("--examples", type=int, default=256, help="observations (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="runs at once, one thread each (default: %(default)s)")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    work, names = arguments.work, arguments.adapters
    work.mkdir(parents=True, exist_ok=True)
    if arguments.one:
        adapter, seed, rate = arguments.one
        train_and_measure(Run(adapter, int(seed), float(rate)), work, arguments.max_steps, arguments.examples)
        return
    if TUNING_SEED in arguments.seeds:
        sys.exit(f"error: `--seeds`: {TUNING_SEED} is the seed that chooses learning rates: give other seeds.")
    settings = {"max_steps": arguments.max_steps, "examples": arguments.examples}
    file = work / "settings.json"
    if file.is_file() and json.loads(file.read_text()) != settings:
        sys.exit(f"error: `--work`: {work} holds runs of {file.read_text().strip()}: give another folder.")
    if not file.is_file():
        _write(settings, file)
    measure = functools.partial(result_of, work=work, steps=arguments.max_steps, examples=arguments.examples)
    with ThreadPoolExecutor(arguments.jobs) as pool:
        tried = pool.map(
            lambda name: climb(arguments.rates, lambda rate: measure(Run(name, TUNING_SEED, rate))), names
        )
        tuning = dict(zip(names, tried, strict=True))
        rates = {name: max(found, key=worst_case)["learning_rate"] for name, found in tuning.items()}
        runs = list(pool.map(measure, [Run(name, seed, rates[name]) for name in names for seed in arguments.seeds]))
    diverged = [f"{run['adapter']}, seed {run['seed']}" for run in runs if run.get("diverged")]
    if diverged:
        sys.exit(f"error: `--rates`: a number was not finite for {'; '.join(diverged)}: give lower rates.")
    write_report(runs, [result for found in tuning.values() for result in found], arguments.output)


def climb(rates: Sequence[float], measure: Callable[[float], dict]) -> list[dict]:
    """Return results from the second rate (of four or five) upwards, then downwards, until worst-case success falls."""
    best = max(len(rates) // 2 - 1, 0)
    found = {best: measure(rates[best])}
    for step in (1, -1):
        while 0 <= best + step < len(rates) and best + step not in found:
            found[best + step] = measure(rates[best + step])
            if worst_case(found[best + step]) <= worst_case(found[best]):
                break
            best += step
    return list(found.values())


def worst_case(result: dict) -> float:
    return result["worst_case_success"]


if __name__ == "__main__":
    main()
