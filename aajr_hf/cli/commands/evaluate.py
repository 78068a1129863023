"""`aajr evaluate`: measure one or more agents on the same held-out observations."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...environments import expert_rows, held_out_rows
from ...evaluation.attacks.settings import TOKEN, RobustnessSettings
from ...evaluation.attacks.suite import ATTACKS
from ...evaluation.processes import number_of_processes
from ...evaluation.reporting.results import new_results
from ...training.data.system_prompts import check_system_role, with_system_prompt
from ..arguments.classes import class_column_of, classes_of
from ..arguments.measurement import add_measurement, by_name, check_measurement, settings_of, with_averages
from ..arguments.nuisance import NUISANCE_RANK, check_nuisance, nuisance_rows
from ..arguments.options import ArgumentParser
from ..arguments.placement import add_placement, check_placement, placement_of, recorded_placement
from ..arguments.system_prompts import system_prompt_for
from ..arguments.transfer import EXAMPLES, check_surrogates, check_transfers, load_sources, make_surrogates
from ..arguments.worlds import world_for
from ..common.errors import UserError, user_errors
from ..common.measuring import check_train_seconds, going_on, load_agents, measure_together, weights_of
from ..common.processes import is_first
from ..launching.measuring import add_launch, launched, parse_launch, together
from . import evaluate_tool_calls as tool_calls

if TYPE_CHECKING:
    from ...evaluation.agents import Agent
    from ...evaluation.unfinished import Unfinished
    from ...training.sharing.results import Nuisance, RobustnessNumbers, RobustnessResults

DESCRIPTION = """Measure agents on the same held-out observations: success and system cost without an adversary and under
attack, and the sensitivity of their logits to perturbations. Prints whether the numbers under attack can be trusted, and
tables; writes results.json, plots and a self-contained report.html.

Several attacks run one after the other. An answer withstands a radius if no attack changes it within that radius. Agents
that are evaluated together are also attacked with the perturbations found on each other. After Ctrl-C, the same command
goes on after the batches of examples that were finished.

    aajr evaluate outputs/agent aajr=outputs/congestion-aajr --output outputs/evaluation
    aajr evaluate outputs/agent --surrogate         # one agent alone, also attacked through a smoother copy of it
    aajr evaluate outputs/caller --dataset_name data/bfcl --dataset_format bfcl     # are its tool calls right?
"""


def run(argv: list[str]) -> int:
    parser = ArgumentParser("evaluate", description=DESCRIPTION)
    parser.add_argument(
        "models",
        nargs="+",
        metavar="[NAME=]MODEL",
        help="folder of a model or an adapter, or name on the Hub; NAME is its name in tables and plots",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("outputs/evaluation"), help="folder of the report (default: %(default)s)"
    )
    add_measurement(parser)
    parser.add_argument(
        "--class_column",
        metavar="NAME",
        help="also report success by class: a column of the rows, or action for the first tool that an answer calls, or the word in "
        "which the actions of a world differ (default: as in the recipes of agents with a long_tail_alpha)",
    )
    parser.add_argument(
        "--nuisance",
        type=int,
        nargs="?",
        const=NUISANCE_RANK,
        metavar="RANK",
        help="also measure what varies without changing the right answer: how much of it lies in subspaces of RANK directions "
        f"({NUISANCE_RANK} by default), and how far it moves the agent. Put models first",
    )
    parser.add_argument(
        "--own_temperature",
        action="store_true",
        help="sample the answers of each agent at the temperature in its generation_config.json, which aajr calibrate writes, instead "
        "of at 1. Greedy success and the attacks stay the same",
    )
    tool_calls.add_options(parser)
    add_placement(parser)
    add_launch(parser, "examples, batch by batch")
    arguments, own, flags = parse_launch(parser, argv)
    check_measurement(arguments)
    check_nuisance(arguments)
    check_placement(arguments)
    tool_calls.check_options(arguments, parser)
    models = with_averages(by_name(arguments.models))
    if (status := launched("evaluate", arguments, own, flags)) is not None:
        return status
    with together():
        _check_processes(arguments)
        if arguments.dataset_name is not None:
            tool_calls.evaluate(models, arguments)
        else:
            evaluate(models, arguments, world_for(models.values(), arguments.environment))
    return 0


def measure(models: dict[str, str], arguments, world: str) -> tuple[RobustnessResults, Unfinished]:
    """
    Evaluate models, given by name, in a world, with the options of [`add_measurement`].

    Returns:
        The results, with the intervals of their shares, and the files to forget once they are written.

    Raises:
        UserError: if a model cannot be loaded or attacked.
    """
    from ...evaluation.robustness.by_class import add_by_class
    from ...evaluation.robustness.evaluate import PARTS
    from ...evaluation.robustness.membership import budget_of
    from ...evaluation.unfinished import NOTHING_KEPT, unfinished_evaluation

    settings = settings_of(arguments, models.values())
    _check_others(arguments, models)
    if arguments.surrogate:
        if recorded_placement(arguments) or arguments.device_map is not None:
            raise UserError("`--surrogate` trains in float32 on one device: leave out `--dtype` and `--device_map`.")
        check_surrogates(models, arguments.transfer_from, arguments.output)
    system_prompt = system_prompt_for(models.values(), arguments.system_prompt)
    rows = with_system_prompt(held_out_rows(world, arguments.examples, seed=settings.seed), system_prompt)
    column = class_column_of(arguments, models.values())
    classes = [] if column is None else classes_of(rows, column)
    agents = _at_own_temperature(load_agents(models, **placement_of(arguments)), arguments)
    with user_errors():
        budgets = {agent.name: settings.budget or budget_of(agent.folder) for agent in agents}
    sources = load_sources(arguments.transfer_from, models, **placement_of(arguments))
    _check_templates([*agents, *sources], system_prompt)
    check_transfers(agents, sources, rows)
    _check_rows(agents, rows, settings)
    nuisances = _nuisances(agents, arguments, world, system_prompt, settings)
    if arguments.surrogate:  # done last, because it takes minutes
        check_train_seconds(agents)
        examples = with_system_prompt(expert_rows(world, EXAMPLES, seed=settings.seed), system_prompt)
        sources += make_surrogates(agents, examples, settings, arguments.output)
    unfinished = NOTHING_KEPT
    if not arguments.surrogate:  # which would be trained again, to somewhat other weights
        depends_on = [[agent.name for agent in agents], rows, settings, budgets]
        unfinished = unfinished_evaluation(arguments.output, [*agents, *sources], depends_on, PARTS)
    runs = _attack(agents, sources, rows, settings, budgets, unfinished)
    recorded = {"environment": world, "examples": arguments.examples} | weights_of(agents) | asdict(settings)
    threat = recorded.pop("threat")
    for name, numbers in nuisances.items():
        runs[name]["nuisance"], recorded["nuisance_rank"] = numbers, arguments.nuisance
    recorded |= recorded_placement(arguments)
    if getattr(arguments, "own_temperature", False):
        recorded["temperatures"] = {agent.name: agent.temperature for agent in agents}
    if column is not None:
        recorded["class_column"] = column
        for run in runs.values():
            add_by_class(run, classes)
    if settings.budget is None:  # each agent has its own budget
        del recorded["budget"]
    if system_prompt is not None:
        recorded["system_prompt"] = system_prompt
    if sources:
        recorded["transfer_from"] = [source.name for source in sources]
    return new_results("robustness", runs, threat, recorded), unfinished


def _attack(
    agents: list[Agent],
    sources: list[Agent],
    rows: list[dict[str, Any]],
    settings: RobustnessSettings,
    budgets: dict[str, float | None],
    unfinished: Unfinished,
) -> dict[str, RobustnessNumbers]:
    """Attack the agents, and go on where the same attack was interrupted."""
    from ...evaluation.robustness.evaluate import evaluate_agents, progress_done, progress_steps

    done = progress_done(settings, len(rows), unfinished)
    how = {"sources": sources, "budgets": budgets, "unfinished": unfinished}
    with going_on(unfinished, done):
        return measure_together(
            agents,
            progress_steps(settings, len(rows)),
            lambda on_progress: evaluate_agents(agents, rows, settings, **how, on_progress=on_progress),
            dict.fromkeys([agent.name for agent in agents], done),
        )


def _at_own_temperature(agents: list[Agent], arguments) -> list[Agent]:
    """Return the agents with their own temperatures if `--own_temperature` asks for them, which only aajr evaluate has."""
    if not getattr(arguments, "own_temperature", False):
        return agents
    from ...evaluation.robustness.calibration import own_temperature

    return [replace(agent, temperature=own_temperature(agent.model)) for agent in agents]


def _nuisances(
    agents: list[Agent], arguments, world: str, system_prompt: str | None, settings: RobustnessSettings
) -> dict[str, Nuisance]:
    """Return the numbers of `--nuisance` by the name of the agent; none without the option, which only aajr evaluate has."""
    if getattr(arguments, "nuisance", None) is None:
        return {}
    from ...evaluation.robustness.nuisance import nuisance_numbers

    rows = with_system_prompt(nuisance_rows(world, arguments.examples, settings.seed), system_prompt)
    with user_errors():
        return {agent.name: nuisance_numbers(agent, rows, settings, arguments.nuisance) for agent in agents}


def evaluate(models: dict[str, str], arguments, world: str) -> None:
    """
    Call [`measure`], write `results.json`, plots and `report.html` into `--output`, and print the tables.

    Raises:
        UserError: if a model cannot be loaded or attacked. No report is written then.
    """
    from rich.console import Console

    from ...evaluation.reporting.attack_report import attack_tables
    from ...evaluation.reporting.by_class import class_tables
    from ...evaluation.reporting.membership import membership_tables
    from ...evaluation.reporting.nuisance import nuisance_tables
    from ...evaluation.reporting.report import results_table, summary_sentences, write_json, write_report
    from ...evaluation.reporting.stability_report import stability_tables
    from ...evaluation.reporting.text_report import text_tables
    from ...evaluation.reporting.together import together_tables

    (results, unfinished), output = measure(models, arguments, world), arguments.output
    if not is_first():
        return
    with user_errors():
        output.mkdir(parents=True, exist_ok=True)
        write_json(results, output / "results.json")
        write_report(results, output)
        unfinished.forget()
    # Names and paths must not be read as markup. Print the sentence about trust above the tables.
    printed = Console(markup=False)
    trust, *sentences = summary_sentences(results)
    printed.print(trust, soft_wrap=True)
    tables = attack_tables(results) + text_tables(results) + together_tables(results)
    tables += class_tables(results) + nuisance_tables(results)
    tables += membership_tables(results) + stability_tables(results)
    for table in [results_table(results), *tables]:
        printed.print()
        printed.print(table)
    for sentence in sentences:
        printed.print(sentence, soft_wrap=True)
    printed.print(f"Report: {output / 'report.html'}", soft_wrap=True)


def _check_processes(arguments) -> None:
    """
    Check, on several processes, that there is work for each.

    Raises:
        UserError: names the option to change.
    """
    usual = RobustnessSettings if arguments.dataset_name is None else tool_calls.ToolCallSettings
    processes, batch_size = number_of_processes(), arguments.batch_size or usual.batch_size
    if processes == 1:
        return
    if arguments.surrogate:
        raise UserError("`--surrogate`: surrogates are trained by one process only: leave out `--num_processes`.")
    if (batches := -(-arguments.examples // batch_size)) < processes:
        raise UserError(
            f"`--num_processes` {processes} is more than the {batches} batches of at most {batch_size} examples: give fewer "
            "processes or a smaller `--batch_size`."
        )


def _check_others(arguments, models: dict[str, str]) -> None:
    """Check that there are other models for the given attacks that use perturbations found on other models."""
    asked = [name for name in arguments.attacks or () if name in ATTACKS and ATTACKS[name].from_others]
    if asked and len(models) == 1 and not arguments.transfer_from and not arguments.surrogate:
        raise UserError(
            f"`--attacks`: {', '.join(asked)} needs perturbations found on other models, and there are none: evaluate "
            "several agents, or give `--transfer_from` or `--surrogate`."
        )


def _check_templates(agents: list[Agent], system_prompt: str | None) -> None:
    """Check that the chat template of each agent renders the system prompt, if there is one."""
    for agent in agents:
        try:
            with user_errors():
                check_system_role(agent.tokenizer, system_prompt)
        except UserError as error:
            raise UserError(f"{agent.name}: {error}") from error


def _check_rows(agents: list[Agent], rows: list[dict[str, Any]], settings: RobustnessSettings) -> None:
    """Check for each agent, before any attack, that the rows have tokens to perturb."""
    from ...evaluation.attacks.tokens import number_substitutions
    from ...evaluation.batches import check_moved, read_batch

    for agent in agents:
        try:
            with user_errors():
                batch = read_batch(agent.tokenizer, rows, settings.threat.perturbed_tokens, "cpu")
                check_moved([(range(len(rows)), batch)], settings.threat.perturbed_tokens)
                if TOKEN in settings.attacks:
                    number_substitutions(agent.tokenizer, rows)
        except UserError as error:
            raise UserError(f"{agent.name}: {error}") from error
