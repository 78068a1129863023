"""`aajr evaluate`: measure one or more agents on the same held-out observations."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...environments import expert_rows, held_out_rows
from ...evaluation.attacks.settings import TOKEN, RobustnessSettings
from ...evaluation.attacks.suite import ATTACKS, MAIN
from ...evaluation.reporting.results import new_results
from ...training.data.system_prompts import check_system_role, with_system_prompt
from ..arguments.options import ArgumentParser
from ..arguments.system_prompts import add_system_prompt, system_prompt_for
from ..arguments.threat import add_threat, threat_of
from ..arguments.transfer import EXAMPLES, check_surrogates, check_transfers, load_sources, make_surrogates
from ..arguments.validators import check_output, check_seed
from ..arguments.worlds import WORLD_HELP, world_for
from ..common.errors import UserError, user_errors
from ..common.measuring import check_train_seconds, load_agents, measure_together, weights_of
from . import evaluate_tool_calls as tool_calls

if TYPE_CHECKING:
    from ...evaluation.agents import Agent
    from ...training.sharing.results import RobustnessResults

DESCRIPTION = """Measure agents on the same held-out observations: success and system cost without an adversary and under
attack, and the sensitivity of their logits to perturbations. Prints whether the numbers under attack can be trusted, and
tables; writes results.json, plots and a self-contained report.html.

Several attacks run one after the other. An answer withstands a radius if no attack changes it within that radius. Agents
that are evaluated together are also attacked with the perturbations found on each other.

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
    """Add the options of the measurement and of the attacks."""
    parser.add_argument("--env", "--environment", dest="environment", metavar="WORLD", help=WORLD_HELP)
    add_system_prompt(parser)
    parser.add_argument(
        "--multiples",
        type=float,
        nargs="+",
        default=[0.5, 1.0, 1.5],
        help="radii of the attacks, as multiples of --epsilon (default: 0.5 1 1.5)",
    )
    parser.add_argument(
        "--examples", type=int, default=256, help="number of held-out observations (default: %(default)s)"
    )
    parser.add_argument(
        "--attacks",
        nargs="+",
        metavar="ATTACK",
        help=f"attacks to run, from {', '.join(names())} (default: all except {TOKEN}, which replaces numbers in the text of the "
        "observation)",
    )
    parser.add_argument(
        "--attack_steps",
        type=int,
        default=10,
        help="steps of each gradient attack (default: %(default)s)",
    )
    parser.add_argument(
        "--attack_restarts",
        type=int,
        default=1,
        help="starts of each gradient attack: the first is the unperturbed prompt, the others are random points in the ball "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--exhaustive",
        action="store_true",
        help="run every attack on every example, which takes longer and shows the success that each attack leaves by itself. "
        "By default, an attack skips examples that an earlier one has broken",
    )
    parser.add_argument(
        "--transfer_from",
        nargs="+",
        default=[],
        metavar="MODEL",
        help="further models to attack, so that the perturbations found on them can be tried on the agents. They need the "
        "tokenizer and the width of the agents",
    )
    parser.add_argument(
        "--surrogate",
        action="store_true",
        help="fine-tune a smoother copy of each agent, a surrogate, and try the perturbations found on it on the agents: it finds "
        "some that an agent's own gradients hide. Saved in the folder surrogates of --output",
    )
    parser.add_argument(
        "--token_trials",
        type=int,
        default=64,
        help=f"replacements that the attack {TOKEN} tries for each observation (default: %(default)s)",
    )
    parser.add_argument(
        "--budget",
        type=float,
        help="amplification budget gamma: also report the share of examples within gamma along the ascent (F_ad) and in every "
        "direction (F_gamma) (default: the amplification_budget of each agent's recipe, if there is one)",
    )
    parser.add_argument("--batch_size", type=int, help="examples in a forward pass (default: 128, for tool calls 16)")
    parser.add_argument("--seed", type=int, default=0, help="seed of observations and attacks (default: %(default)s)")
    add_threat(parser)


def names() -> tuple[str, ...]:
    """Return the names of all attacks."""
    return (*ATTACKS, TOKEN)


def settings_of(arguments, models: Iterable[str]) -> RobustnessSettings:
    """Return the settings for these options and models."""
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
        UserError: if an option is invalid; names the option.
    """
    for name in ("examples", "attack_steps", "attack_restarts", "token_trials", "batch_size"):
        if getattr(arguments, name) is not None and getattr(arguments, name) < 1:
            raise UserError(f"`--{name}` must be at least 1; got {getattr(arguments, name)}.")
    check_seed(arguments.seed, "--seed")
    if arguments.epsilon == 0:
        raise UserError("`--epsilon` must be above 0, because it is the unit of the attack radii; got 0.")
    if not all(0 < multiple < float("inf") for multiple in arguments.multiples):
        raise UserError(f"`--multiples` must be finite numbers above 0; got {arguments.multiples}.")
    keys = {f"{multiple:g}" for multiple in arguments.multiples}  # as the results have them
    if len(keys) < len(arguments.multiples):
        raise UserError(f"`--multiples` must differ in their first six digits; got {arguments.multiples}.")
    if arguments.budget is not None and not 0 < arguments.budget < float("inf"):
        raise UserError(f"`--budget` must be a finite number above 0; got {arguments.budget}.")
    _check_attacks(arguments)
    check_output(arguments.output, "--output")


def _check_attacks(arguments) -> None:
    """Check that each attack is known, and that each attack and each option of an attack has an effect."""
    chosen = arguments.attacks
    for attack in chosen or ():
        if attack not in names():
            raise UserError(
                f"`--attacks`: unknown attack {attack!r}: choose from {', '.join(names())}, and put models first."
            )
    others = [name for name, attack in ATTACKS.items() if attack.from_others]
    if chosen and not set(chosen) - {TOKEN, *others}:
        raise UserError(
            f"`--attacks`: {', '.join(chosen)} cannot be used alone: add an attack within the radii, such as {MAIN}."
        )
    if chosen and not set(chosen) & set(others):
        for option in ("transfer_from", "surrogate"):
            if getattr(arguments, option):
                raise UserError(f"`--{option}` has no effect without one of the attacks {', '.join(others)}: add one.")


def by_name(models: list[str]) -> dict[str, str]:
    """
    Parse `[NAME=]MODEL`, and return folders or Hub names by name.

    Raises:
        UserError: if two models have the same name.
    """
    named: dict[str, str] = {}
    for model in models:
        name, separator, path = model.partition("=")
        path = path if separator else name
        name = name if separator else Path(path.rstrip("/")).name
        if name in named:
            raise UserError(f"Two models are named {name!r}: give them different names, as in NAME=MODEL.")
        named[name] = path
    return named


def with_averages(models: dict[str, str]) -> dict[str, str]:
    """Add the averaged weights of each model, if it was trained with them, after the model, as NAME-ema."""
    from ...training.runs.ema import average_in

    found: dict[str, str] = {}
    for name, path in models.items():
        found[name] = path
        average = average_in(path)
        if average is not None and average not in map(Path, models.values()):
            of_average = f"{name}-{average.name}"
            if of_average in models:
                raise UserError(
                    f"{of_average} names the averaged weights of {name}: give {models[of_average]} another name."
                )
            found[of_average] = str(average)
    return found


def measure(models: dict[str, str], arguments, world: str) -> RobustnessResults:
    """
    Evaluate models, given by name, in a world, with the options of [`add_measurement`].

    Returns:
        The results, with the intervals of their shares.

    Raises:
        UserError: if a model cannot be loaded or attacked.
    """
    from ...evaluation.robustness.evaluate import evaluate_agents, progress_steps
    from ...evaluation.robustness.membership import budget_of

    settings = settings_of(arguments, models.values())
    _check_others(arguments, models)
    if arguments.surrogate:
        check_surrogates(models, arguments.transfer_from, arguments.output)
    system_prompt = system_prompt_for(models.values(), arguments.system_prompt)
    rows = with_system_prompt(held_out_rows(world, arguments.examples, seed=settings.seed), system_prompt)
    agents = load_agents(models)
    with user_errors():
        budgets = {agent.name: settings.budget or budget_of(agent.folder) for agent in agents}
    sources = load_sources(arguments.transfer_from, models)
    _check_templates([*agents, *sources], system_prompt)
    check_transfers(agents, sources, rows)
    _check_rows(agents, rows, settings)
    if arguments.surrogate:  # done last, because it takes minutes
        check_train_seconds(agents)
        examples = with_system_prompt(expert_rows(world, EXAMPLES, seed=settings.seed), system_prompt)
        sources += make_surrogates(agents, examples, settings, arguments.output)
    runs = measure_together(
        agents,
        progress_steps(settings, len(rows)),
        lambda on_progress: evaluate_agents(
            agents, rows, settings, sources=sources, budgets=budgets, on_progress=on_progress
        ),
    )
    recorded = {"environment": world, "examples": arguments.examples} | weights_of(agents) | asdict(settings)
    threat = recorded.pop("threat")
    if settings.budget is None:  # each agent has its own budget
        del recorded["budget"]
    if system_prompt is not None:
        recorded["system_prompt"] = system_prompt
    if sources:
        recorded["transfer_from"] = [source.name for source in sources]
    return new_results("robustness", runs, threat, recorded)


def evaluate(models: dict[str, str], arguments, world: str) -> None:
    """
    Call [`measure`], write `results.json`, plots and `report.html` into `--output`, and print the tables.

    Raises:
        UserError: if a model cannot be loaded or attacked. Nothing is written then, except finished surrogates.
    """
    from rich.console import Console

    from ...evaluation.reporting.attack_report import attack_tables
    from ...evaluation.reporting.membership import membership_tables
    from ...evaluation.reporting.report import results_table, summary_sentences, write_json, write_report
    from ...evaluation.reporting.stability_report import stability_tables

    results, output = measure(models, arguments, world), arguments.output
    with user_errors():
        output.mkdir(parents=True, exist_ok=True)
        write_json(results, output / "results.json")
        write_report(results, output)
    # Names and paths must not be read as markup. Print the sentence about trust above the tables.
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
    from ...evaluation.batches import read_batch

    for agent in agents:
        try:
            with user_errors():
                read_batch(agent.tokenizer, rows, settings.threat.perturbed_tokens, "cpu")
                if TOKEN in settings.attacks:
                    number_substitutions(agent.tokenizer, rows)
        except UserError as error:
            raise UserError(f"{agent.name}: {error}") from error
