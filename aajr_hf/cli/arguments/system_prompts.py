"""The system prompt of a measurement: the one on the command line, or the one that the agents were trained with."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ...training.config.recipe import RECIPE, recipe_in
from ...training.data.system_prompts import read_system_prompt
from ..common.errors import UserError, user_errors
from .options import ArgumentParser


def add_system_prompt(parser: ArgumentParser) -> None:
    """Add the option `--system_prompt`."""
    parser.add_argument(
        "--system_prompt",
        metavar="FILE",
        help="text file (UTF-8) with a system prompt, put before every observation; use it with --perturbed_tokens observation, "
        'so that the adversary does not perturb the system prompt itself (default: as in the recipes of the agents; "" for none)',
    )


def system_prompt_for(models: Iterable[str], wanted: str | None) -> str | None:
    """
    Return the text of the system prompt for these models, or None.

    Args:
        models: Folders or Hub names. All models that were trained in a world must have the same system prompt.
        wanted: File given by the user; empty for no system prompt; None for the system prompt of the models.

    Raises:
        UserError: if a file cannot be used, or the system prompts differ.
    """
    if wanted is not None:
        return _read(wanted, "`--system_prompt`")
    found: dict[str | None, str] = {}
    for model in models:
        recipe = _recipe(Path(model))
        if recipe.get("environment") is not None:
            file = recipe.get("system_prompt")
            found.setdefault(_read(file, f"{Path(model) / RECIPE}: `system_prompt`"), model)
    if len(found) > 1:
        raise UserError(
            f"{' and '.join(found.values())} were trained with different system prompts: choose one for all agents with "
            '`--system_prompt FILE`, or `--system_prompt ""` for none.'
        )
    return next(iter(found), None)


def _recipe(folder: Path) -> dict:
    if not (folder / RECIPE).is_file():
        return {}
    with user_errors():
        return recipe_in(folder)


def _read(file: str | None, field: str) -> str | None:
    if file is None or file == "":
        return None
    if not isinstance(file, str):
        raise UserError(f"{field} must be the name of a text file; got {file!r}.")
    try:
        return read_system_prompt(file)
    except ValueError as error:
        raise UserError(f"{field}: {error}") from error
