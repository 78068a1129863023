"""
Does AAJR pay? The study tests the paper's claims one by one, with the attacks of `aajr evaluate`, on small agents
(docs/results/agents) and, with --model, on SmolLM2-135M-Instruct.

    python scripts/study.py --preset smoke              # only tests that it runs
    python scripts/study.py --preset small              # one seed, fewer methods and steps
    python scripts/study.py --preset full               # eight seeds for the declared comparison, fewer for everything else
    python scripts/study.py --preset full --shard 1/8   # an eighth of it; other machines, or other days, take the rest
    python scripts/study.py --claims tuning price       # some claims

Each claim consists of cells: agents of one seed that are trained and attacked together, or one agent of the real model. Cells
that the results already contain, with the same settings, are not measured again; those of other settings are replaced. The claim
`tuning` comes first, because it chooses the settings of the others. The script writes study.json (a run per line), study.md (a section per
claim) and a figure per claim to `--output`, after each cell.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from claims import CLAIMS, measured, tuning
from claims.cells import Cell
from claims.preset import PRESETS, Preset
from shared.commands import ROOT
from shared.tables import write_results

from aajr_hf.cli.common.measured import MEASURED
from aajr_hf.evaluation.files import replace_file
from aajr_hf.evaluation.reporting.plots import WIDE, render

INTRODUCTION = """# Does AAJR pay?

`python scripts/study.py --preset {preset}` makes this page, its figures and `study.json`, which contains every run. One base
agent of `congestion` (`docs/results/agents`) is fine-tuned; every agent of a comparison has as many optimizer steps. All agents
of a seed are attacked together by every attack of `aajr evaluate`, each also with what was found on the others, unless a
section says otherwise. Numbers with a ± are means with 95 % intervals over seeds (Student's t, paired by seed where two are
compared). A verdict needs at least three seeds, and an interval without zero; with many verdicts on one page, one in twenty
would be there by chance."""


class Study:
    """The runs that are known, and the files that are written after each cell."""

    def __init__(self, preset: str, work: Path, output: Path):
        self.preset, self.work, self.output = preset, work, output
        self.file = output / "study.json"
        self.runs: list[dict] = json.loads(self.file.read_text()) if self.file.is_file() else []
        self.begun = time.monotonic()

    def missing(self, claim: str, cells: list[Cell]) -> list[Cell]:
        """Return the cells of a claim that are not in the results with these settings."""
        known = {(run["claim"], run["cell"]): run["settings"] for run in self.runs}
        return [cell for cell in cells if known.get((claim, cell.key)) != cell.settings()]

    def forget_others(self, claim: str, cells: list[Cell]) -> None:
        """Drop the runs of a claim that were measured with other settings than those of its cells."""
        known = {cell.key: cell.settings() for cell in cells}
        self.runs = [run for run in self.runs if run["claim"] != claim or known.get(run["cell"]) == run["settings"]]

    def of(self, claim: str) -> list[dict]:
        return [run for run in self.runs if run["claim"] == claim]

    def add(self, claim: str, cell: Cell, runs: list[dict], left: int) -> None:
        """Put the runs of a cell in the place of earlier ones, and write everything."""
        kept = [run for run in self.runs if (run["claim"], run["cell"]) != (claim, cell.key)]
        self.runs = kept + runs
        self.write()
        minutes = (time.monotonic() - self.begun) / 60
        print(f"{claim}: {cell.key} is done; {left} cells of this claim are left; {minutes:.0f} min", flush=True)

    def write(self) -> None:
        order = list(CLAIMS)
        self.runs.sort(key=lambda run: order.index(run["claim"]))  # stable: cells stay in their order
        write_results(self.file, self.runs, page(self.runs, self.preset))
        if self.preset == "full":  # what the page says, `aajr train` says, too
            runs = [shown(CLAIMS[name], self.of(name)) for name in ("robustness", "one_step")]
            told = measured.entries(*runs, tuning.choose(self.of("tuning")))
            replace_file(MEASURED, f"{json.dumps(told, indent=1)}\n".encode())
        for name, claim in CLAIMS.items():
            if runs := shown(claim, self.of(name)):
                picture = render(lambda figure, claim=claim, runs=runs: claim.draw(figure, runs), WIDE)
                replace_file(self.output / f"study-{name}.png", picture)


def shown(claim: ModuleType, runs: list[dict]) -> list[dict]:
    """Return the runs that a claim's section and figure are made of: without failed trainings, unless it counts them."""
    counted = getattr(claim, "counts_failure", lambda run: False)
    return [run for run in runs if not run.get("diverged") or counted(run)]


def needs_model(claim: ModuleType) -> bool:
    """Whether a claim is about a real language model."""
    return getattr(claim, "NEEDS_MODEL", False)


def page(runs: list[dict], preset: str) -> str:
    """Return the page: a section for each claim that has runs."""
    lines = [INTRODUCTION.format(preset=preset)]
    for name, claim in CLAIMS.items():
        mine = [run for run in runs if run["claim"] == name]
        if done := shown(claim, mine):
            lines += ["", f"## {claim.TITLE}", "", *paragraphs(claim.__doc__), *claim.section(done)]
            lost = [f"{run['agent']} ({run['cell']})" for run in mine if run not in done]
            lines += (
                ["", f"Left out, because a number of the training was not finite: {'; '.join(lost)}."] if lost else []
            )
            model = " --model outputs/smollm2-135m" if needs_model(claim) else ""
            lines += ["", f"`python scripts/study.py --preset {preset} --claims {name}{model}`"]
            lines += ["", f"![{claim.TITLE}](study-{name}.png)"]
    return "\n".join([*lines, ""])


def paragraphs(text: str) -> list[str]:
    """Return a line for each paragraph, and an empty one after it."""
    return [line for part in text.split("\n\n") for line in (" ".join(part.split()), "")]


def run_claim(
    study: Study, name: str, preset: Preset, chosen: Mapping[str, float], shard: str | None, jobs: int
) -> None:
    """Measure the cells of a claim that belong to the shard and are missing, a few at once."""
    every = CLAIMS[name].cells(preset, chosen)
    if not every:  # of a real model that is not here: what is known of it stays
        return
    study.forget_others(name, every)
    cells = study.missing(name, part_of(shard, every))
    with ThreadPoolExecutor(jobs) as pool:
        measured = pool.map(lambda cell: (cell, cell.measure(name, study.work)), cells)
        for number, (cell, runs) in enumerate(measured, start=1):
            study.add(name, cell, runs, len(cells) - number)
    study.write()  # also where nothing was missing: the page may have changed


def part_of(shard: str | None, cells: list[Cell]) -> list[Cell]:
    """
    Return the cells that belong to shard "I/N".

    Raises:
        ValueError: if the shard does not exist.
    """
    if shard is None:
        return cells
    index, _, count = shard.partition("/")
    if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise ValueError(f"`--shard` must be I/N with I from 1 to N, got {shard}.")
    return cells[int(index) - 1 :: int(count)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=list(PRESETS), default="small", help="how much (default: %(default)s)")
    parser.add_argument("--claims", nargs="+", choices=list(CLAIMS), default=list(CLAIMS), help="instead of all")
    output = "folder of the results (default: docs/results for full, else report in --work)"
    parser.add_argument("--output", type=Path, help=output)
    parser.add_argument("--work", type=Path, help="folder of the agents (default: outputs/study-PRESET)")
    model = (
        "folder of SmolLM2-135M-Instruct (aajr fetch smollm2-135m); without it, claims about a real model are left out"
    )
    parser.add_argument("--model", type=Path, help=model)
    parser.add_argument("--shard", metavar="I/N", help="measure the I-th of N parts of each claim alone")
    parser.add_argument("--jobs", type=int, default=2, help="cells at once, with one thread each (default: 2)")
    arguments = parser.parse_args()
    if arguments.jobs < 1:
        parser.error(f"`--jobs` must be at least 1, got {arguments.jobs}.")
    preset = replace(PRESETS[arguments.preset], model=arguments.model)
    work = arguments.work or ROOT / "outputs" / f"study-{arguments.preset}"
    results = arguments.output or (ROOT / "docs" / "results" if arguments.preset == "full" else work / "report")
    try:
        study = Study(arguments.preset, work.resolve(), results)
        for name in (name for name in CLAIMS if name in arguments.claims):
            chosen = {} if name == "tuning" else tuning.choose(study.of("tuning"))
            if missing := [] if name == "tuning" else [method for method in preset.methods if method not in chosen]:
                print(f"{name}: not yet tuned, and left out: {', '.join(missing)}", flush=True)
            if needs_model(CLAIMS[name]) and preset.model is None:
                print(f"{name}: left out, because it needs --model", flush=True)
            run_claim(study, name, preset, chosen, arguments.shard, arguments.jobs)
    except ValueError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
