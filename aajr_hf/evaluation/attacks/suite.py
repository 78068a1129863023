"""All attacks, in the order in which they run. Those that need other agents come last."""

from __future__ import annotations

from typing import Protocol

from .ascent import Ascent
from .from_others import FromOthers
from .incidental import IncidentalWords
from .injection import InjectedRequests
from .learnt import Learnt
from .lessons import PREDICTED, UNIVERSAL
from .rewriting import TextAttack
from .search import Search
from .trigger import Triggers
from .without_gradients import RandomPoints, Transferred


class Attack(Protocol):
    """
    An attack on the examples of a [`Search`].

    Attributes:
        name: Name of the attack in `--attacks`, tables and results.
        from_others: Whether the attack needs perturbations found on other models.
        every_example: Whether the attack also sees examples that are already broken.
    """

    name: str
    from_others: bool
    every_example: bool

    def __call__(self, search: Search) -> None:
        """Evaluate perturbations of all examples of the search, using the methods of the search."""


# The main attack follows the agent's own gradient of the loss that breaks most agents. The control attack does the
# same from another start. `trust.py` checks that no other attack finds much more than these two.
MAIN, CONTROL = "warm_nll", "restart"
# To add an attack, write one file and add one line here.
ATTACKS: dict[str, Attack] = {
    attack.name: attack
    for attack in (
        Ascent(MAIN, "warm_nll"),
        Ascent(CONTROL, "warm_nll", restart=1),
        RandomPoints(),
        Learnt(UNIVERSAL),
        Learnt(PREDICTED),
        Ascent("nll", "nll"),
        Ascent("tempered_nll", "tempered_nll"),
        Ascent("margin", "margin"),
        Ascent("scale_free_margin", "scale_free_margin"),
        Ascent("cost", "cost", every_example=True),
        Transferred(),
        FromOthers("from_others", "nll"),
    )
}
# Attacks that rewrite what users and tools say.
TEXT_ATTACKS: dict[str, TextAttack] = {
    attack.name: attack for attack in (Triggers(), InjectedRequests(), IncidentalWords())
}
