"""
Does AAJR pay? In each world, the script fine-tunes one base agent with the same number of steps by plain training,
adversarial training, AAJR and competing penalties. It tries four settings of each method on tuning seeds: learning
rates for methods without a penalty, and lambdas for penalties, at the best learning rate of adversarial training. It
then trains the best setting on fresh seeds, and attacks, shocks and measures these agents on fresh observations.

    python scripts/study.py --preset smoke             # only tests that it runs
    python scripts/study.py --preset small             # one world, two seeds: within an hour on two cores
    python scripts/study.py --preset full              # three worlds, five seeds: hours
    python scripts/study.py --preset full --shard 1/4  # a quarter of the study on this machine; another takes 2/4

Finished runs are kept in `--work` and not repeated. Start the script again to continue, or to add runs of other
machines: copy their files into the same folder first. Runs that the results already contain are taken from there. The
script writes study.json (every run), study.md (the results in words and tables) and study.png to `--output`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from study_choice import choose, is_penalised
from study_report import write_report
from study_settings import METHODS, PRESETS, ROOT, TUNED_AS, Preset, Run, base_agent, settings_of

from aajr_hf.environments import WORLDS
from aajr_hf.evaluation.reporting.report import replace_file


class Study:
    """Runs agents in separate processes, a few at once, and estimates the remaining time."""

    def __init__(self, preset: str, work: Path, jobs: int, device: str, expected: int):
        self.preset, self.work, self.jobs, self.device = preset, work, jobs, device
        self.expected, self.started, self.done, self.new = expected, time.monotonic(), 0, 0
        self._lock = threading.Lock()

    def results(self, runs: list[Run]) -> list[dict]:
        with ThreadPoolExecutor(self.jobs) as pool:
            # If a run fails, or on Ctrl-C, `map` itself cancels the runs that have not started.
            return list(pool.map(self._result, runs))

    def _result(self, run: Run) -> dict:
        file = self.work / f"{run.label}.json"
        is_new = not file.is_file()
        if is_new:
            self._measure(run, file)
        result = json.loads(file.read_text())
        with self._lock:
            self.done, self.new = self.done + 1, self.new + is_new
            if is_new:
                left = (time.monotonic() - self.started) / self.new * (self.expected - self.done)
                worst = ", ".join(f"{success:.0f}" for success in result["worst_case_success"].values())
                numbers = f"nominal {result['nominal_success']:.0f}, worst cases {worst}"
                print(f"{self.done}/{self.expected} {run.label}: {numbers}; {left / 60:.0f} min left", flush=True)
        return result

    def _measure(self, run: Run, file: Path) -> None:
        command = [sys.executable, str(Path(__file__).with_name("study_worker.py")), json.dumps(asdict(run))]
        command += ["--preset", self.preset, "--work", str(self.work), "--device", self.device]
        threads = {"OMP_NUM_THREADS": "1"} if self.device == "cpu" else {}
        with file.with_suffix(".log").open("w") as log:
            environment = os.environ | threads | {"TOKENIZERS_PARALLELISM": "false"}
            done = subprocess.run(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        if done.returncode:
            raise RuntimeError(f"{run.label} failed: see {log.name}")


def part_of(shard: str | None, units: list) -> list:
    """
    Return the part of `units` that belongs to shard "I/N".

    Raises:
        ValueError: if the shard does not exist.
    """
    if shard is None:
        return units
    index, _, count = shard.partition("/")
    if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise ValueError(f"`--shard` must be I/N with I from 1 to N, got {shard}.")
    return units[int(index) - 1 :: int(count)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=list(PRESETS), default="small", help="how much (default: %(default)s)")
    parser.add_argument(
        "--output", type=Path, help="folder of the results (default: docs/results for full, else report in --work)"
    )
    parser.add_argument("--work", type=Path, help="folder of the agents (default: outputs/study-PRESET)")
    parser.add_argument("--worlds", nargs="+", choices=list(WORLDS), help="instead of the preset's")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS), help="instead of all")
    parser.add_argument("--shard", metavar="I/N", help="run the I-th of N parts alone")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:1 (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="runs at once, on a CPU with one thread each (default: 2)")
    arguments = parser.parse_args()
    if arguments.jobs < 1:
        parser.error(f"`--jobs` must be at least 1, got {arguments.jobs}.")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", arguments.device):
        parser.error(f"`--device` must be cpu, cuda or cuda:N, got {arguments.device}.")
    try:
        run_study(arguments)
    except (ValueError, RuntimeError, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, ValueError) else 1)
    except KeyboardInterrupt:
        sys.exit(130)


def run_study(arguments: argparse.Namespace) -> None:
    preset = PRESETS[arguments.preset]
    work = (arguments.work or ROOT / "outputs" / f"study-{arguments.preset}").resolve()
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"`--work`: {work} cannot be created ({error.strerror}): give another folder.") from error
    output = arguments.output or (ROOT / "docs" / "results" if arguments.preset == "full" else work / "report")
    if output.resolve() == work:
        raise ValueError(f"`--output` must not be the folder of `--work`, got {output}: give another folder.")
    # A unit is tuned once; all methods that share its setting are then trained with it.
    tuned_methods = dict.fromkeys(TUNED_AS.get(method, method) for method in ("base", *arguments.methods))
    worlds = arguments.worlds or preset.worlds
    units = part_of(arguments.shard, [(world, method) for world in worlds for method in tuned_methods])
    worlds = list(dict.fromkeys(world for world, _ in units))
    for world in worlds:
        make_base(world, work)
    others = restore(output / "study.json", worlds, work, preset)
    rates = rate_runs(units, preset)
    wanted = [(w, m) for w, like in units for m in ("base", *arguments.methods) if TUNED_AS.get(m, m) == like]
    lambdas = [unit for unit in units if is_penalised(unit[1])]
    each = len(preset.tuning_seeds)
    expected = len(rates) + sum(each * len(METHODS[m].values()) for _, m in lambdas) + len(wanted) * len(preset.seeds)
    study = Study(arguments.preset, work, arguments.jobs, arguments.device, expected)
    try:
        tuned = study.results(rates)
        tuned += study.results(lambda_runs(lambdas, tuned, preset))
        study.results(final_runs(wanted, tuned, preset))
    finally:
        # Write the report also after an interruption, and include the runs of other shards.
        runs = others + [json.loads(file.read_text()) for file in sorted(work.glob("*.json"))]
        if runs:
            write_report(runs, output)
            print(f"{len(runs)} runs: {output / 'study.json'}, {output / 'study.md'}")


def rate_runs(units: list[tuple[str, str]], preset: Preset) -> list[Run]:
    """
    Return the runs that find learning rates: of methods without a penalty, and of adversarial training for all
    penalties.
    """
    rated = [(world, "adversarial" if is_penalised(method) else method) for world, method in units if method != "base"]
    return [
        Run(world, method, rate, None, seed, "tuning")
        for world, method in dict.fromkeys(rated)
        for rate in METHODS[method].values()
        for seed in preset.tuning_seeds
    ]


def lambda_runs(units: list[tuple[str, str]], tuned: list[dict], preset: Preset) -> list[Run]:
    return [
        Run(world, method, best(world, "adversarial", tuned), value, seed, "tuning")
        for world, method in units
        for value in METHODS[method].values()
        for seed in preset.tuning_seeds
    ]


def best(world: str, method: str, tuned: list[dict]) -> float:
    return choose([run for run in tuned if (run["world"], run["method"]) == (world, method)])


def final_runs(units: list[tuple[str, str]], tuned: list[dict], preset: Preset) -> list[Run]:
    """Return the final runs, ordered by seed, so that an unfinished study already compares all methods."""
    settings = {}
    for world, method in units:
        rate, weight = None, None
        if method != "base":
            rate = best(world, "adversarial" if is_penalised(method) else method, tuned)
        if is_penalised(method):
            weight = best(world, TUNED_AS.get(method, method), tuned)
        settings[world, method] = rate, weight
    return [Run(*unit, *setting, seed, "result") for seed in preset.seeds for unit, setting in settings.items()]


def restore(results: Path, worlds: list[str], work: Path, preset: Preset) -> list[dict]:
    """
    Write the runs of earlier results to files in `work`, where the study looks for them.

    Returns:
        The runs of other worlds, unchanged.

    Raises:
        ValueError: if a file cannot be read, or if a run of these worlds or in `work` had other settings or another
            base agent.
    """
    earlier = read_results(results) if results.is_file() else []
    kept = {file: read_results(file) for file in work.glob("*.json")}
    asked = [run for run in earlier if run["world"] in worlds]
    for place, runs in ((f"`--output`: {results}", asked), (f"`--work`: {work}", kept.values())):
        for run in runs:
            if run["settings"] != settings_of(run["world"], run["method"], preset, work):
                raise ValueError(f"{place} holds runs of other settings or another base agent: give another folder.")
    files = {work / f"{Run(*(run[name] for name in Run.__dataclass_fields__)).label}.json": run for run in earlier}
    for file, run in files.items():
        if run["world"] in worlds and file not in kept:
            replace_file(file, (json.dumps(run, indent=2) + "\n").encode())
    return [run for file, run in files.items() if run["world"] not in worlds and file not in kept]


def read_results(file: Path) -> list[dict] | dict:
    try:
        return json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file} cannot be read ({error}): repair or remove it.") from error


def make_base(world: str, work: Path) -> None:
    if base_agent(world, work).is_dir():
        return
    base = work / f"base-{world}"
    command = [sys.executable, "-m", "aajr_hf", "init-agent", str(base), "--environment", world]
    if subprocess.run(command).returncode and not base.is_dir():  # another shard may have made it meanwhile
        raise RuntimeError(f"the base agent of {world} could not be made: see the output above.")


if __name__ == "__main__":
    main()
