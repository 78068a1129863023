"""The threat model of a measurement: the one that the agents were trained against, or the one on the command line."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path

from ...evaluation.attacks.threat_model import ThreatModel
from ...training.config.choices import CHOICES
from ...training.config.recipe import RECIPE, recipe_in, with_radius
from ...training.config.sft import AAJRConfig
from ..common.errors import UserError, user_errors
from .options import ArgumentParser

FIELDS = tuple(field.name for field in fields(ThreatModel))
_HELP = {
    "epsilon_mode": "unit of epsilon: relative: the mean norm of the perturbed embeddings; absolute: that of the embeddings themselves",
    "perturbation_norm": "norm of the ball",
    "perturbation_scope": "sequence: one ball over all perturbed tokens; token: one ball for each token",
    "perturbed_tokens": "tokens that the adversary moves (default without a recipe: prompt, for tool calls observation)",
}


def add_threat(parser: ArgumentParser) -> None:
    """Add the options of the threat model."""
    group = parser.add_argument_group(
        "threat model",
        "The adversary moves the embeddings of the prompt's tokens within a ball. By default, each field has the value in the "
        "recipes of the agents, which must agree on it; without a recipe, the default of `aajr train`.",
    )
    group.add_argument("--epsilon", type=float, help="radius of the perturbation ball, in units of --epsilon_mode")
    for name, text in _HELP.items():
        group.add_argument(f"--{name}", choices=CHOICES[name], help=text)


def threat_of(arguments, models: Iterable[str], **defaults: str) -> ThreatModel:
    """
    Return the threat model. Each field comes from the options or, if not given there, from the recipes of the models.

    Args:
        models: Folders or Hub names.
        defaults: Values for fields that are in neither; by default, those of [`ThreatModel`].

    Raises:
        UserError: if epsilon is out of range, or the recipes disagree; names the field and the remedy.
    """
    if arguments.epsilon is not None and not 0 <= arguments.epsilon < float("inf"):
        raise UserError(f"`--epsilon` must be a finite number of at least 0; got {arguments.epsilon}.")
    with user_errors():
        trained = {model: _trained_against(Path(model)) for model in models}
    chosen = dict(defaults)
    for name in FIELDS:
        if getattr(arguments, name) is not None:
            chosen[name] = getattr(arguments, name)
            continue
        found = {model: against[name] for model, against in trained.items() if against}
        if len(set(found.values())) > 1:
            listed = ", ".join(f"{value} ({model})" for model, value in found.items())
            raise UserError(
                f"`{name}`: the agents were trained against different adversaries, {listed}: choose one for all "
                f"of them with `--{name}`."
            )
        if found:
            chosen[name] = next(iter(found.values()))
    return ThreatModel(**chosen)


def _trained_against(folder: Path) -> dict[str, float | str] | None:
    """Return the threat model fields of a recipe; None without a recipe or an adversary."""
    if not (folder / RECIPE).is_file():
        return None
    recipe = with_radius(recipe_in(folder))
    found = {name: recipe.get(name, getattr(AAJRConfig, name)) for name in FIELDS}
    for name in _HELP:
        if found[name] not in list(CHOICES[name]):  # a list, because values from YAML may be unhashable
            known = ", ".join(CHOICES[name])
            raise ValueError(f"{folder / RECIPE}: `{name}` must be one of {known}; got {found[name]!r}.")
    try:
        epsilon = float(found["epsilon"])
    except (TypeError, ValueError):
        epsilon = math.nan
    if not 0 <= epsilon < math.inf:
        raise ValueError(
            f"{folder / RECIPE}: `epsilon` must be a finite number of at least 0; got {found['epsilon']!r}."
        )
    return found | {"epsilon": epsilon} if epsilon > 0 else None
