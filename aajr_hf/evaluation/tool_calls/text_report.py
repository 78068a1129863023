"""Tables and sentences about attacks that rewrite what users and tools say."""

from __future__ import annotations

from rich.table import Table

from ...training.sharing.reading import attack_name, interval_text
from ...training.sharing.results import TextTally, ToolCallResults
from ..reporting.results import percent_text
from ..reporting.statistics import wilson
from ..reporting.tables import text_table

TEXT_TITLE = "Attacks in words: what users and tools say is rewritten"
TEXT_NOTE = (
    "rows: rows that can be attacked; percent [95 % interval] of these. nominal, exact: exact calls without and under "
    "the attack. made: the call that the attack asks for is made. shuffled: the same words in random order, a control."
)


def text_cells(results: ToolCallResults) -> tuple[list[str], list[list[str]]]:
    """Return headers, and one row of text cells for each run, attack and kind."""
    rows = []
    for name, run in results["runs"].items():
        for attack, kinds in (run.get("text_attacks") or {}).items():
            for kind, tally in kinds.items():
                shares = [_share(tally, field) for field in ("nominal", "exact", "made")]
                rows.append([name, f"{attack_name(attack)}, {kind}", str(tally["rows"]), *shares])
    return ["run", "attack", "rows", "nominal", "exact", "made"], rows


def text_tables(results: ToolCallResults) -> list[Table]:
    """Return the table for the terminal; none if no attack rewrote texts."""
    headers, rows = text_cells(results)
    return [text_table(headers, rows, TEXT_TITLE, TEXT_NOTE, left=2)] if rows else []


def text_sentences(results: ToolCallResults) -> list[str]:
    """Return a sentence for each run and attack: what its kinds together leave, and how often they are obeyed."""
    sentences = []
    for name, run in results["runs"].items():
        for attack, kinds in (run.get("text_attacks") or {}).items():
            said = [_of_kind(kind, tally) for kind, tally in kinds.items() if tally["rows"]]
            what = "; ".join(said) if said else "no row can be attacked"
            sentences.append(f"{name}: {attack_name(attack)}: {what}.")
    return sentences


def _of_kind(kind: str, tally: TextTally) -> str:
    fall = f"exact calls {percent_text(tally['nominal'])}% before, {percent_text(tally['exact'])}% after"
    made = tally["made"]
    return f"{kind}: {fall}" + ("" if made is None else f", the injected call made in {percent_text(made)}%")


def _share(tally: TextTally, field: str) -> str:
    share = tally[field]
    if share is None or not tally["rows"]:
        return "-"
    return f"{percent_text(share)} {interval_text(list(wilson(share, tally['rows'])))}"
