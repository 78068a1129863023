"""All attacks in one list, and their order: an agent's own gradients first, then what other models know."""

from __future__ import annotations

from typing import Protocol

from .ascent import Ascent
from .from_others import FromOthers
from .search import Search
from .without_gradients import RandomPoints, Transferred


class Attack(Protocol):
    """
    Attributes:
        name: What it is called in `--attacks`, tables and results.
        from_others: Whether it needs what was found on other models.
        every_example: Whether it attacks examples that are broken already, too.
    """

    name: str
    from_others: bool
    every_example: bool

    def __call__(self, search: Search) -> None:
        """Evaluate perturbations of all examples of the search, through its methods."""


# The agent's own gradient of the loss that breaks most agents, and the same from another start. What others find beyond the two, an
# attack that trusts this gradient does not: `trust.py`.
MAIN, CONTROL = "warm_nll", "restart"
# A further attack is one file and one line.
ATTACKS: dict[str, Attack] = {
    attack.name: attack
    for attack in (
        Ascent(MAIN, "warm_nll"),
        Ascent(CONTROL, "warm_nll", restart=1),
        RandomPoints(),
        Ascent("nll", "nll"),
        Ascent("tempered_nll", "tempered_nll"),
        Ascent("margin", "margin"),
        Ascent("scale_free_margin", "scale_free_margin"),
        Ascent("cost", "cost", every_example=True),
        Transferred(),
        FromOthers("from_others", "nll"),
    )
}
