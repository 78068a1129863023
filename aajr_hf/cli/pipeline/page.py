"""The page of a pipeline: what each step found, and where to read more."""

from __future__ import annotations

import os
from pathlib import Path

from ...evaluation.files import replace_file
from ...evaluation.reporting.report import json_text, render_page
from .steps import STEPS, Pipeline, next_step

PAGE = "pipeline.html"
# The page of each step, below the folder of the pipeline.
_PAGES = {"measure": "monitor/monitor.html", "compare": "evaluation/report.html"}


def write_page(pipeline: Pipeline) -> None:
    """Write `pipeline.html` beside the results of the steps, atomically."""
    step, why = next_step(pipeline)
    found = {name: pipeline.read(file) if (pipeline.work / file).is_file() else None for name, file in STEPS.items()}
    pages = {name: page for name, page in _PAGES.items() if (pipeline.work / page).is_file()}
    content = render_page(
        "pipeline.html.j2",
        summary=summary_of(step, why, pipeline),
        steps=[(name, said_of(name, result), pages.get(name)) for name, result in found.items()],
        everything=json_text(found),
    )
    replace_file(pipeline.work / PAGE, content)


def summary_of(step: str | None, why: str, pipeline: Pipeline) -> str:
    if step is not None:
        return f"The pipeline is not at its end: the next step is {step}."
    return f"{why[0].upper()}{why[1:]}. In use: {_place(pipeline.settings.current)}."


def said_of(name: str, result: dict | None) -> str:
    """Return what a step found, as a sentence."""
    if result is None:
        return "not done"
    if name == "measure":
        return f"{'an alarm' if result['alarm'] else 'no alarm'} for {_place(result['agent'])}"
    if name == "train":
        return f"trained {_place(result['agent'])} with epsilon {result['epsilon']:.3g}"
    if name == "promote":
        return f"{_place(result['now'])} took the place of {_place(result['before'])}"
    return result["because"]


def _place(path: str | Path) -> str:
    """Return a path as seen from the current folder, if it is below it."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
