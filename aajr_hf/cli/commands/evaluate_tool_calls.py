"""`aajr evaluate --dataset_name`: measure the tool calls of agents on the same rows of a dataset."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ...evaluation.reporting.results import new_results
from ...evaluation.tool_calls.caller import ToolCaller
from ...evaluation.tool_calls.evaluate import ON_CALLS, PARTS, ToolCallSettings, evaluate_tool_calls
from ...training.data.injections import read_injection_texts
from ..arguments.classes import class_column_of, classes_of
from ..arguments.measurement import ALL, ONLY_ON_CALLS, triggers_of
from ..arguments.options import ArgumentParser
from ..arguments.placement import placement_of, recorded_placement
from ..arguments.threat import threat_of
from ..arguments.tool_data import DATA_OPTIONS, add_tool_data, rows_asked_for, trained_on
from ..arguments.validators import check_at_least_one
from ..common.errors import UserError, user_errors
from ..common.measuring import going_on, load_agents, measure_each, weights_of
from ..common.processes import is_first

_DATA = ("dataset_config", "dataset_format", "dataset_split")
_ONLY_HERE = (*DATA_OPTIONS, "max_new_tokens", "injections")
_ONLY_WORLDS = (
    "environment",
    "system_prompt",
    "transfer_from",
    "surrogate",
    "token_trials",
    "budget",
    "nuisance",
    "own_temperature",
)


def add_options(parser: ArgumentParser) -> None:
    """Add the options of an evaluation on tool calls."""
    group = parser.add_argument_group("tool calls, in place of a world")
    group.add_argument("--dataset_name", metavar="NAME", help="dataset whose rows ask for tool calls")
    add_tool_data(group, "test")
    group.add_argument(
        "--max_new_tokens",
        type=int,
        help="length limit of an answer (default: twice the length of the reference answer, plus 32)",
    )
    group.add_argument(
        "--injections",
        metavar="FILE",
        help="YAML file with the texts of the attack injection, in place of the package's own "
        "(aajr_hf/training/data/injections.yaml)",
    )


def check_options(arguments, parser: ArgumentParser) -> None:
    """
    Reject options without effect, and values out of range.

    Raises:
        UserError: if an option is invalid; names the option.
    """
    on_data = arguments.dataset_name is not None
    for name in _ONLY_WORLDS if on_data else _ONLY_HERE:
        if getattr(arguments, name) != parser.get_default(name):
            option = "--env" if name == "environment" else f"--{name}"
            raise UserError(
                f"`{option}` is only for worlds: leave out this option or `--dataset_name`."
                if on_data
                else f"`{option}` is only for tool calls: give `--dataset_name`, too."
            )
    chosen = [] if arguments.attacks in (None, [ALL]) else arguments.attacks
    for attack in chosen if on_data else ():
        if attack not in ON_CALLS:
            raise UserError(f"`--attacks` on tool calls must be from {', '.join(ON_CALLS)}; got {attack}.")
    for attack in () if on_data else chosen:
        if attack in ONLY_ON_CALLS:
            raise UserError(f"`--attacks`: {attack} is only for tool calls: leave it out, or give `--dataset_name`.")
    if arguments.injections is not None:
        if chosen and "injection" not in chosen:
            raise UserError("`--injections` has no effect without the attack injection: add it, or leave it out.")
        try:
            read_injection_texts(Path(arguments.injections))
        except ValueError as error:
            raise UserError(f"`--injections`: {error}") from error
    check_at_least_one(arguments, "max_new_tokens")


def evaluate(models: dict[str, str], arguments) -> None:
    """
    Measure models, given by name, write `results.json`, a plot and `report.html` into `--output`, and print the
    tables.

    Raises:
        UserError: if the rows or a model cannot be used; nothing is written then.
    """
    from dataclasses import asdict

    from rich.console import Console

    from ...evaluation.robustness.by_class import add_by_class
    from ...evaluation.tool_calls.report import tool_call_sentences, tool_call_tables, write_tool_call_report
    from ...evaluation.unfinished import unfinished_evaluation

    settings = ToolCallSettings(
        threat=threat_of(arguments, models.values(), perturbed_tokens="observation"),
        multiples=tuple(arguments.multiples),
        attacks=tuple(name for name in ON_CALLS if arguments.attacks in (None, [ALL]) or name in arguments.attacks),
        attack_steps=arguments.attack_steps,
        attack_restarts=arguments.attack_restarts,
        exhaustive=arguments.exhaustive,
        max_new_tokens=arguments.max_new_tokens,
        batch_size=arguments.batch_size or ToolCallSettings.batch_size,
        seed=arguments.seed,
        injections=arguments.injections,
        triggers=triggers_of(arguments),
    )
    if trained := trained_on(arguments, models):
        print(
            f"warning: {', '.join(trained)} trained on these rows: the success will be too high. Give `--dataset_name` rows "
            "that are not in the training data.",
            file=sys.stderr,
        )
    rows, given = _rows(arguments)
    column = class_column_of(arguments, models.values())
    classes = [] if column is None else classes_of(given, column)
    agents = load_agents(models, **placement_of(arguments))
    for agent in agents:
        # Check every agent before any is attacked.
        try:
            with user_errors():
                ToolCaller(agent.model, agent.tokenizer, rows, settings.max_new_tokens)
        except UserError as error:
            raise UserError(f"{agent.name}: {error}") from error
    unfinished = unfinished_evaluation(arguments.output, agents, [rows, settings], PARTS)
    parts = {agent.name: unfinished.part(str(number)) for number, agent in enumerate(agents)}
    done = {name: settings.progress_done(len(rows), part) for name, part in parts.items()}
    with going_on(unfinished, sum(done.values())):
        runs = measure_each(
            agents,
            settings.progress_steps(len(rows)),
            lambda agent, on_progress: evaluate_tool_calls(
                agent.model, agent.tokenizer, rows, settings, on_progress, parts[agent.name]
            ),
            done,
        )
    data = {name: getattr(arguments, name) for name in ("dataset_name", *_DATA)}
    recorded = data | {"examples": len(rows)} | weights_of(agents) | asdict(settings) | recorded_placement(arguments)
    if column is not None:
        recorded["class_column"] = column
        for run in runs.values():
            add_by_class(run, classes)
    results = new_results("tool_calls", runs, recorded.pop("threat"), recorded)
    if not is_first():
        return
    with user_errors():
        arguments.output.mkdir(parents=True, exist_ok=True)
        write_tool_call_report(results, arguments.output)
        unfinished.forget()
    # Names and paths must not be read as markup. Print the sentence about trust above the tables.
    printed = Console(markup=False)
    trust, *sentences = tool_call_sentences(results)
    printed.print(trust, soft_wrap=True)
    printed.print()
    for table in tool_call_tables(results):
        printed.print(table)
        printed.print()
    for sentence in sentences:
        printed.print(sentence, soft_wrap=True)
    printed.print(f"Report: {arguments.output / 'report.html'}", soft_wrap=True)


def _rows(arguments) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """
    Return the requested number of rows, drawn at random with the seed, because files are often sorted by kind; as they are
    evaluated, and as they were given.
    """
    import numpy as np

    from ...evaluation.tool_calls.rows import read_rows

    with user_errors():
        rows = rows_asked_for(arguments, arguments.dataset_name, "test")
    drawn = np.random.default_rng(arguments.seed).permutation(len(rows))[: arguments.examples]
    numbers = sorted(map(int, drawn))
    given = [rows[number] for number in numbers]
    try:
        return read_rows(given, numbers), given
    except ValueError as error:
        raise UserError(f"`--dataset_name`: {error}") from error
