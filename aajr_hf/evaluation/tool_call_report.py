"""Results of [`evaluate_tool_calls`] of several agents as a terminal table, plain sentences, JSON, a plot and one web page."""

from __future__ import annotations

import base64
import json
import math
from pathlib import Path
from typing import Any

from rich.table import Table

from ..training.tool_call_card import TOOL_CALL_PLOT
from .plots import draw_by_radius, render
from .report import chance_sentences, render_page, replace_file
from .results import number_text, percent_text, times
from .tables import text_table
from .tool_calls import FAILURES

_NUMBERS = ("nominal_valid", "nominal_exact", "nominal_nll", "reference_valid", "reference_exact", "embedding_norm")
_BY_MULTIPLE = ("worst_case_valid", "worst_case_exact", "worst_case_nll")


def tool_call_tables(results: dict[str, Any]) -> list[Table]:
    """
    Per run the percentages of valid and exact answers and their NLL, and why answers were not valid.

    Args:
        results: `{"runs": {name: numbers of evaluate_tool_calls}, "train_epsilon": float, "settings": {...}}`.
    """
    caption = (
        "Answers in percent: valid calls (exact ones).\n"
        f"worst Nx: attacked at N times the training epsilon, {results['train_epsilon']:g}."
    )
    failures = text_table(*_failure_cells(results), "Answers that are not valid, by reason")
    return [text_table(*_cells(results), caption=caption), failures]


def tool_call_sentences(results: dict[str, Any]) -> list[str]:
    """How far each run falls under the largest radius, which withstands best, and what no run could reach."""
    check_tool_call_results(results)
    runs, top = results["runs"], _multiples(results)[-1]

    def change(run: dict[str, Any], kind: str) -> str:
        before, after = (percent_text(run[f"nominal_{kind}"]), percent_text(run[f"worst_case_{kind}"][top]))
        if before == after:
            return f"stay at {before}%"
        verb = "fall" if run[f"worst_case_{kind}"][top] < run[f"nominal_{kind}"] else "rise"
        return f"{verb} from {before}% to {after}%"

    at = f"{times(top)} the training radius ({float(top) * results['train_epsilon']:g})"
    sentences = [
        f"{name}: at {at}, valid calls {change(run, 'valid')}, exact ones {change(run, 'exact')}."
        for name, run in runs.items()
    ]
    if len(runs) > 1:
        worst = {name: round(run["worst_case_exact"][top], 1) for name, run in runs.items()}
        leaders = [name for name in runs if worst[name] == max(worst.values())]
        best = percent_text(max(worst.values()))
        sentences.append(f"Most robust at {at}, with {best}% exact calls: {', '.join(leaders)}.")
    for name, run in runs.items():
        if min(run["reference_valid"], run["reference_exact"]) < 100:
            sentences.append(
                f"{name}: the reference answers themselves, as its chat template renders them, are "
                f"{percent_text(run['reference_valid'])}% valid and {percent_text(run['reference_exact'])}% exact: rows "
                "whose accepted answers break their schemas, or that the template cannot render."
            )
    return sentences + chance_sentences(results)


def check_tool_call_results(results: dict[str, Any]) -> None:
    """
    Raises:
        ValueError: if a number is not finite; names the run and the field.
    """
    for name, run in results["runs"].items():
        numbers = {field: run[field] for field in _NUMBERS}
        numbers |= {f"{field}.{m}": run[field][m] for field in _BY_MULTIPLE for m in _multiples(results)}
        for field, number in numbers.items():
            if not math.isfinite(number):
                raise ValueError(f"run {name!r}, field {field!r}: expected a finite number, got {number!r}")


def write_tool_call_report(results: dict[str, Any], folder: Path) -> None:
    """
    Write `results.json`, `tool_calls.png` and `report.html`, each atomically.

    Raises:
        ValueError: as [`check_tool_call_results`]; nothing is written then.
    """
    check_tool_call_results(results)
    everything = json.dumps(results, indent=2, allow_nan=False)
    fields = [(f"nominal_{kind}", f"worst_case_{kind}") for kind in ("valid", "exact")]
    label = "answers (% of examples)"
    image = render(
        lambda figure: draw_by_radius(
            figure, results, _multiples(results), *fields, "exact (dashed; solid: valid)", label
        )
    )
    headers, rows = _cells(results)
    failure_headers, failures = _failure_cells(results)
    page = render_page(
        "tool_calls.html.j2",
        sentences=tool_call_sentences(results),
        headers=headers,
        rows=rows,
        failure_headers=failure_headers,
        failures=failures,
        reasons=FAILURES,
        image=base64.b64encode(image).decode(),
        train_epsilon=results["train_epsilon"],
        settings=results["settings"],
        everything=everything,
    )
    replace_file(folder / "results.json", (everything + "\n").encode())
    replace_file(folder / TOOL_CALL_PLOT, image)
    replace_file(folder / "report.html", page)


def _multiples(results: dict[str, Any]) -> list[str]:
    return sorted({m for run in results["runs"].values() for m in run["worst_case_valid"]}, key=float)


def _cells(results: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    radii = _multiples(results)
    headers = ["run", "nominal\n%", *(f"worst {times(m)}\n%" for m in radii), "nom.\nNLL", f"NLL\n{times(radii[-1])}"]
    rows = []
    for name, run in results["runs"].items():
        shares = [(run["nominal_valid"], run["nominal_exact"])]
        shares += [(run["worst_case_valid"][m], run["worst_case_exact"][m]) for m in radii]
        percents = [f"{percent_text(valid)} ({percent_text(exact)})" for valid, exact in shares]
        rows.append([name, *percents, *map(number_text, (run["nominal_nll"], run["worst_case_nll"][radii[-1]]))])
    return headers, rows


def _failure_cells(results: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Per run and radius, how many answers were not valid for each reason."""
    names = [reason.replace("_", " ") for reason in FAILURES]
    rows = [
        [name, m if m == "nominal" else f"worst {times(m)}", *(str(run["failures"][m][reason]) for reason in FAILURES)]
        for name, run in results["runs"].items()
        for m in ("nominal", *_multiples(results))
    ]
    return ["run", "attack", *names], rows
