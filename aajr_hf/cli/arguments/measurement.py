"""Options of a measurement of agents in a world: what is measured, and how hard the adversary tries."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ...evaluation.attacks.settings import TOKEN, RobustnessSettings
from ...evaluation.attacks.suite import ATTACKS, MAIN, TEXT_ATTACKS
from ...training.data.triggers import read_triggers
from ..common.errors import UserError
from .options import ArgumentParser
from .system_prompts import add_system_prompt
from .threat import add_threat, threat_of
from .validators import check_at_least_one, check_output, check_seed
from .worlds import WORLD_HELP

# In place of the names of attacks.
ALL = "all"
ONLY_ON_CALLS = tuple(name for name, attack in TEXT_ATTACKS.items() if not attack.on_worlds)
# Attacks on worlds, from the default ones to those in words.
ON_WORLDS = (*ATTACKS, TOKEN, *(name for name, attack in TEXT_ATTACKS.items() if attack.on_worlds))


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
        help=f"attacks to run, from {', '.join(names())}, or {ALL} (default: all that move embeddings; for tool calls all). {TOKEN}: "
        f"only for worlds. {', '.join(ONLY_ON_CALLS)}: only for tool calls",
    )
    parser.add_argument(
        "--triggers",
        metavar="FILE",
        help="bank of triggers (aajr triggers), all of which the attack trigger also tries; in a world, it adds this attack",
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
    return (*ATTACKS, TOKEN, *TEXT_ATTACKS)


def settings_of(arguments, models: Iterable[str]) -> RobustnessSettings:
    """Return the settings for these options and models."""
    return RobustnessSettings(
        threat=threat_of(arguments, models),
        multiples=tuple(arguments.multiples),
        attacks=_on_worlds(arguments),
        attack_steps=arguments.attack_steps,
        attack_restarts=arguments.attack_restarts,
        exhaustive=arguments.exhaustive,
        batch_size=arguments.batch_size or 128,
        seed=arguments.seed,
        token_trials=arguments.token_trials,
        triggers=triggers_of(arguments),
        budget=arguments.budget,
    )


def _on_worlds(arguments) -> tuple[str, ...]:
    """Return the attacks on a world, in their order."""
    chosen = arguments.attacks
    if chosen is None:
        chosen = [*ATTACKS, *(["trigger"] if arguments.triggers else [])]
    return tuple(name for name in ON_WORLDS if name in chosen or chosen == [ALL])


def triggers_of(arguments) -> tuple[str, ...]:
    """
    Return the texts of `--triggers`; none without this option.

    Raises:
        UserError: if the file is no bank.
    """
    if arguments.triggers is None:
        return ()
    try:
        return tuple(trigger.text for trigger in read_triggers(arguments.triggers))
    except ValueError as error:
        raise UserError(f"`--triggers`: {error}") from error


def check_measurement(arguments) -> None:
    """
    Check the options of [`add_measurement`], and `--output`.

    Raises:
        UserError: if an option is invalid; names the option.
    """
    check_at_least_one(arguments, "examples", "attack_steps", "attack_restarts", "token_trials", "batch_size")
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
    triggers_of(arguments)
    check_output(arguments.output, "--output")


def _check_attacks(arguments) -> None:
    """Check that each attack is known, and that each attack and each option of an attack has an effect."""
    chosen = arguments.attacks
    if chosen == [ALL]:
        return
    if chosen and arguments.triggers and "trigger" not in chosen:
        raise UserError("`--triggers` has no effect without the attack trigger: add it, or leave it out.")
    for attack in chosen or ():
        if attack not in names():
            raise UserError(
                f"`--attacks`: unknown attack {attack!r}: choose from {', '.join(names())}, and put models first."
            )
    others = [name for name, attack in ATTACKS.items() if attack.from_others]
    if chosen and not set(chosen) - {TOKEN, *TEXT_ATTACKS, *others}:
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
