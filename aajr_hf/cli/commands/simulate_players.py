"""The players of `aajr simulate`, and the attacks on them."""

from __future__ import annotations

import functools
from typing import Any

from ...evaluation.attacks.lessons import PREDICTED
from ...evaluation.episodes.rewriting import NUMBERS, ON_TEXTS, TRIGGER, Misled, with_other_numbers, with_triggers
from ...evaluation.episodes.served import ServedPlayer, is_served
from ..arguments.measurement import triggers_of
from ..arguments.placement import placement_of
from ..arguments.threat import FIELDS
from ..common.errors import UserError

SCRIPTED = "scripted"
# The option that each of these attacks needs, or takes.
OPTIONS = {TRIGGER: "triggers", NUMBERS: "token_trials"}


def moves_embeddings(attack: str | None) -> bool:
    return attack is not None and attack not in ON_TEXTS


def check_attack(arguments) -> None:
    """
    Check that the attack fits the model, and that each option of an attack has an effect.

    Raises:
        UserError: if not; names the option.
    """
    attack, served = arguments.attack, is_served(arguments.model)
    if attack is not None and arguments.model == SCRIPTED:
        raise UserError(f"`--attack` is on a model: give a model as `--model`, not {SCRIPTED}.")
    if served and moves_embeddings(attack):
        raise UserError(
            f"`--attack {attack}` moves the embeddings of a model, which a server does not offer: choose {' or '.join(ON_TEXTS)}."
        )
    for name in (*FIELDS, "attack_steps", "attack_restarts"):
        if not moves_embeddings(attack) and getattr(arguments, name) is not None:
            raise UserError(f"`--{name}` has no effect without an attack on embeddings: give such an `--attack`, too.")
    for needed, option in OPTIONS.items():
        if attack != needed and getattr(arguments, option) is not None:
            raise UserError(f"`--{option}` has no effect without `--attack {needed}`: give it, too.")
    if attack == TRIGGER and arguments.triggers is None:
        raise UserError(f"`--attack {TRIGGER}` needs `--triggers`: give a file that `aajr triggers` wrote.")
    triggers_of(arguments)
    _check_predictor(arguments)


def _check_predictor(arguments) -> None:
    if (arguments.attack == PREDICTED) != (arguments.predictor is not None):
        raise UserError(
            f"`--attack {PREDICTED}` and `--predictor` need each other: give both, with a file that `aajr screen --save` wrote."
        )
    if arguments.predictor is not None and not arguments.predictor.is_file():
        raise UserError(f"`--predictor`: there is no file {arguments.predictor}: write one with `aajr screen --save`.")


def check_sharing(arguments) -> None:
    """
    Check that agents can share caches, if they are to.

    Raises:
        UserError: if not; names the option.
    """
    if arguments.guard is not None and not arguments.share_cache:
        raise UserError("`--guard` has no effect without `--share_cache`: give it, too.")
    if not arguments.share_cache:
        return
    if arguments.model == SCRIPTED or is_served(arguments.model):
        raise UserError(
            "`--share_cache` needs the caches of a model that is loaded here: give its folder as `--model`."
        )
    for name in ("opponent", "attack", "device_map"):
        if getattr(arguments, name) is not None:
            raise UserError(f"`--{name}` cannot be used with `--share_cache`: leave one of them out.")


def players_of(arguments, world) -> list[Any]:
    """Return the players of the model's side and of the other side (or None); check that models accept the world."""
    from ...evaluation.agents import load_agent
    from ...evaluation.episodes.players import Experts, ModelPlayer
    from ...evaluation.episodes.sharing import SharingPlayer, told

    load = functools.cache(functools.partial(load_agent, **placement_of(arguments)))
    settings = {name: getattr(arguments, name) for name in ("temperature", "batch_size", "system_prompt")}
    world.reset(seed=0)
    rows = list((told(world) if arguments.share_cache else world.rows()).values())

    def player(path: str | None, attacked: bool):
        if path in (None, SCRIPTED):
            return Experts() if path else None
        if is_served(path):
            found = ServedPlayer(path, **settings)
        elif arguments.share_cache:
            found = SharingPlayer(*load(path), guard=_guard(arguments), **settings)
        else:
            found = ModelPlayer(*load(path), attack=_on_embeddings(arguments) if attacked else None, **settings)
        if attacked and arguments.attack in ON_TEXTS:
            found = Misled(found, _on_texts(arguments))
        found.check(rows)
        return found

    return [player(arguments.model, True), player(arguments.opponent, False)]


def _guard(arguments):
    """Return the guard of the caches, or None."""
    from ...evaluation.agents import device
    from ...guard.saving import load_guard

    if arguments.guard is None:
        return None
    try:
        return load_guard(arguments.guard).to(device())
    except ValueError as error:
        raise UserError(f"`--guard`: {error}") from error


def _on_texts(arguments):
    if arguments.attack == TRIGGER:
        return with_triggers(triggers_of(arguments))
    return with_other_numbers(arguments.token_trials)


def _on_embeddings(arguments):
    """Return the attack on the embeddings of the model; None without one."""
    from ...evaluation.agents import device
    from ...evaluation.attacks.predicted import GradientPredictor
    from ...evaluation.episodes.players import AttackSettings

    if not moves_embeddings(arguments.attack):
        return None
    predictor = arguments.predictor and GradientPredictor.load(arguments.predictor).to(device())
    how = (arguments.attack_steps, arguments.attack_restarts, predictor)
    return AttackSettings(arguments.threat, arguments.attack, *how)


def repeated_sentences(players: list[Any]) -> list[str]:
    """Return a sentence for each server that was asked again."""
    sentences = []
    for player in players:
        player = getattr(player, "player", player)
        if reasons := getattr(player, "repeated", None):
            sentences.append(
                f"{len(reasons)} requests to {player.address} were repeated, the last because of: {reasons[-1]}."
            )
    return sentences
