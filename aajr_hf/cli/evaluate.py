"""`aajr evaluate`: measure one or more agents on the same held-out observations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import evaluate_tool_calls as tool_calls
from .errors import UserError, user_errors
from .measuring import load_agents, measure_each, weights_of
from .options import check_output, check_seed
from .parsing import ArgumentParser
from .worlds import WORLD_HELP, world_for

DESCRIPTION = """Measure agents on the same held-out observations: success and system cost without an adversary and under
attack, and how strongly their logits answer to perturbations. Prints a table; writes results.json, plots and a
self-contained report.html.

    aajr evaluate outputs/agent aajr=outputs/congestion-aajr --output outputs/evaluation
    aajr evaluate outputs/agent --attacks random token --sanity     # can the attack itself be trusted?
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
    evaluate(models, arguments.output, settings_of(arguments), arguments.examples, world, arguments.transfer_from)
    return 0


def add_measurement(parser: ArgumentParser) -> None:
    """The options that say what is measured, and how hard the adversary tries."""
    parser.add_argument("--env", "--environment", dest="environment", metavar="WORLD", help=WORLD_HELP)
    parser.add_argument(
        "--epsilon",
        type=float,
        default=0.25,
        help="training radius, in mean norms of the prompt's embeddings (default: %(default)s)",
    )
    parser.add_argument(
        "--multiples",
        type=float,
        nargs="+",
        default=[0.5, 1.0, 2.0],
        help="attack radii, in multiples of --epsilon (default: 0.5 1 2)",
    )
    parser.add_argument("--examples", type=int, default=256, help="held-out observations (default: %(default)s)")
    parser.add_argument("--attack_steps", type=int, default=20, help="steps of each ascent (default: %(default)s)")
    parser.add_argument("--attack_restarts", type=int, default=3, help="ascents per example (default: %(default)s)")
    parser.add_argument(
        "--attacks",
        nargs="+",
        default=["pga"],
        metavar="ATTACK",
        help="of pga, random (points), transfer (from another model), token (other numbers in the observation); pga always "
        "runs (default: pga)",
    )
    parser.add_argument("--transfer_from", metavar="MODEL", help="model on which the attack transfer is made")
    parser.add_argument(
        "--token_trials", type=int, default=64, help="substitutions per example, for token (default: %(default)s)"
    )
    parser.add_argument(
        "--sanity",
        action="store_true",
        help="check that the attack does what one must: attack with fewer steps and without a bound, too",
    )
    parser.add_argument(
        "--budget",
        type=float,
        help="amplification of F_ad and F_gamma, whose shares of the examples are shown (default: that of each agent's recipe, "
        "if any)",
    )
    parser.add_argument("--batch_size", type=int, help="examples per forward (default: 128; of tool calls, 16)")
    parser.add_argument("--seed", type=int, default=0, help="of observations and attack (default: %(default)s)")


def settings_of(arguments):
    """The [`RobustnessSettings`] of these options."""
    from ..evaluation.settings import RobustnessSettings

    return RobustnessSettings(
        train_epsilon=arguments.epsilon,
        multiples=tuple(arguments.multiples),
        attack_steps=arguments.attack_steps,
        attack_restarts=arguments.attack_restarts,
        batch_size=arguments.batch_size or 128,
        seed=arguments.seed,
        attacks=tuple(dict.fromkeys(("pga", *arguments.attacks))),
        token_trials=arguments.token_trials,
        sanity=arguments.sanity,
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
    if not 0 < arguments.epsilon < float("inf"):
        raise UserError(f"`--epsilon` must be a finite number above 0; got {arguments.epsilon}.")
    if not all(0 < multiple < float("inf") for multiple in arguments.multiples):
        raise UserError(f"`--multiples` must be finite numbers above 0; got {arguments.multiples}.")
    if arguments.budget is not None and not 0 < arguments.budget < float("inf"):
        raise UserError(f"`--budget` must be a finite number above 0; got {arguments.budget}.")
    _check_attacks(arguments)
    check_output(arguments.output, "--output")


def _check_attacks(arguments) -> None:
    from ..evaluation.settings import ATTACKS

    for attack in arguments.attacks:
        if attack not in ATTACKS:
            raise UserError(
                f"`--attacks`: there is no attack {attack!r}: choose of {', '.join(ATTACKS)}, and name models first."
            )
    if "transfer" in arguments.attacks and arguments.transfer_from is None:
        raise UserError("`--attacks transfer` needs `--transfer_from MODEL`, on which its perturbations are made.")
    if "transfer" not in arguments.attacks and arguments.transfer_from is not None:
        raise UserError("`--transfer_from` is for the attack transfer: add it to `--attacks`.")
    if arguments.sanity and arguments.attack_steps < 4:
        raise UserError(
            f"`--sanity` attacks with a quarter of the steps, too: `--attack_steps` must be at least 4; "
            f"got {arguments.attack_steps}."
        )


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


def measure(
    models: dict[str, str], settings, examples: int, world: str, transfer_from: str | None = None
) -> dict[str, Any]:
    """
    Evaluate models, by name, in a world. The attack transfer is made on the model `transfer_from`.

    Returns:
        The results: `{"runs": {name: numbers}, "train_epsilon": ..., "settings": {...}}`.

    Raises:
        UserError: for a model that cannot be loaded or attacked.
    """
    from dataclasses import asdict, replace

    from ..environments import held_out_rows
    from ..evaluation.agents import load_agent
    from ..evaluation.membership import budget_of
    from ..evaluation.robustness import evaluate_agent

    agents = load_agents(models)
    with user_errors():
        source = None if transfer_from is None else load_agent(transfer_from)
        budgets = {name: settings.budget or budget_of(path) for name, path in models.items()}
    rows = held_out_rows(world, examples, seed=settings.seed)
    _check_agents(agents, rows, settings, source)
    runs = measure_each(
        agents,
        models,
        settings.progress_steps(examples),
        lambda name, model, tokenizer, on_progress: evaluate_agent(
            model,
            tokenizer,
            rows,
            replace(settings, budget=budgets[name]),
            on_progress=on_progress,
            transfer_from=None if source is None else source[0],
        ),
    )
    recorded = {"environment": world, "examples": examples} | weights_of(models) | asdict(settings)
    if settings.budget is None:  # each has its own
        del recorded["budget"]
    if transfer_from is not None:
        recorded["transfer_from"] = transfer_from
    return {"runs": runs, "train_epsilon": settings.train_epsilon, "settings": recorded}


def evaluate(
    models: dict[str, str], output: Path, settings, examples: int, world: str, transfer_from: str | None = None
) -> None:
    """
    [`measure`], write `results.json`, plots and `report.html` into `output` and print the tables.

    Raises:
        UserError: for a model that cannot be loaded or attacked; nothing is written then.
    """
    from rich.console import Console

    from ..evaluation.attack_report import attack_tables
    from ..evaluation.membership import membership_tables
    from ..evaluation.report import results_table, summary_sentences, write_json, write_report
    from ..evaluation.stability_report import stability_tables

    results = measure(models, settings, examples, world, transfer_from)
    with user_errors():
        output.mkdir(parents=True, exist_ok=True)
        write_json(results, output / "results.json")
        write_report(results, output)
    printed = Console()
    printed.print(results_table(results))
    for table in attack_tables(results) + membership_tables(results) + stability_tables(results):
        printed.print()
        printed.print(table)
    for sentence in summary_sentences(results):
        printed.print(sentence, soft_wrap=True)
    printed.print(f"Report: {output / 'report.html'}", soft_wrap=True)


def _check_agents(agents: dict, rows: list[dict[str, Any]], settings, source) -> None:
    """Whether each agent can be attacked as asked for, before any of them is."""
    from ..evaluation.other_attacks import check_transfer
    from ..evaluation.token_attack import number_substitutions

    for name, agent in agents.items():
        try:
            if source is not None:
                check_transfer(source, agent, rows)
        except ValueError as error:
            raise UserError(f"`--transfer_from`: no perturbation transfers to {name}: {error}.") from error
        if "token" in settings.attacks:
            with user_errors():
                number_substitutions(agent[1], rows)
