"""Runs of agents, a table of their numbers, and the files of a study."""

from __future__ import annotations

import json
from pathlib import Path

from aajr_hf.evaluation.files import replace_file
from aajr_hf.evaluation.reporting.statistics import mean_interval

# Student's interval of two values is nine times their standard deviation, or nothing at all if they are equal.
ENOUGH_SEEDS = 3


def runs_of(runs: dict[str, dict], seed: int) -> list[dict]:
    """Return the fields of each agent that the page needs."""
    kept = (
        *("nominal_success", "sampled_success", "worst_case_success", "sampled_worst_case_success"),
        *("amplification", "gradients", "attacks", "trust", "train_seconds", "examples"),
    )
    return [{"setting": name, "seed": seed} | {field: run[field] for field in kept} for name, run in runs.items()]


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
        lines.append(f"| {name} | {' | '.join(text_of(values) for values in columns)} |")
    return lines


def text_of(values: list[float], digits: int = 1, sign: bool = False) -> str:
    """Return a mean over seeds, with its 95 % interval if there are enough; `-` without values."""
    if not values:
        return "-"
    mean, half = mean_interval(values)
    text = f"{mean:{'+' if sign else ''}.{digits}f}"
    return text if half is None or len(values) < ENOUGH_SEEDS else f"{text} ± {half:.{digits}f}"


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
        cells = [text_of([run["nominal_success"] - other["nominal_success"] for run, other in pairs])]
        cells += [text_of([r["worst_case_success"][m] - o["worst_case_success"][m] for r, o in pairs]) for m in radii]
        cells += [text_of([run["sampled_success"] - other["sampled_success"] for run, other in pairs])]
        sampled = "sampled_worst_case_success"
        cells += [text_of([run[sampled]["1"] - other[sampled]["1"] for run, other in pairs])]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def markdown_table(header: list[str], rows: list[list[str]]) -> list[str]:
    """Return the lines of a table."""
    return [f"| {' | '.join(line)} |" for line in (header, ["---"] * len(header), *rows)]


def write_results(file: Path, runs: list[dict], page: str) -> None:
    """Write the runs, one a line, to a file that ends in .json, and the page to one that ends in .md."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(run) for run in runs)
    replace_file(file.with_suffix(".json"), f"[\n{lines}\n]\n".encode())
    replace_file(file.with_suffix(".md"), page.encode())
