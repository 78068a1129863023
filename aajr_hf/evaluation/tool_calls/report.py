"""Report results of [`evaluate_tool_calls`] as terminal tables, sentences, JSON, a plot and a web page."""

from __future__ import annotations

import base64
from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text

from ...training.sharing.reading import threat_model_line, trust_sentence
from ...training.sharing.results import ToolCallResults, ToolCallRun
from ...training.sharing.tool_call_card import TOOL_CALL_PLOT
from ..files import replace_file
from ..reporting.attack_report import attack_tables
from ..reporting.by_class import class_tables
from ..reporting.plots import WIDE, draw_by_radius, render
from ..reporting.report import json_text, render_page, values_of_every_report
from ..reporting.results import (
    check_common,
    check_numbers,
    check_shares,
    difference,
    headline,
    multiples,
    number_text,
    paths,
    percent_text,
    share_text,
    times,
    value,
)
from ..reporting.shared_directions import shared_sentences
from ..reporting.tables import text_table
from ..reporting.text_report import text_sentences, text_tables
from ..reporting.together import together_sentences, together_tables
from .judge import FAILURES

_NUMBERS = ("nominal_valid", "nominal_exact", "nominal_nll", "reference_valid", "reference_exact", "embedding_norm")
_BY_MULTIPLE = ("worst_case_valid", "worst_case_exact", "worst_case_nll")
_KINDS = {kind: (f"nominal_{kind}", f"worst_case_{kind}") for kind in ("valid", "exact")}
_PANELS = {f"{kind} calls": fields for kind, fields in _KINDS.items()}


def tool_call_tables(results: ToolCallResults) -> list[RenderableType]:
    """
    Return tables of valid and exact answers and their NLL, of the attacks within a radius and in words, and of the
    reasons of invalid answers.
    """
    failures = text_table(*_failure_cells(results), "Invalid answers by reason")
    table = text_table(*_cells(results), left=2)
    tables = [Group(table, *map(Text, _notes(results))), *attack_tables(results), *text_tables(results)]
    tables += [*together_tables(results), *class_tables(results), failures]
    return [Group(table, "") for table in tables]


def _notes(results: ToolCallResults) -> list[str]:
    return [
        "Answers in percent [95 % interval]. NLL: negative log-likelihood of the reference answer, nats per token.",
        f"worst Nx: not broken by any attack within N times the training epsilon, {results['train_epsilon']:g}.",
        threat_model_line(results),
    ]


def tool_call_sentences(results: ToolCallResults) -> list[str]:
    """
    Return the sentences, in this order: whether the results under attack can be trusted; the drop of each run at the
    training radius; the most robust run; what attacks in words leave, and all attacks together; limits from the reference answers; what prompts
    share.
    """
    check_tool_call_results(results)
    runs, top = results["runs"], headline(results)
    at = f"{times(top)} the training radius ({float(top) * results['train_epsilon']:g})"
    sentences = [trust_sentence(results)]
    sentences += [
        f"{name}: at {at}, valid calls {_change(run, 'valid', top)}, exact ones {_change(run, 'exact', top)}."
        for name, run in runs.items()
    ]
    if len(runs) > 1:
        sentences.append(f"Most robust at {at}, {_most_robust(runs, top)}.")
    sentences += text_sentences(results) + together_sentences(results)
    for name, run in runs.items():
        if min(run["reference_valid"], run["reference_exact"]) < 100:
            sentences.append(
                f"{name}: the reference answers, rendered by its chat template, are only "
                f"{percent_text(run['reference_valid'])}% valid and {percent_text(run['reference_exact'])}% exact: some "
                "accepted answers break their schemas, or the template cannot render them."
            )
    return sentences + shared_sentences(results)


def _change(run: ToolCallRun, kind: str, top: str) -> str:
    before, after = (percent_text(run[f"nominal_{kind}"]), percent_text(run[f"worst_case_{kind}"][top]))
    if before == after:
        return f"stay at {before}%"
    verb = "fall" if run[f"worst_case_{kind}"][top] < run[f"nominal_{kind}"] else "rise"
    return f"{verb} from {before}% to {after}%"


def _most_robust(runs: dict[str, ToolCallRun], top: str) -> str:
    ordered = sorted(runs, key=lambda name: -runs[name]["worst_case_exact"][top])
    best = percent_text(runs[ordered[0]]["worst_case_exact"][top])
    leaders = [name for name in runs if percent_text(runs[name]["worst_case_exact"][top]) == best]
    words = f"with {best}% exact calls: {', '.join(leaders)}"
    if len(leaders) > 1:
        return words
    lead = difference(runs[ordered[0]], runs[ordered[1]], "worst_case_exact", top)
    return f"{words}; {lead.points:.1f} points ahead of {ordered[1]} {lead.chance_text()}"


def check_tool_call_results(results: ToolCallResults) -> None:
    """
    Check that a report can show the results.

    Raises:
        ValueError: if the version or kind is wrong, or a number is missing or not finite; names the run and the field.
    """
    check_common(results, "tool_calls")
    radii = multiples(results)
    nominal, worst = zip(*_KINDS.values(), strict=True)
    for name, run in results["runs"].items():
        numbers = {field: run.get(field) for field in (*_NUMBERS, "examples")}
        numbers |= {f"{field}.{m}": value(run, field, m) for field in _BY_MULTIPLE for m in radii}
        for measured in ("attacks", "shared_directions"):
            numbers |= paths(run.get(measured, {}), measured)
        check_numbers(name, numbers)
        check_shares(name, run, nominal, worst, radii)


def write_tool_call_report(results: ToolCallResults, folder: Path) -> None:
    """
    Write `results.json`, `tool_calls.png` and `report.html`, each atomically.

    Raises:
        ValueError: as [`check_tool_call_results`]; nothing is written then.
    """
    check_tool_call_results(results)
    radii, label = multiples(results), "answers (% of examples)"
    image = render(lambda figure: draw_by_radius(figure, results, radii, _PANELS, label), WIDE)
    page = render_page(
        "tool_calls.html.j2",
        sentences=tool_call_sentences(results),
        answers=_cells(results),
        notes=_notes(results),
        failures=_failure_cells(results),
        reasons=FAILURES,
        image=base64.b64encode(image).decode(),
        **values_of_every_report(results),
    )
    replace_file(folder / "results.json", (json_text(results) + "\n").encode())
    replace_file(folder / TOOL_CALL_PLOT, image)
    replace_file(folder / "report.html", page)


def _cells(results: ToolCallResults) -> tuple[list[str], list[list[str]]]:
    """Return headers, and two rows per run: valid calls with the NLL of both rows, and exact calls."""
    radii = multiples(results)
    headers = ["run", "calls", "nominal\n% [95 %]", *(f"worst {times(m)}\n% [95 %]" for m in radii)]
    rows = []
    for name, run in results["runs"].items():
        nlls = [number_text(run["nominal_nll"]), number_text(run["worst_case_nll"][radii[-1]])]
        for kind, (nominal, worst) in _KINDS.items():
            shares = [share_text(run, nominal), *(share_text(run, worst, m) for m in radii)]
            # The row above already shows the name and the NLL of the run.
            first = kind == "valid"
            rows.append([name if first else "", kind, *shares, *(nlls if first else ["", ""])])
    return [*headers, "nom.\nNLL", f"NLL\n{times(radii[-1])}"], rows


def _failure_cells(results: ToolCallResults) -> tuple[list[str], list[list[str]]]:
    """Return the number of invalid answers for each reason, by run and radius."""
    names = [reason.replace("_", " ") for reason in FAILURES]
    rows = [
        [name, m if m == "nominal" else f"worst {times(m)}", *(str(run["failures"][m][reason]) for reason in FAILURES)]
        for name, run in results["runs"].items()
        for m in ("nominal", *multiples(results))
    ]
    return ["run", "attack", *names], rows
