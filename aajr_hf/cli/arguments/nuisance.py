"""The option `--nuisance`: its default, its limits, and its rows."""

from __future__ import annotations

from typing import Any

from ...environments import held_out_rows
from ...training.data.variants import DRAWS
from ..common.errors import UserError
from .validators import check_at_least_one

# Number of directions, as `nuisance_rank` has it in training.
NUISANCE_RANK = 32


def check_nuisance(arguments) -> None:
    """
    Check the option.

    Raises:
        UserError: if it is out of range, or there are too few examples for two halves.
    """
    if arguments.nuisance is None:
        return
    check_at_least_one(arguments, "nuisance")
    if arguments.examples < 2:
        raise UserError("`--nuisance` compares two halves of the observations: raise `--examples` to 2 or more.")


def nuisance_rows(world: str, examples: int, seed: int) -> list[dict[str, Any]]:
    """
    Return the held-out rows of a world with their variants.

    Raises:
        UserError: if the world has no variants.
    """
    rows = held_out_rows(world, examples, seed=seed, variants=DRAWS)
    if not any(row["variants"] for row in rows):
        raise UserError(f"`--nuisance`: the world {world} has no variants of its observations: leave out this option.")
    return rows
