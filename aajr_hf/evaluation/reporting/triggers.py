"""The table of triggers that were found."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from ...training.data.triggers import Trigger
from ...training.sharing.reading import interval_text
from .results import percent_text
from .statistics import paired_difference, wilson
from .tables import text_table

_NOTE = (
    "right: right answers on other rows in percent [95 % interval]: without a trigger, with this one, and with the best of random\n"
    "triggers whose search costs as much. p: exact McNemar test of this trigger against the random one."
)


def trigger_table(triggers: Sequence[Trigger], outcomes: Sequence[Sequence[Sequence[bool]]]) -> Table:
    """Return the table, given for each trigger whether each answer is right with it, and with the random one."""
    rows = []
    for one, (found, random) in zip(triggers, outcomes, strict=True):
        p = paired_difference([float(x) for x in found], [float(x) for x in random]).p
        shares = [_share(share, one.examples) for share in (one.nominal, one.left, one.random)]
        rows.append([one.text, f"{one.fluency:g}", *shares, "-" if p is None else f"{p:.3f}"])
    headers = ["trigger", "fluency", "right\nwithout", "right\nwith", "right\nrandom", "p"]
    return text_table(headers, rows, "Triggers", _NOTE)


def _share(share: float, examples: int) -> str:
    return f"{percent_text(share)} {interval_text(list(wilson(share, examples)))}"
