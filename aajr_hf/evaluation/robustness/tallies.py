"""Tallies of attacks, in the format of the results."""

from __future__ import annotations

from ...training.sharing.results import CallTally, SuccessTally
from ..attacks.run import Tally


def tally_numbers(by_radius: dict[str, Tally], examples: int, left: str = "success") -> SuccessTally | CallTally:
    """
    Return the tallies of one attack in the format of the results, with shares in percent of `examples`.

    Args:
        left: Name of the field for the share that is not broken.
    """
    found = {
        "attacked": {m: tally.attacked for m, tally in by_radius.items()},
        "broken": {m: tally.broken for m, tally in by_radius.items()},
        left: {m: 100 * tally.left / examples for m, tally in by_radius.items()},
    }
    alone = {m: 100 * tally.alone / examples for m, tally in by_radius.items() if tally.alone is not None}
    return found | ({"alone": alone} if alone else {})
