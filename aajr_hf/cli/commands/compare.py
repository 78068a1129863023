"""`aajr compare`: compare several runs, and the price of their robustness."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..._errors import one_line
from ..arguments.measurement import add_measurement, by_name, check_measurement
from ..arguments.options import ArgumentParser
from ..arguments.placement import add_placement
from ..arguments.worlds import world_for
from ..common.errors import UserError, user_errors
from .evaluate import measure

if TYPE_CHECKING:
    from ...training.sharing.results import RobustnessResults

DESCRIPTION = """Compare runs: success without an adversary and under attack, the price of robustness at equal worst case, curves over
lambda and epsilon, amplification along the ascent, and the variation of the gradient's norm. Prints a table and sentences
that say which differences chance can explain; writes comparison.json, results.json, plots and a self-contained
comparison.html.

    aajr compare outputs/sft outputs/adversarial outputs/aajr-* --output outputs/comparison
    aajr compare outputs/sft outputs/adversarial outputs/aajr-* --evaluation outputs/evaluation
"""
RESULTS = "results.json"


def run(argv: list[str]) -> int:
    parser = ArgumentParser("compare", description=DESCRIPTION)
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="[NAME=]RUN",
        help="folder of `aajr train`, or a base agent; shown under NAME",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("outputs/comparison"), help="folder of the report (default: %(default)s)"
    )
    parser.add_argument(
        "--evaluation",
        type=Path,
        metavar="FOLDER",
        help="take the numbers from this folder of `aajr evaluate` or `aajr compare`, and measure nothing",
    )
    add_measurement(parser)
    add_placement(parser)
    arguments = parser.parse_args(argv)
    check_measurement(arguments)
    runs = by_name(arguments.runs)
    if len(runs) < 2:
        raise UserError("A comparison needs at least two runs: give another one, or use `aajr evaluate`.")
    if arguments.evaluation is not None:
        _refuse_measuring(parser, arguments)
    compare_runs(runs, arguments)
    return 0


def compare_runs(runs: dict[str, str], arguments) -> None:
    """
    Read and measure runs, given by name, print the comparison, and write the files.

    Raises:
        UserError: if a run cannot be read or measured; no report is written then.
    """
    from rich.console import Console

    from ...evaluation.comparison.compare import compare
    from ...evaluation.comparison.report import TABLE_WIDTH, comparison_table, write_comparison
    from ...evaluation.comparison.runs import read_run
    from ...evaluation.comparison.sentences import comparison_sentences
    from ...evaluation.reporting.membership import membership_tables
    from ...evaluation.reporting.report import write_json
    from ...evaluation.unfinished import NOTHING_KEPT

    with user_errors():
        described = {name: read_run(Path(path)) for name, path in runs.items()}
    world = world_for(runs.values(), arguments.environment)
    if arguments.evaluation is None:
        results, unfinished = measure(runs, arguments, world)
    else:
        results, unfinished = _measured(arguments.evaluation, runs), NOTHING_KEPT
    output = arguments.output
    with user_errors():
        comparison = compare(results, described)
        output.mkdir(parents=True, exist_ok=True)
        write_json(results, output / RESULTS)
        write_comparison(comparison, output)
        unfinished.forget()
    console = Console()
    # A narrower table would lose digits, and pipes have a default width of only 80.
    console.width = max(TABLE_WIDTH, console.width)
    # Print the sentence about trust above the tables.
    trust, *sentences = comparison_sentences(comparison)
    console.print(trust, soft_wrap=True, markup=False)
    for table in [comparison_table(comparison), *membership_tables(results)]:
        console.print(table)
    for sentence in sentences:
        console.print(sentence, soft_wrap=True, markup=False)
    console.print(f"Report: {output / 'comparison.html'}", soft_wrap=True, markup=False)


def _refuse_measuring(parser: ArgumentParser, arguments) -> None:
    """Reject options of a measurement, because without a measurement they would have no effect."""
    for name, value in vars(arguments).items():
        if name not in ("runs", "output", "evaluation") and value != parser.get_default(name):
            option = {"environment": "env"}.get(name, name)
            raise UserError(
                f"`--{option}` has no effect with `--evaluation`, which measures nothing: leave out one of the two."
            )


def _measured(evaluation: Path, runs: dict[str, str]) -> RobustnessResults:
    """Read the numbers of an evaluation for these runs, by name."""
    from ...training.sharing.model_card import run_of, weights_digest
    from ...training.sharing.reading import read_results

    file = evaluation / RESULTS
    if not file.is_file():
        raise UserError(f"`--evaluation`: there is no {file}: give a folder written by `aajr evaluate`.")
    with user_errors():
        digests = {name: weights_digest(Path(path)) for name, path in runs.items()}
    for name, digest in digests.items():
        if digest is None:
            raise UserError(
                f"There are no weights (*.safetensors) in {runs[name]}: give the folder of a finished run."
            )
    try:
        results = read_results(file)
        numbers = {name: run_of(results, Path(path)) for name, path in runs.items()}
        settings = results["settings"] | {"models": runs, "weights": digests}
        found = {field: results.get(field) for field in ("version", "kind")} | {"runs": numbers}
        found |= {"train_epsilon": float(results["train_epsilon"]), "threat_model": results.get("threat_model")}
        found["settings"] = settings
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"`--evaluation`: {file} cannot be read: {one_line(error)}") from error
    _refuse_other_evaluations(found, file)
    return found


def _refuse_other_evaluations(found: RobustnessResults, file: Path) -> None:
    """Reject evaluations of an older version, without one of the runs, of tool calls, or at other temperatures than 1."""
    from ...training.sharing.reading import version_problem

    if problem := version_problem(found):
        raise UserError(f"`--evaluation`: {file} is {problem}: evaluate the runs again with `aajr evaluate`.")
    absent = [name for name, run in found["runs"].items() if not isinstance(run, dict)]
    if absent:
        raise UserError(
            f"`--evaluation`: {file} has no numbers of {', '.join(absent)}: evaluate it, or leave out `--evaluation`."
        )
    if found["kind"] == "tool_calls":
        raise UserError(
            f"`--evaluation`: {file} is about tool calls: give an evaluation in a world, made without `--dataset_name`."
        )
    if "temperatures" in found["settings"]:
        raise UserError(
            f"`--evaluation`: {file} was sampled at each agent's own temperature: evaluate the runs without `--own_temperature`."
        )
