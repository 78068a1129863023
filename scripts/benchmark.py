"""
Measure the cost of AAJR training compared with TRL's SFT: step time, peak memory and operations, on random tokens and
random weights. This needs no network and no GPU; `--device cuda` measures on a GPU.

    python scripts/benchmark.py --preset quick --output benchmark.json     # minutes on two cores
    python scripts/benchmark.py --preset full --markdown benchmark.md      # over length, K, vocabulary and model size
    python scripts/benchmark.py --preset smollm2                           # SmolLM2-135M, beside C-AdvTrain's loop

Time: each way of training has its own process, and only one process runs at a time. In each round, every process trains
for a block of steps, in rotating order. A ratio is the median over rounds of the ratio within a round, so that changes
of the machine's speed cancel out. Memory and operations are measured afterwards, each in a new process.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from benchmark_cases import Case, Variant, cases, theoretical_flops, variants
from benchmark_report import ratios, report

ROOT = Path(__file__).resolve().parent.parent
# The server process imports these modules once, and worker processes are forked from it. The first jvp imports the last
# one.
_HEAVY_MODULES = ["aajr_hf.training.trainers.sft", "datasets", "torch._decomp.decompositions_for_jvp"]
_DEFINITIONS = {
    "step_seconds": "seconds per optimizer step: data, step, optimizer, logging; blocks of whole penalty intervals",
    "above_model_mib": "peak during a step above the loaded model: activations, gradients and optimizer state; on a "
    "CPU the resident set's high-water mark (Linux), otherwise what PyTorch's allocator counts",
    "activations_mib": "the same above weights, gradients and optimizer state",
    "between_mib": "in use between two steps: libraries (CPU), weights and optimizer state",
    "flops": "operations of one optimizer step; measured by torch.utils.flop_counter, theoretical in units of F, a "
    "forward with logits at the action's positions: input gradient 2F, outer step 3F, jvp with backward 6F",
    "monitoring_share": "share of the host's time in a step that the metrics of the inner ascent take; by cProfile, "
    "over two intervals",
    "time ratios": "median over rounds of the ratio within a round",
    "memory ratios": "ratios of above_model_mib",
}


class Worker:
    """A process that trains one variant of one case."""

    def __init__(self, case: Case, variant: Variant, measure: str):
        from benchmark_worker import run  # imports Transformers and TRL, which takes seconds

        # A forked process cannot use a device that its server process may have used during imports.
        context = multiprocessing.get_context("spawn" if case.accelerated else "forkserver")
        if not case.accelerated:
            context.set_forkserver_preload(_HEAVY_MODULES)
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=run, args=(theirs, case, variant, measure), daemon=True)
        self.process.start()
        theirs.close()

    def ask(self, steps: int) -> float:
        with contextlib.suppress(BrokenPipeError):  # the process has ended: `receive` reports its exit status
            self.connection.send(steps)
        return self.receive()

    def receive(self):
        try:
            answer = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            answer = RuntimeError(
                f"A worker process ended with status {self.process.exitcode}: it may be out of memory."
            )
        if isinstance(answer, Exception):
            raise answer
        return answer

    def stop(self) -> None:
        # A worker that gets no more steps ends by itself; an interrupted worker may not.
        with contextlib.suppress(OSError):
            self.connection.send(0)
        self.process.join(timeout=20)
        if self.process.is_alive():
            self.process.kill()


@contextlib.contextmanager
def workers(case: Case, chosen: list[Variant]) -> Iterator[dict[str, Worker]]:
    """Start one worker per variant to measure time; each has warmed up and waits."""
    started = {}
    try:
        for variant in chosen:
            started[variant.name] = Worker(case, variant, "time")
            started[variant.name].receive()
        yield started
    finally:
        for worker in started.values():
            worker.stop()


def measure_time(case: Case, chosen: list[Variant], rounds: int, steps: int) -> dict[str, list[float]]:
    """Return the seconds per step of each variant in each round."""
    seconds = {variant.name: [] for variant in chosen}
    work = {variant.name: theoretical_flops(case, variant) for variant in chosen}
    together = contextlib.nullcontext({})
    if case.together:
        say(case, f"starting {len(chosen)} processes")
        together = workers(case, chosen)
    with together as waiting:
        for i in range(rounds):
            shift = i % len(chosen)
            for variant in chosen[shift:] + chosen[:shift]:
                # Short steps get longer blocks, because their ratios are close to 1.
                block = steps * math.ceil(max(work.values()) / 2 / work[variant.name])
                block = math.ceil(block / variant.interval) * variant.interval
                # Without room for all, each block has a process of its own.
                with contextlib.nullcontext(waiting) if case.together else workers(case, [variant]) as started:
                    seconds[variant.name].append(started[variant.name].ask(block))
            line = ", ".join(f"{name} {values[-1]:.3g}" for name, values in seconds.items())
            say(case, f"round {i + 1} of {rounds}, seconds per step: {line}")
    return seconds


def measure_memory(case: Case, variant: Variant) -> dict:
    """Measure peak memory and operations, in a new process."""
    worker = Worker(case, variant, "memory")
    try:
        return worker.receive()
    finally:
        worker.stop()


def run_case(case: Case, chosen: list[Variant], rounds: int, steps: int) -> dict:
    """Measure everything about one case."""
    seconds = measure_time(case, [variant for variant in chosen if variant.timed], rounds, steps)
    results = {}
    for variant in chosen:
        measured = measure_memory(case, variant)
        times = seconds.get(variant.name)
        results[variant.name] = {
            "settings": variant.fields,
            "gradient_checkpointing": variant.checkpointing,
            "step_seconds": None if times is None else quartiles(times) | {"rounds": times},
            "memory": measured["memory"],
            "flops": flops(case, variant, measured["flops"]),
            "monitoring_share": measured["monitoring_share"],
        }
        memory = measured["memory"]
        peak = f"{memory['above_model_mib']:.0f} MiB above the model" if memory else "peak memory not measurable here"
        say(case, f"{variant.name}: {peak}, {measured['flops']:.3g} FLOPs per step")
    shape = {
        **{name: value for name, value in vars(case).items() if name != "model"},
        "model": case.model._asdict(),
        "layer_parameters": case.layer_parameters,
        "parameters": measured["parameters"],
    }
    return {"shape": shape, "variants": results, "ratios": ratios(results)}


def flops(case: Case, variant: Variant, measured: float) -> dict:
    theory = theoretical_flops(case, variant)
    return {"measured": measured, "theoretical": theory, "theoretical_forwards": theory / case.forward_flops()}


def quartiles(values: list[float]) -> dict[str, float]:
    low, middle, high = statistics.quantiles(values, method="inclusive") if len(values) > 1 else values * 3
    return {"median": middle, "q1": low, "q3": high}


def machine(device: str) -> dict:
    """Describe the machine and the versions of the measurement."""
    import torch

    facts = {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "ram_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "os": platform.platform(),
        "python": platform.python_version(),
    }
    return facts | {name: version(name) for name in ("torch", "transformers", "trl")}


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def commit() -> str | None:
    """Return the measured commit, with a mark if files differ from it; None outside of a checkout."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def say(case: Case, text: str) -> None:
    print(f"[{case.name}] {text}", flush=True)


# The command


class Parser(argparse.ArgumentParser):
    def error(self, message: str):
        """Print one line, as the `aajr` command does, and exit with status 2."""
        self.exit(2, f"error: {message}\n")


def parse(arguments: list[str] | None) -> tuple[argparse.Namespace, list[Case]]:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--preset",
        choices=("quick", "full", "smollm2"),
        default="quick",
        help="one case, all of them, or the shape of a real model",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--only", nargs="+", metavar="CASE", help="cases of the preset, by name")
    parser.add_argument(
        "--variants", nargs="+", metavar="NAME", help="ways of training; all of them wait in memory for their turn"
    )
    parser.add_argument("--repeats", type=int, help="rounds of time (default: 3 in quick, 5 in full)")
    parser.add_argument("--steps", type=int, help="least steps of a block (default: 1 on a CPU, 10 on a GPU)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="JSON with everything, written after each case")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="the tables")
    options = parser.parse_args(arguments)
    for name in ("repeats", "steps"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(options, name)}")
    for file in (options.output, options.markdown):
        if file is not None and not file.resolve().parent.is_dir():
            parser.error(f"the folder of {file} does not exist: make it first")
    for name, known in (("only", cases(options.preset, options.device)), ("variants", variants(options.preset))):
        names = [item.name for item in known]
        unknown = sorted(set(getattr(options, name) or ()) - set(names))
        if unknown:
            parser.error(f"--{name}: no {', '.join(unknown)}; --preset {options.preset} has {', '.join(names)}")
    if options.device != "cpu":
        import torch

        if not torch.cuda.is_available():
            parser.error(f"--device {options.device}: PyTorch finds no such device here; use --device cpu")
    chosen = cases(options.preset, options.device)
    return options, [case for case in chosen if options.only is None or case.name in options.only]


def main(arguments: list[str] | None = None) -> int:
    options, chosen = parse(arguments)
    steps = options.steps or (1 if options.device == "cpu" else 10)
    rounds = options.repeats or (3 if options.preset == "quick" else 5)
    ways = [way for way in variants(options.preset) if options.variants is None or way.name in options.variants]
    started = time.monotonic()
    result = {
        "ratios": None,
        "flops": None,
        "machine": machine(options.device),
        "commit": commit(),
        "settings": {"preset": options.preset, "rounds": rounds, "steps": steps, "means": _DEFINITIONS},
        "cases": {},
    }
    for case in chosen:
        measured = run_case(case, ways, rounds, steps)
        result["cases"][case.name] = measured
        if result["ratios"] is None:  # ratios of the first case: the base, unless it was left out
            result["ratios"] = measured["ratios"]
            result["flops"] = {name: entry["flops"] for name, entry in measured["variants"].items()}
            result["settings"]["ratios_of"] = case.name
        if options.output:
            options.output.write_text(json.dumps(result, indent=1) + "\n")
    print(f"\n{report(result)}\nFinished in {(time.monotonic() - started) / 60:.1f} minutes.")
    if options.markdown:
        options.markdown.write_text(report(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
