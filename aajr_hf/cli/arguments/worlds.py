"""The world in which agents are measured: the one given by the user, or the one that the agents were made for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

import yaml

from ...environments import WORLDS, TextWorld
from ...training.config.recipe import RECIPE
from ..common.errors import UserError

WORLD_HELP = f"world: {', '.join(WORLDS)} (default: the one that the agents were made for)"


def check_agents(world: type[TextWorld], number: int) -> None:
    """
    Check `--agents`.

    Raises:
        UserError: if the world does not take this number of agents.
    """
    if not world.fewest_agents <= number <= world.most_agents:
        raise UserError(f"`--agents` must be from {world.fewest_agents} to {world.most_agents}; got {number}.")


def world_for(models: Iterable[str], wanted: str | None, field: str = "`--env`") -> str:
    """
    Return the world for these models.

    Args:
        models: Folders or Hub names. All models whose world is known must have the same world.
        wanted: World given by the user; None for the world of the models, or `congestion` if it is unknown.
        field: Field or option of `wanted`, for error messages.

    Raises:
        UserError: if the given world or the world of a model is unknown, or the worlds differ.
    """
    if wanted is not None and wanted not in WORLDS:
        raise UserError(f"{field} must be one of {', '.join(WORLDS)}; got {wanted!r}.")
    world, of = wanted, field
    for model in models:
        made_for = _made_for(Path(model))
        if made_for is None:
            continue
        if world is not None and made_for != world:
            raise UserError(
                f"{model} was trained for the world {made_for}, but {of} is {world}: give matching agents and world."
            )
        world, of = made_for, f"the world of {model}"
    return world or "congestion"


def _made_for(folder: Path) -> str | None:
    """
    Return the world of a model, from the recipe of its run or from the configuration that `aajr init-agent` wrote.

    Raises:
        UserError: if the world does not exist, because in another world the results would be meaningless.
    """
    for name, key in ((RECIPE, "environment"), ("config.json", "aajr_environment")):
        # Ignore unreadable files here: loading the model reports them.
        with contextlib.suppress(OSError, ValueError, yaml.YAMLError):
            content = yaml.safe_load((folder / name).read_text(encoding="utf-8"))
            if isinstance(content, dict) and (world := content.get(key)) is not None:
                if world not in list(WORLDS):  # a list, because values from YAML may be unhashable
                    raise UserError(
                        f"{folder / name}: `{key}` is {world!r}, which is not a known world: give an agent of one of "
                        f"{', '.join(WORLDS)}."
                    )
                return world
    return None
