"""The world that agents are measured in: the one that is asked for, or the one that they were made for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

import yaml

from ...environments import WORLDS
from ..common.errors import UserError

WORLD_HELP = f"world: {', '.join(WORLDS)} (default: the one that the agents were made for)"


def world_for(models: Iterable[str], wanted: str | None, field: str = "`--env`") -> str:
    """
    The world for these models, folders or Hub names.

    Args:
        models: Those that are known to be made for a world must agree on it.
        wanted: The world that was asked for; None for the models' own, or `congestion` where none is known.
        field: What it was asked for by.

    Raises:
        UserError: for an unknown world, asked for or of a model, and for models of different ones.
    """
    if wanted is not None and wanted not in WORLDS:
        raise UserError(f"{field}: there is no world {wanted!r}: choose one of {', '.join(WORLDS)}.")
    world, of = wanted, field
    for model in models:
        made_for = _made_for(Path(model))
        if made_for is None:
            continue
        if world is not None and made_for != world:
            raise UserError(
                f"{model} was trained for the world {made_for}, {of} is {world}: give agents and world that match."
            )
        world, of = made_for, f"that of {model}"
    return world or "congestion"


def _made_for(folder: Path) -> str | None:
    """
    What the recipe of its run says, or else what `aajr init-agent` left in its configuration.

    Raises:
        UserError: for a world that there is not: in another one the model would be measured on what it was not made for.
    """
    for name, key in (("recipe.yaml", "environment"), ("config.json", "aajr_environment")):
        # Of a file that cannot be read, whoever loads the model says so.
        with contextlib.suppress(OSError, ValueError, yaml.YAMLError):
            content = yaml.safe_load((folder / name).read_text(encoding="utf-8"))
            if isinstance(content, dict) and (world := content.get(key)) is not None:
                if world not in list(WORLDS):  # a list, because YAML's values need not have a hash
                    raise UserError(
                        f"{folder / name}: `{key}` is {world!r}, and there is no such world: give an agent of one of "
                        f"{', '.join(WORLDS)}."
                    )
                return world
    return None
