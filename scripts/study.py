"""
Does AAJR pay? In each world one base agent, fine-tuned with equal steps by plain training, adversarial training, AAJR and the
penalties that it competes with: four settings of each on tuning seeds, then the best one on fresh seeds and fresh observations,
attacked, shocked and measured.

    python scripts/study.py --preset smoke             # nothing but whether it runs
    python scripts/study.py --preset small             # one world, two seeds: within an hour on two cores
    python scripts/study.py --preset full              # three worlds, five seeds: hours
    python scripts/study.py --preset full --shard 1/4  # a quarter of it, for this machine; then another with 2/4

Finished runs are kept in `--work` and not repeated: start it again to go on, or to add the runs of other machines, whose
files are put into the same folder. Runs that stand in the results already are taken from there. Writes study.json (every
run) and study.md (what they say) to `--output`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

from aajr_hf.environments import WORLDS
from aajr_hf.evaluation.report import replace_file
from aajr_hf.training.model_card import weights_digest

ROOT = Path(__file__).resolve().parent.parent
EPSILON = 0.25
# In multiples of it: relative radii of 0.1, 0.2, 0.3 and 0.5.
MULTIPLES = (0.4, 0.8, 1.2, 2.0)
# Relative radii of the adversary that acts in episodes.
IN_EPISODES = (0.2, 0.5)
# Of each world, the shocks of its episodes, with their magnitudes; the first one is also met under attack.
SHOCKS = {
    "congestion": {"capacity_drop": 6, "misreported_peers": 3, "demand_spike": 1},
    "commons": {"greedy_newcomer": 3, "bad_season": 40},
    "hide_and_seek": {"faster_seeker": 1, "false_sightings": 1},
}
LAMBDAS = (6e-6, 5e-5, 4e-4, 3e-3)
RATES = (5e-4, 1e-3, 2e-3, 4e-3)
# Of each method: its recipe, what it changes there, and the field of which four values are tried.
METHODS: dict[str, tuple[str, dict, str]] = {
    "sft": ("sft", {}, "learning_rate"),
    "adversarial": ("adversarial", {}, "learning_rate"),
    "global_spectral": ("global", {}, "regularizer_lambda"),
    "local_spectral": (
        "global",
        {"regularizer": "local_spectral", "penalty_trajectory": "sample"},
        "regularizer_lambda",
    ),
    "global_frobenius": ("global", {"regularizer": "global_frobenius"}, "regularizer_lambda"),
    "random_direction": ("aajr", {"regularizer": "random_direction"}, "regularizer_lambda"),
    "aajr": ("aajr", {"penalty_trajectory": "all", "penalty_fraction": 1.0}, "regularizer_lambda"),
    "aajr_amortised": ("aajr-amortised", {}, "regularizer_lambda"),
}
# Of the base agents: where 900 steps do not reach 99 % of the expert's answers.
BASE_OPTIONS = {"commons": ("--steps", "1200", "--examples", "24000")}
# The amortised penalty is the exact one in the mean: both have the lambda that is found with the cheaper one.
TUNED_AS = {"aajr": "aajr_amortised"}
# That of all methods that are not tuned by it.
LEARNING_RATE = 2e-3


@dataclass(frozen=True)
class Preset:
    """How much is run: the first tuning seed is 100, so that none is one of the results."""

    worlds: tuple[str, ...]
    steps: int
    tuning_seeds: tuple[int, ...]
    seeds: tuple[int, ...]
    tuning_examples: int
    examples: int
    episodes: int


PRESETS = {
    "smoke": Preset(("hide_and_seek",), 2, (100,), (0,), 8, 8, 1),
    "small": Preset(("hide_and_seek",), 100, (100,), (0, 1), 100, 200, 5),
    "full": Preset(("hide_and_seek", "congestion", "commons"), 200, (100, 101), (0, 1, 2, 3, 4), 200, 300, 12),
}


@dataclass(frozen=True)
class Run:
    """One agent: `value` is that of the field that is tuned; None for the base agent, which is not trained."""

    world: str
    method: str
    value: float | None
    seed: int
    phase: str

    @property
    def label(self) -> str:
        value = "" if self.value is None else f"-{self.value:g}"
        return f"{self.world}-{self.method}{value}-{self.seed}"


class Study:
    """Runs agents in processes of their own, a few at once, and keeps count of the time that is left."""

    def __init__(self, preset: str, work: Path, jobs: int, device: str, expected: int):
        self.preset, self.work, self.jobs, self.device = preset, work, jobs, device
        self.expected, self.started, self.done, self.new = expected, time.monotonic(), 0, 0
        self._lock = threading.Lock()

    def results(self, runs: list[Run]) -> list[dict]:
        with ThreadPoolExecutor(self.jobs) as pool:
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


def choose(tuned: list[dict]) -> float:
    """
    The value with the best sampled success, averaged over tuning seeds, no attack and all radii: it falls where the agent is
    dull or unsure, as well as where it is not robust, and prefers no radius.
    """
    values = sorted({result["value"] for result in tuned})

    def score(value: float) -> float:
        mine = [result for result in tuned if result["value"] == value]
        return statistics.mean(
            success for r in mine for success in (r["sampled_success"], *r["sampled_worst_case_success"].values())
        )

    return max(values, key=score)


def part_of(shard: str | None, units: list) -> list:
    """
    Of `units`, those of shard "I/N".

    Raises:
        ValueError: for a shard that there is not.
    """
    if shard is None:
        return units
    index, _, count = shard.partition("/")
    if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise ValueError(f"`--shard` must be I/N with I from 1 to N; got {shard}.")
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
        parser.error(f"`--jobs` must be at least 1; got {arguments.jobs}.")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", arguments.device):
        parser.error(f"`--device` must be cpu, cuda or cuda:N; got {arguments.device}.")
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
    work.mkdir(parents=True, exist_ok=True)
    worlds = arguments.worlds or preset.worlds
    # By world and method, so that no shard waits for another.
    # One unit is tuned once, and trained by all methods that share its setting.
    tuned_methods = dict.fromkeys(TUNED_AS.get(method, method) for method in ("base", *arguments.methods))
    units = part_of(arguments.shard, [(world, method) for world in worlds for method in tuned_methods])
    for world in dict.fromkeys(world for world, _ in units):
        make_base(world, work)
    output = arguments.output or (ROOT / "docs" / "results" if arguments.preset == "full" else work / "report")
    if output.resolve() == work:
        raise ValueError(f"`--output` must be another folder than `--work`; got {output}.")
    restore(output / "study.json", work, preset)
    tuning = tuning_runs(units, preset)
    wanted = [(w, m) for w, like in units for m in ("base", *arguments.methods) if TUNED_AS.get(m, m) == like]
    expected = len(tuning) + len(wanted) * len(preset.seeds)
    study = Study(arguments.preset, work, arguments.jobs, arguments.device, expected)
    try:
        tuned = study.results(tuning)
        study.results(final_runs(wanted, tuned, preset))
    finally:
        # Also of what there is when it is interrupted, and of the runs of other shards.
        runs = [json.loads(file.read_text()) for file in sorted(work.glob("*.json"))]
        if runs:
            from study_report import write_report

            write_report(runs, output)
            print(f"{len(runs)} runs: {output / 'study.json'}, {output / 'study.md'}")


def tuning_runs(units: list[tuple[str, str]], preset: Preset) -> list[Run]:
    return [
        Run(world, method, value, seed, "tuning")
        for world, method in units
        if method != "base"
        for value in (RATES if METHODS[method][2] == "learning_rate" else LAMBDAS)
        for seed in preset.tuning_seeds
    ]


def final_runs(units: list[tuple[str, str]], tuned: list[dict], preset: Preset) -> list[Run]:
    runs = []
    for world, method in units:
        like = TUNED_AS.get(method, method)
        mine = [result for result in tuned if (result["world"], result["method"]) == (world, like)]
        value = choose(mine) if mine else None
        runs += [Run(world, method, value, seed, "result") for seed in preset.seeds]
    return runs


def restore(results: Path, work: Path, preset: Preset) -> None:
    """Put the runs of earlier results back to where they are looked for, and refuse those of another preset."""
    earlier = json.loads(results.read_text()) if results.is_file() else []
    kept = {file: json.loads(file.read_text()) for file in work.glob("*.json")}
    for place, runs in ((f"`--output`: {results}", earlier), (f"`--work`: {work}", kept.values())):
        for run in runs:
            if run["settings"] != settings_of(run["world"], run["method"], preset, work):
                raise ValueError(f"{place} holds runs of other settings or another base agent: give another folder.")
    for run in earlier:
        file = work / f"{Run(*(run[name] for name in Run.__dataclass_fields__)).label}.json"
        if file not in kept:
            replace_file(file, (json.dumps(run, indent=2) + "\n").encode())


def settings_of(world: str, method: str, preset: Preset, work: Path) -> str:
    """A digest of all that the run of a method depends on beside its seed and its setting."""
    recipe, *changes = METHODS.get(method, (None, {}, None))
    file = ROOT / "recipes" / "congestion" / f"{recipe}.yaml"
    told = yaml.safe_load(file.read_text()) if recipe else None
    base = weights_digest(work / f"base-{world}")
    parts = [
        asdict(preset) | {"worlds": None},
        told,
        changes,
        LEARNING_RATE,
        EPSILON,
        MULTIPLES,
        IN_EPISODES,
        SHOCKS,
        base,
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def make_base(world: str, work: Path) -> None:
    base = work / f"base-{world}"
    if base.is_dir():
        return
    command = [sys.executable, "-m", "aajr_hf", "init-agent", str(base), "--environment", world]
    failed = subprocess.run([*command, *BASE_OPTIONS.get(world, ())]).returncode
    if failed and not base.is_dir():  # which another shard may have made meanwhile
        raise RuntimeError(f"the base agent of {world} could not be made.")


if __name__ == "__main__":
    main()
