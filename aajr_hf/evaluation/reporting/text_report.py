"""Tables and sentences about attacks that rewrite what users and tools say."""

from __future__ import annotations

from rich.table import Table

from ...training.sharing.reading import attack_name, interval_text
from ...training.sharing.results import EvaluationResults, TextTally
from .results import percent_text
from .statistics import wilson
from .tables import text_table

_FIELDS = ("nominal", "exact", "made")
TEXT_TITLE = "Attacks in words: what users and tools say is rewritten"
_KINDS = "shuffled, random: controls, the same words in random order, and the best of random triggers at the cost of the search."
_NOTES = {
    "tool_calls": "rows: rows that can be attacked; percent [95 % interval] of these. nominal, exact: exact calls without and "
    f"under the attack. made: the call that the attack asks for is made. {_KINDS}",
    "robustness": "rows: rows that can be attacked; percent [95 % interval] of these. nominal, right: right answers without and "
    f"under the attack. {_KINDS}",
}


def text_note(results: EvaluationResults) -> str:
    """Return what the columns of the table mean."""
    return _NOTES[results["kind"]]


def text_cells(results: EvaluationResults) -> tuple[list[str], list[list[str]]]:
    """Return headers, and one row of text cells for each run, attack and kind."""
    fields = {"nominal": "nominal", "exact": "right"} if _of_world(results) else {f: f for f in _FIELDS}
    rows = []
    for name, run in results["runs"].items():
        for attack, kinds in (run.get("text_attacks") or {}).items():
            for kind, tally in kinds.items():
                shares = [_share(tally, field) for field in fields]
                rows.append([name, f"{attack_name(attack)}, {kind}", str(tally["rows"]), *shares])
    return ["run", "attack", "rows", *fields.values()], rows


def text_tables(results: EvaluationResults) -> list[Table]:
    """Return the table for the terminal; none if no attack rewrote texts."""
    headers, rows = text_cells(results)
    return [text_table(headers, rows, TEXT_TITLE, text_note(results), left=2)] if rows else []


def text_sentences(results: EvaluationResults) -> list[str]:
    """Return a sentence for each run and attack: what its kinds together leave, and how often they are obeyed."""
    sentences, what = [], "right answers" if _of_world(results) else "exact calls"
    for name, run in results["runs"].items():
        for attack, kinds in (run.get("text_attacks") or {}).items():
            said = [_of_kind(kind, tally, what) for kind, tally in kinds.items() if tally["rows"]]
            sentences.append(f"{name}: {attack_name(attack)}: {'; '.join(said) or 'no row can be attacked'}.")
    return sentences


def _of_world(results: EvaluationResults) -> bool:
    return results["kind"] == "robustness"


def _of_kind(kind: str, tally: TextTally, what: str) -> str:
    fall = f"{what} {percent_text(tally['nominal'])}% before, {percent_text(tally['exact'])}% after"
    made = tally["made"]
    return f"{kind}: {fall}" + ("" if made is None else f", the injected call made in {percent_text(made)}%")


def _share(tally: TextTally, field: str) -> str:
    share = tally[field]
    if share is None or not tally["rows"]:
        return "-"
    return f"{percent_text(share)} {interval_text(list(wilson(share, tally['rows'])))}"
