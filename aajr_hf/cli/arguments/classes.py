"""The classes of an evaluation: those of the command line, or those that the agents' radii depended on."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ...training.config.recipe import RECIPE, recipe_in
from ...training.data.long_tail import FROM_ANSWER, class_of
from ..common.errors import UserError, user_errors


def class_column_of(arguments, models: Iterable[str]) -> str | None:
    """
    Return `--class_column`, or without it the `class_column` of the first agent whose recipe has a `long_tail_alpha`, or None.

    Raises:
        UserError: if a recipe cannot be read.
    """
    wanted = getattr(arguments, "class_column", None)  # only aajr evaluate has the option
    if wanted is not None:
        return wanted
    for folder in map(Path, models):
        with user_errors():
            recipe = recipe_in(folder) if (folder / RECIPE).is_file() else {}
        if recipe.get("long_tail_alpha"):
            return recipe.get("class_column", FROM_ANSWER)
    return None


def classes_of(rows: list[dict[str, Any]], column: str) -> list[str]:
    """
    Return the class of each row.

    Raises:
        UserError: if the rows have no such column.
    """
    try:
        return [class_of(row, column) for row in rows]
    except ValueError as error:
        raise UserError(f"`--class_column`: {str(error).removeprefix('`class_column`: ')}") from error
