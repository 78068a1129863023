"""The suite's answer: what each kind of attack leaves, and all attacks together."""

from __future__ import annotations

from rich.table import Table

from ...training.sharing.reading import attack_name, interval_text
from ...training.sharing.results import EvaluationResults, Run
from .results import headline, percent_text, share_text, times
from .statistics import wilson
from .tables import text_table

TITLE = "All attacks together"
# Of each kind of results: the share that attacks within a radius leave, and the one that all attacks leave.
_FIELDS = {
    "robustness": ("worst_case_success", "all_attacks_success"),
    "tool_calls": ("worst_case_exact", "all_attacks_exact"),
}


def together_note(results: EvaluationResults) -> str:
    """Return what the columns of the table mean."""
    right = "right answers" if results["kind"] == "robustness" else "exact calls"
    return (
        f"{right} in percent [95 % interval], by what the adversary may do: move embeddings by up to {times(headline(results))} the "
        "training epsilon, change words by one attack, or all of this (an example counts if no attack breaks it)."
    )


def together_cells(results: EvaluationResults) -> tuple[list[str], list[list[str]]]:
    """
    Return headers, and one row of text cells for each run under attacks in words: what attacks within the radius nearest to
    1 leave, what each attack in words leaves, and what all of them leave together.
    """
    (within, all_of_them), top = _FIELDS[results["kind"]], headline(results)
    measured = {name: run for name, run in results["runs"].items() if run.get(all_of_them)}
    words = list(dict.fromkeys(attack for run in measured.values() for attack in run["by_words"]))
    rows = [
        [
            name,
            share_text(run, within, top),
            *(_share(run["by_words"].get(attack), run) for attack in words),
            share_text(run, all_of_them, top),
        ]
        for name, run in measured.items()
    ]
    return ["run", f"embeddings, {times(top)}", *map(attack_name, words), "together"], rows


def together_tables(results: EvaluationResults) -> list[Table]:
    """Return the table for the terminal; none without attacks in words."""
    headers, rows = together_cells(results)
    return [text_table(headers, rows, TITLE, together_note(results))] if rows else []


def together_sentences(results: EvaluationResults) -> list[str]:
    """Return a sentence for each run under attacks in words."""
    _, field = _FIELDS[results["kind"]]
    what = "answers" if results["kind"] == "robustness" else "calls"
    top = headline(results)
    return [
        f"{name}: {share_text(run, field, top).replace(' ', '% ', 1)} of the {what} withstand all attacks together, at {times(top)} "
        "the training radius and in words."
        for name, run in results["runs"].items()
        if run.get(field)
    ]


def _share(share: float | None, run: Run) -> str:
    return "-" if share is None else f"{percent_text(share)} {interval_text(list(wilson(share, run['examples'])))}"
