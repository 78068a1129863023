"""
How robust is a real language model after the recipes of recipes/smollm2-135m? Each recipe trains SmolLM2-135M-Instruct, and
all agents of a seed are attacked together, those of `congestion` each also with what was found on the others.

    aajr fetch smollm2-135m
    python scripts/smollm2_study.py --model outputs/smollm2-135m
    python scripts/smollm2_study.py --model outputs/smollm2-135m --tasks tool-calling --tool_calls data/bfcl

Agents and evaluations that exist in `--work` are not made again, so an interrupted study goes on. The script writes
smollm2.json and smollm2.md to `--output`; what they contain about other tasks stays, and about other seeds if these were
attacked in the same way.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from shared.commands import ROOT, evaluate_once, train_with
from shared.tables import differences, markdown_table, runs_of, table, write_results

from aajr_hf.evaluation.reporting.results import share_text
from aajr_hf.training.models.bfloat16 import slow_bfloat16

RECIPES = ROOT / "recipes" / "smollm2-135m"
# One row under all attacks of ten steps takes minutes on one core where nothing breaks it, so a hundred would take hours an agent.
LIMITS = ["--attack_steps", "5"]
CONGESTION, MORE, VARIANTS, CALLS = "congestion", "congestion-more-attacks", "congestion-variants", "tool-calling"
# Which recipes each task trains after `sft`; those of COMPARED are repeated with other seeds.
TASKS = {
    CONGESTION: ("adversarial", "aajr"),
    MORE: ("adversarial", "aajr"),
    VARIANTS: ("aajr-lora", "aajr-fast"),
    CALLS: ("adversarial", "aajr", "aajr-lora", "aajr-fast"),
}
COMPARED = {CONGESTION: "congestion", MORE: "congestion, more attacks"}
HELD_OUT = 5  # every fifth row of the data is not trained on


@dataclass(frozen=True)
class Attacked:
    """
    How the agents of a task are attacked.

    Attributes:
        examples: Held-out rows of a seed.
        options: Options of `aajr evaluate`.
    """

    examples: int
    options: tuple[str, ...]


# A row that nothing breaks takes a second for each attack of five steps and each radius, on one core.
_FEW = ("--attacks", "warm_nll", "restart", "margin", "from_others", "--multiples", "0.1", "0.25", "0.5", "1")
_MORE = ("--attacks", "warm_nll", "restart", "random", "nll", "tempered_nll", "margin", "scale_free_margin")
_MORE += ("transferred", "from_others", "--multiples", "0.5", "1", "1.5")
ATTACKED = {
    CONGESTION: Attacked(32, (*_FEW, *LIMITS, "--batch_size", "16")),
    # All that aim at the answer, but for the two that first learn from other prompts.
    MORE: Attacked(100, (*_MORE, *LIMITS, "--batch_size", "20")),
    VARIANTS: Attacked(32, (*_FEW, *LIMITS, "--batch_size", "16")),
    # There is no attack `from_others`. The prompts are several times as long, so there are fewer attacks and radii.
    CALLS: Attacked(
        24, ("--attacks", "warm_nll", "margin", "--multiples", "0.25", "0.5", *LIMITS, "--batch_size", "4")
    ),
}
INTRODUCTION = """# The recipes of SmolLM2-135M

`python scripts/smollm2_study.py --model outputs/smollm2-135m` makes this page and `smollm2.json`; the settings are those
of `recipes/smollm2-135m`. SmolLM2-135M-Instruct learns a task by plain fine-tuning (*sft*); each of the other agents
goes on from there. All agents of `congestion` and a seed are attacked together, each also with what was found on the others.
More steps would leave less. No further attack is tried on an answer that is wrong, so sampled numbers are no worst cases. Attacks calculate in bfloat16 where the CPU has instructions for it. Success is in percent of held-out rows; 1x is the training radius. *ampl.* is the mean `||J u||` along the ascent. Times
were measured on one thread, beside other work; between sections and seeds, the machines differ by up to a factor of two."""
WITHIN = """Within the whole training radius, nothing is left of AAJR or of adversarial training, so AAJR does not withstand more. What
else was tried: the penalty along random directions, and lambda in another unit (docs/results/lambda.md). More optimizer steps
and smaller training radii were not tried."""
ON_CALLS = """`python scripts/smollm2_study.py --model outputs/smollm2-135m --tasks tool-calling --tool_calls data/bfcl --examples {examples}` trains on
four of five rows, and attacks each agent by itself on {examples} of the others: `aajr evaluate {evaluation}`. *valid*: the call fits its
tool's schema; *exact*: it is an accepted one; percent with 95 % intervals. No perturbation comes from another agent here. In
`congestion`, such perturbations break much of what AAJR's own gradient leaves, so its agents may withstand less."""


def train(task: str, recipe: str, folder: Path, start: Path, fields: dict) -> None:
    """Train one agent."""
    fields = {"model_name_or_path": start} | fields | ({"bf16": "false"} if slow_bfloat16() else {})
    train_with(RECIPES / task / f"{recipe}.yaml", folder, fields)


def fast_numbers() -> list[str]:
    """Return the options with which `aajr evaluate` calculates in the number format that is fastest on this CPU."""
    return [] if slow_bfloat16() else ["--dtype", "bfloat16"]


def congestion(task: str, model: Path, work: Path, seeds: list[int], examples: int) -> list[dict]:
    """Train and attack the agents of the world `congestion`, those of a seed together."""
    work, runs = work / CONGESTION, []
    base = work / "sft"
    train(CONGESTION, "sft", base, model, {})
    for seed in seeds:
        agents = {recipe: work / f"{recipe}-{seed}" for recipe in TASKS[task]}
        for recipe, folder in agents.items():
            # The base agent has learnt from the examples of seed 0.
            train(CONGESTION, recipe, folder, base, {"seed": seed, "environment_seed": seed})
        if task == MORE:
            agents |= {"sft": base}
        options = ["--examples", str(examples), "--seed", str(seed), *ATTACKED[task].options, *fast_numbers()]
        numbers = evaluate_once(work / f"{task}-{seed}", agents, [*options, "--perturbed_tokens", "observation"])
        runs += [run | {"task": task, "options": _told(task)} for run in runs_of(numbers, seed)]
    return runs


def others(known: list[dict], measured: list[dict]) -> list[dict]:
    """Return the known runs of other seeds that were attacked as these were, so that they belong into one table."""
    alike = {(run["task"], run["examples"], run["options"]) for run in measured}
    seeds = {run["seed"] for run in measured}
    return [
        run for run in known if run["seed"] not in seeds and (run["task"], run["examples"], run["options"]) in alike
    ]


def tool_calls(model: Path, data: Path, work: Path, examples: int, jobs: int) -> list[dict]:
    """Train and attack the agents that call tools, on rows of the BFCL's files; one seed, `jobs` agents at once."""
    work = work / CALLS
    split(data, work)
    options = ["--dataset_name", str(work / "test"), "--examples", str(examples)]
    options += [*ATTACKED[CALLS].options, *fast_numbers()]
    base = work / "sft"

    def train_one(recipe: str) -> None:
        train(CALLS, recipe, work / recipe, model if recipe == "sft" else base, {"dataset_name": work / "train"})

    def evaluate_one(recipe: str) -> dict:
        return evaluate_once(work / f"evaluation-{recipe}", {recipe: work / recipe}, options)[recipe]

    train_one("sft")
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(train_one, TASKS[CALLS]))
        recipes = ("sft", *TASKS[CALLS])
        numbers = dict(zip(recipes, pool.map(evaluate_one, recipes), strict=True))
    kept = ("examples", "trust", "train_seconds")
    kept += ("nominal_valid", "nominal_exact", "worst_case_valid", "worst_case_exact", "intervals")
    return [
        {"task": CALLS, "setting": name, "seed": 0, "options": _told(CALLS)} | {field: run[field] for field in kept}
        for name, run in numbers.items()
    ]


def split(data: Path, work: Path) -> None:
    """Write every fifth row of each file to `test`, the others to `train`; answers follow their questions."""
    for file in sorted(data.glob("*.json")):
        rows = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        for name, held_out in (("train", False), ("test", True)):
            chosen = [row for i, row in enumerate(rows) if (i % HELD_OUT == HELD_OUT - 1) == held_out]
            (work / name).mkdir(parents=True, exist_ok=True)
            (work / name / file.name).write_text("\n".join([*chosen, ""]), encoding="utf-8")


def page(runs: list[dict]) -> str:
    lines = [INTRODUCTION, ""]
    for task, title in COMPARED.items():
        if compared := [run for run in runs if run["task"] == task]:
            lines += [f"## {title}, {compared[0]['examples']} observations a seed", "", *_comparison(compared)]
    compared = [run for run in runs if run["task"] in COMPARED]
    if compared and not any(run["worst_case_success"]["1"] for run in compared):
        lines += [WITHIN, ""]
    variants = [run for run in runs if run["task"] == VARIANTS]
    if variants:
        size = variants[0]["examples"]
        lines += [f"## The other recipes of congestion, one seed, {size} observations", "", _evaluation(variants)]
        lines += ["These were attacked without the agents above, so their numbers are not comparable with those.", ""]
        lines += [*table(variants), "", *_doubts(variants)]
    calls = [run for run in runs if run["task"] == CALLS]
    if calls:
        lines += ["## Tool calls of the Berkeley Function Calling Leaderboard, one seed", ""]
        lines += [
            ON_CALLS.format(examples=calls[0]["examples"], evaluation=calls[0]["options"]),
            "",
            *_calls_table(calls),
            "",
            *_doubts(calls),
        ]
    return "\n".join(lines)


def _comparison(runs: list[dict]) -> list[str]:
    """Return the tables of each seed and of all of them, and what the checks of the attacks doubt."""
    seeds, lines = sorted({run["seed"] for run in runs}), [_evaluation(runs), ""]
    for seed in seeds:
        lines += [f"Seed {seed}:", "", *table([run for run in runs if run["seed"] == seed]), ""]
    if len(seeds) > 1:
        lines += [f"{len(seeds)} seeds:", "", *table(runs), "", *differences(runs, "adversarial"), ""]
    return lines + _doubts(runs)


def _told(task: str) -> str:
    return " ".join(ATTACKED[task].options)


def _evaluation(runs: list[dict]) -> str:
    return f"`aajr evaluate --perturbed_tokens observation {runs[0]['options']}`"


def _doubts(runs: list[dict]) -> list[str]:
    """Return a sentence for each check of an attack that failed: these numbers are too high."""
    failed = [(run, check) for run in runs for check in run["trust"] if not check["passed"]]
    if not failed:
        return []
    lines = [
        f"- {run['setting']}, seed {run['seed']}: not *{check['rule']}*: {check['detail']}." for run, check in failed
    ]
    return ["Checks of the attacks that failed, so that these agents may withstand less:", "", *lines, ""]


def _calls_table(runs: list[dict]) -> list[str]:
    """Return a table of valid and exact calls, in percent with 95 % intervals, without attack and within each radius."""
    columns: dict[str, tuple[str, str | None]] = {}
    for kind in ("valid", "exact"):
        columns[kind] = f"nominal_{kind}", None
        columns |= {f"{kind} {m}x": (f"worst_case_{kind}", m) for m in runs[0]["worst_case_exact"]}
    rows = [
        [run["setting"], *(share_text(run, *field) for field in columns.values()), f"{run['train_seconds']:.0f}"]
        for run in runs
    ]
    return markdown_table(["setting", *columns, "train s"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of SmolLM2-135M-Instruct (see aajr fetch)")
    parser.add_argument(
        "--tasks", nargs="+", choices=list(TASKS), default=[CONGESTION, MORE, VARIANTS], help="which recipes"
    )
    parser.add_argument(
        "--tool_calls", type=Path, metavar="FOLDER", help="files of the BFCL, for the task tool-calling"
    )
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "results", help="folder of the results")
    parser.add_argument("--work", type=Path, default=ROOT / "outputs" / "smollm2-study", help="folder of the agents")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[1, 2, 3], help="of what is compared (default: %(default)s)"
    )
    usual = ", ".join(f"{attacked.examples} of {task}" for task, attacked in ATTACKED.items())
    parser.add_argument("--examples", type=int, help=f"held-out rows per seed (default: {usual})")
    parser.add_argument(
        "--jobs",
        type=int,
        default=1,
        help="agents that call tools at once, with one thread and up to 14 GB each (default: %(default)s)",
    )
    arguments = parser.parse_args()
    if (CALLS in arguments.tasks) != (arguments.tool_calls is not None):
        parser.error(f"the task {CALLS} and `--tool_calls` need each other.")
    file = arguments.output / "smollm2.json"
    known = json.loads(file.read_text()) if file.is_file() else []
    runs = []
    for task in TASKS:
        examples = arguments.examples or ATTACKED[task].examples
        if task not in arguments.tasks:
            runs += [run for run in known if run["task"] == task]
        elif task == CALLS:
            told = (arguments.model, arguments.tool_calls, arguments.work, examples, arguments.jobs)
            runs += tool_calls(*told)
        else:
            seeds = arguments.seeds if task in COMPARED else arguments.seeds[:1]
            measured = congestion(task, arguments.model, arguments.work, seeds, examples)
            kept = others(known, measured) if task in COMPARED else []
            runs += sorted(measured + kept, key=lambda run: run["seed"])
    write_results(file, runs, page(runs))


if __name__ == "__main__":
    main()
