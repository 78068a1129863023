"""`aajr evaluate`: measure one or more agents on the same held-out observations."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..environments import held_out_rows
from ..evaluation.attacks.suite import ATTACKS
from ..evaluation.results import new_results
from ..evaluation.settings import TOKEN, RobustnessSettings
from . import evaluate_tool_calls as tool_calls
from .errors import UserError, user_errors
from .measuring import load_agents, measure_together, weights_of
from .options import check_output, check_seed
from .parsing import ArgumentParser
from .threat import add_threat, threat_of
from .transfer import check_transfers, load_sources, make_surrogates
from .worlds import WORLD_HELP, world_for

DESCRIPTION = """Measure agents on the same held-out observations: success and system cost without an adversary and under
attack, and how strongly their logits answer to perturbations. Prints a table; writes results.json, plots and a
self-contained report.html. An agent withstands a radius where none of the attacks breaks its answer; each is attacked with what was found
on the others, too.

    aajr evaluate outputs/agent aajr=outputs/congestion-aajr --output outputs/evaluation
    aajr evaluate outputs/agent --surrogate                 # alone: attacked in place of a smoother copy of itself, too
    aajr evaluate outputs/caller --dataset_name data/bfcl --dataset_format bfcl     # are its tool calls valid, and right?
"""


def run(argv: list[str]) -> int:
    parser = ArgumentParser("evaluate", description=DESCRIPTION)
    parser.add_argument(
        "models", nargs="+", metavar="[NAME=]MODEL", help="model or adapter folder, or Hub name; shown under NAME"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("outputs/evaluation"), help="folder of the report (default: %(default)s)"
    )
    add_measurement(parser)
    tool_calls.add_options(parser)
    arguments = parser.parse_args(argv)
    check_measurement(arguments)
    tool_calls.check_options(arguments, parser)
    models = with_averages(by_name(arguments.models))
    if arguments.dataset_name is not None:
        tool_calls.evaluate(models, arguments)
        return 0
    world = world_for(models.values(), arguments.environment)
    evaluate(models, arguments, world)
    return 0


def add_measurement(parser: ArgumentParser) -> None:
    """The options that say what is measured, and how hard the adversary tries."""
    parser.add_argument("--env", "--environment", dest="environment", metavar="WORLD", help=WORLD_HELP)
    parser.add_argument(
        "--multiples",
        type=float,
        nargs="+",
        default=[0.5, 1.0, 1.5],
        help="attack radii, in multiples of --epsilon (default: 0.5 1 1.5)",
    )
    parser.add_argument("--examples", type=int, default=256, help="held-out observations (default: %(default)s)")
    parser.add_argument(
        "--attacks",
        nargs="+",
        metavar="ATTACK",
        help=f"of {', '.join(names())} (default: all but {TOKEN}, which writes other numbers into the observation)",
    )
    parser.add_argument("--attack_steps", type=int, default=10, help="steps of each ascent (default: %(default)s)")
    parser.add_argument(
        "--attack_restarts",
        type=int,
        default=1,
        help="ascents per attack, the first without perturbation, the others from random points (default: %(default)s)",
    )
    parser.add_argument(
        "--exhaustive",
        action="store_true",
        help="let every attack see every example, to show what each alone leaves; otherwise it sees those that are not broken yet",
    )
    parser.add_argument(
        "--transfer_from",
        nargs="+",
        default=[],
        metavar="MODEL",
        help="further models whose perturbations are tried on the agents",
    )
    parser.add_argument(
        "--surrogate",
        action="store_true",
        help="make a smoother copy of each agent, by a few dozen steps with a strong penalty, and try its perturbations on the agents; "
        "kept beside the results",
    )
    parser.add_argument(
        "--token_trials", type=int, default=64, help="substitutions per example, for token (default: %(default)s)"
    )
    parser.add_argument(
        "--budget",
        type=float,
        help="amplification of F_ad and F_gamma, whose shares of the examples are shown (default: that of each agent's recipe, "
        "if any)",
    )
    parser.add_argument("--batch_size", type=int, help="examples per forward (default: 128; of tool calls, 16)")
    parser.add_argument("--seed", type=int, default=0, help="of observations and attack (default: %(default)s)")
    add_threat(parser)


def names() -> tuple[str, ...]:
    """Of all attacks."""
    return (*ATTACKS, TOKEN)


def settings_of(arguments, models: Iterable[str]) -> RobustnessSettings:
    """What these options ask for, of these models."""
    return RobustnessSettings(
        threat=threat_of(arguments, models),
        multiples=tuple(arguments.multiples),
        attacks=tuple(ATTACKS) if arguments.attacks is None else tuple(n for n in names() if n in arguments.attacks),
        attack_steps=arguments.attack_steps,
        attack_restarts=arguments.attack_restarts,
        exhaustive=arguments.exhaustive,
        batch_size=arguments.batch_size or 128,
        seed=arguments.seed,
        token_trials=arguments.token_trials,
        budget=arguments.budget,
    )


def check_measurement(arguments) -> None:
    """
    Check the options of [`add_measurement`], and `--output`.

    Raises:
        UserError: names the option.
    """
    for name in ("examples", "attack_steps", "attack_restarts", "token_trials", "batch_size"):
        if getattr(arguments, name) is not None and getattr(arguments, name) < 1:
            raise UserError(f"`--{name}` must be at least 1; got {getattr(arguments, name)}.")
    check_seed(arguments.seed, "--seed")
    if arguments.epsilon == 0:
        raise UserError("`--epsilon` must be above 0: it is the unit of the radii.")
    if not all(0 < multiple < float("inf") for multiple in arguments.multiples):
        raise UserError(f"`--multiples` must be finite numbers above 0; got {arguments.multiples}.")
    if arguments.budget is not None and not 0 < arguments.budget < float("inf"):
        raise UserError(f"`--budget` must be a finite number above 0; got {arguments.budget}.")
    for attack in arguments.attacks or ():
        if attack not in names():
            raise UserError(
                f"`--attacks`: there is no attack {attack!r}: choose of {', '.join(names())}, and name models first."
            )
    check_output(arguments.output, "--output")


def by_name(models: list[str]) -> dict[str, str]:
    """
    Folders or Hub names by the names to show them under, from `[NAME=]MODEL`.

    Raises:
        UserError: if two have one name.
    """
    named: dict[str, str] = {}
    for model in models:
        name, separator, path = model.partition("=")
        path = path if separator else name
        name = name if separator else Path(path.rstrip("/")).name
        if name in named:
            raise UserError(f"Two models are named {name!r}: give them names, as in NAME=MODEL.")
        named[name] = path
    return named


def with_averages(models: dict[str, str]) -> dict[str, str]:
    """The models, each followed by the average of its weights where it was trained with one: NAME-ema."""
    from ..training.ema import average_in

    found: dict[str, str] = {}
    for name, path in models.items():
        found[name] = path
        average = average_in(path)
        if average is not None and average not in map(Path, models.values()):
            of_average = f"{name}-{average.name}"
            if of_average in models:
                raise UserError(
                    f"{of_average} is the average of {name}'s weights: give {models[of_average]} another name."
                )
            found[of_average] = str(average)
    return found


def measure(models: dict[str, str], arguments, world: str) -> dict[str, Any]:
    """
    Evaluate models, by name, in a world, with the options of [`add_measurement`].

    Returns:
        The results, see [`~aajr_hf.evaluation.results`].

    Raises:
        UserError: for a model that cannot be loaded or attacked.
    """
    from ..evaluation.membership import budget_of
    from ..evaluation.robustness import evaluate_agents, progress_steps

    settings = settings_of(arguments, models.values())
    rows = held_out_rows(world, arguments.examples, seed=settings.seed)
    agents = load_agents(models)
    with user_errors():
        budgets = {name: settings.budget or budget_of(path) for name, path in models.items()}
    sources = load_sources(arguments.transfer_from, agents)
    if TOKEN in settings.attacks:
        _check_numbers(agents, rows)
    if arguments.surrogate:
        sources |= make_surrogates(agents, models, world, settings, arguments.output)
    check_transfers(agents, sources, rows)
    runs = measure_together(
        models,
        progress_steps(settings, len(rows)),
        lambda on_progress: evaluate_agents(
            agents, rows, settings, sources=sources, budgets=budgets, on_progress=on_progress
        ),
    )
    recorded = {"environment": world, "examples": arguments.examples} | weights_of(models) | asdict(settings)
    threat = recorded.pop("threat")
    if settings.budget is None:  # each has its own
        del recorded["budget"]
    if sources:
        recorded["transfer_from"] = list(sources)
    return new_results(runs, threat, recorded)


def evaluate(models: dict[str, str], arguments, world: str) -> None:
    """
    [`measure`], write `results.json`, plots and `report.html` into `--output` and print the tables.

    Raises:
        UserError: for a model that cannot be loaded or attacked; nothing is written then.
    """
    from rich.console import Console

    from ..evaluation.attack_report import attack_tables
    from ..evaluation.membership import membership_tables
    from ..evaluation.report import results_table, summary_sentences, write_json, write_report
    from ..evaluation.stability_report import stability_tables

    results, output = measure(models, arguments, world), arguments.output
    with user_errors():
        output.mkdir(parents=True, exist_ok=True)
        write_json(results, output / "results.json")
        write_report(results, output)
    # Names and paths are not markup; whether to trust the tables stands above them.
    printed = Console(markup=False)
    trust, *sentences = summary_sentences(results)
    printed.print(trust, soft_wrap=True)
    tables = attack_tables(results) + membership_tables(results) + stability_tables(results)
    for table in [results_table(results), *tables]:
        printed.print()
        printed.print(table)
    for sentence in sentences:
        printed.print(sentence, soft_wrap=True)
    printed.print(f"Report: {output / 'report.html'}", soft_wrap=True)


def _check_numbers(agents: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Whether the attack `token` can be made on each agent, before any is attacked."""
    from ..evaluation.attacks.tokens import number_substitutions

    for _, tokenizer in agents.values():
        with user_errors():
            number_substitutions(tokenizer, rows)
