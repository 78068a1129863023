"""
Does an adapter need a high rank to become robust? One base agent, fine-tuned with the penalty by full fine-tuning, by LoRA
of several ranks and by three families of full-rank adapters of as many parameters, several seeds each, all attacked alike.

    python scripts/rank_study.py                       # an hour on two cores
    python scripts/rank_study.py --seeds 0 --adapters lora:4 hira:4 --output /tmp/rank

Finished runs are kept in `--work` and not repeated. Writes rank.json (a list of runs), rank.png and rank.md to `--output`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rank_study_report import write_report

ROOT = Path(__file__).resolve().parent.parent
RECIPE = ROOT / "recipes" / "congestion" / "aajr.yaml"
ADAPTERS = ["full", *(f"lora:{rank}" for rank in (1, 2, 4, 8, 16, 32)), "hira:8", "shira:8", "oft:8"]
# Adapters start from a zero update, most of whose factors are small: they need larger steps than the weights themselves.
LEARNING_RATES = {"full": 1e-3}
ADAPTER_LEARNING_RATE = 1e-2
EXAMPLES, MULTIPLE, EVALUATION_SEED = 400, 2.0, 7


def one_run(name: str, seed: int, work: Path) -> dict:
    """Train and measure one agent; the process that does so is this script's own, with `--one`."""
    file = work / f"{name.replace(':', '-')}-{seed}.json"
    if not file.is_file():
        command = [sys.executable, __file__, "--one", name, "--seeds", str(seed), "--work", str(work)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        with file.with_suffix(".log").open("w") as log:
            done = subprocess.run(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        if done.returncode:
            raise RuntimeError(f"{name}, seed {seed}, failed: see {log.name}")
    result = json.loads(file.read_text())
    print(
        f"{name:<10} seed {seed}: nominal {result['nominal_success']:.1f}, worst {result['worst_case_success']:.1f}",
        flush=True,
    )
    return result


def train_and_measure(name: str, seed: int, work: Path) -> None:
    from aajr_hf.cli.main import main as aajr
    from aajr_hf.environments import congestion_rows
    from aajr_hf.evaluation.agents import load_agent
    from aajr_hf.evaluation.rank import update_spectra
    from aajr_hf.evaluation.robustness import RobustnessSettings, evaluate_agent

    adapter, _, rank = name.partition(":")
    folder, base = work / f"{adapter}-{rank}-{seed}", work / "base"
    rate = LEARNING_RATES.get(adapter, ADAPTER_LEARNING_RATE)
    options = {
        "model_name_or_path": base,
        "output_dir": folder,
        "seed": seed,
        "learning_rate": rate,
        "overwrite": True,
    }
    options |= {"adapter": adapter, "disable_tqdm": True, **({"adapter_rank": rank} if rank else {})}
    arguments = [part for key, value in options.items() for part in (f"--{key}", str(value))]
    if aajr(["train", "--config", str(RECIPE), *arguments]):
        sys.exit(1)
    model, tokenizer = load_agent(str(folder))
    rows = congestion_rows(10 * EXAMPLES, seed=EVALUATION_SEED + 2 * 10**6)[::10]
    settings = RobustnessSettings(multiples=(MULTIPLE,), seed=EVALUATION_SEED)
    numbers = evaluate_agent(model, tokenizer, rows, settings)
    updates = update_spectra(model, load_agent(str(base))[0]).values()
    trained = json.loads((folder / "train_results.json").read_text())
    result = {
        "adapter": adapter,
        "rank": int(rank) if rank else None,
        "seed": seed,
        "learning_rate": rate,
        "trainable_parameters": trained["trainable_parameters"],
        "nominal_success": numbers["nominal_success"],
        "worst_case_success": numbers["worst_case_success"][f"{MULTIPLE:g}"],
        "sampled_success": numbers["sampled_success"],
        "sampled_worst_case_success": numbers["sampled_worst_case_success"][f"{MULTIPLE:g}"],
        "amplification": numbers["amplification"],
        # How many directions carry 99 % of a layer's update, averaged over layers.
        "update_rank": sum(u["directions"]["99%"] for u in updates) / len(updates),
        "train_seconds": trained["train_runtime"],
    }
    (work / f"{name.replace(':', '-')}-{seed}.json").write_text(json.dumps(result, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "results", help="folder of the results")
    parser.add_argument("--work", type=Path, default=ROOT / "outputs" / "rank-study", help="folder of the agents")
    parser.add_argument("--adapters", nargs="+", default=ADAPTERS, metavar="NAME[:RANK]", help="what is compared")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of training (default: 0 1 2)")
    parser.add_argument("--jobs", type=int, default=2, help="runs at once, one thread each (default: %(default)s)")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    if arguments.one:
        train_and_measure(arguments.one, arguments.seeds[0], arguments.work)
        return
    if not (arguments.work / "base").is_dir():
        subprocess.run([sys.executable, "-m", "aajr_hf", "init-agent", str(arguments.work / "base")], check=True)
    wanted = [(name, seed) for seed in arguments.seeds for name in arguments.adapters]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        runs = list(pool.map(lambda pair: one_run(*pair, arguments.work), wanted))
    order = {name: i for i, name in enumerate(arguments.adapters)}
    runs.sort(key=lambda run: (order[_name(run)], run["seed"]))
    write_report(runs, arguments.output)


def _name(run: dict) -> str:
    return run["adapter"] if run["rank"] is None else f"{run['adapter']}:{run['rank']}"


if __name__ == "__main__":
    main()
