"""Write results of several agents as terminal tables, JSON, plots and a self-contained web page."""

from __future__ import annotations

import base64
import json
import math
import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from rich.console import Group
from rich.text import Text

from ... import __version__
from ...training.sharing.reading import threat_model_line
from ...training.sharing.results import Results, RobustnessResults, RobustnessRun
from ..files import replace_file
from .attack_report import attack_cells, token_cells, trust_cells
from .by_class import class_cells, class_note
from .membership import HEADERS, membership_cells
from .nuisance import HEADERS as NUISANCE_HEADERS
from .nuisance import nuisance_cells, nuisance_note
from .plots import draw_plots
from .results import (
    DECODINGS,
    check_results,
    everything_but_outcomes,
    headline,
    multiples,
    number_text,
    percent_text,
    share_text,
    times,
    value,
)
from .shared_directions import draw_shared, shared_cells
from .stability_plots import draw_stability
from .stability_report import runs_with_stability, stability_cells, stability_sentences
from .summary import summary_sentences
from .tables import plain_table, text_table
from .text_report import text_cells, text_note
from .together import together_cells, together_note

_OTHER_COLUMNS = {
    ("nom.", "cost"): "nominal_cost",
    ("ampl.", "ascent"): "amplification",
    ("ampl.", "random"): "random_amplification",
    ("spectral", "norm"): "spectral_norm",
    ("train", "s"): "train_seconds",
}


def results_table(results: RobustnessResults) -> Group:
    """
    Make two tables of at most 100 columns: success in percent with intervals, two rows per run, and the threat model;
    then cost, amplification and training time.

    Returns:
        The tables. The best value of each success column is bold, and missing numbers are shown as "-".
    """
    headers, rows = success_cells(results)
    table = plain_table()
    # Do not fold names of usual length. If space is short, fold success first, between share and interval.
    short_names = max(map(len, results["runs"]), default=0) <= 24
    table.add_column("run", no_wrap=short_names, overflow="fold")
    table.add_column("decoding", no_wrap=True)
    for first, second in headers[2:]:
        table.add_column(f"{first}\n{second}", overflow="fold")
    for row in rows:
        # Text, not str: a run's name is not markup.
        table.add_row(*(Text(text, style="bold" if best else "") for text, best in row))
    headers, rows = other_cells(results)
    others = text_table(["\n".join(header) for header in headers], rows)
    return Group(table, *map(Text, notes(results)), "", others)


def notes(results: RobustnessResults) -> list[str]:
    """Return notes: the meaning of the success columns, and the threat model."""
    return [
        f"Success in percent [95 % interval]; sampled: at {_temperatures(results)}.",
        f"worst Nx: not broken by any attack within N times the training epsilon, {results['train_epsilon']:g}.",
        threat_model_line(results),
    ]


def _temperatures(results: RobustnessResults) -> str:
    each = results["settings"].get("temperatures")
    return f"temperature {', '.join(f'{t:.3g} ({name})' for name, t in each.items())}" if each else "temperature 1"


def write_json(results: RobustnessResults, path: str | Path) -> None:
    """
    Write the results as JSON, atomically; create folders as needed.

    Raises:
        ValueError: If a number is missing or not finite; names the run and the field. Nothing is written then.
    """
    check_results(results)
    replace_file(Path(path), (json_text(results) + "\n").encode())


def write_report(results: RobustnessResults, folder: str | Path) -> None:
    """
    Write the plots of [`draw_plots`], [`draw_stability`] and [`draw_shared`], and `report.html`, a page with summary, tables, plots and
    settings that needs no other file and no network. Each file is written atomically; the folder is created as needed.

    Raises:
        ValueError: If a number is missing or not finite; names the run and the field. Nothing is written then.
    """
    images = draw_plots(results) | draw_stability(results) | draw_shared(results)
    files = images | {"report.html": _page(results, images)}
    for name, content in files.items():
        replace_file(Path(folder) / name, content)


def _page(results: RobustnessResults, images: dict[str, bytes]) -> bytes:
    stability_headers, stability_rows = stability_cells(results)
    measured = runs_with_stability(results).values()
    return render_page(
        "report.html.j2",
        sentences=summary_sentences(results),
        success=success_cells(results),
        others=other_cells(results),
        notes=notes(results),
        tokens=token_cells(results),
        nuisances=(NUISANCE_HEADERS, nuisance_cells(results)),
        nuisance_note=nuisance_note(results),
        membership_headers=HEADERS,
        membership_rows=membership_cells(results),
        stability_headers=stability_headers,
        stability_rows=stability_rows,
        stability_sentences=stability_sentences(results),
        stability_steps=max((len(run["stability"]["shares"]["monotone"]) for run in measured), default=0),
        images={Path(name).stem: base64.b64encode(image).decode() for name, image in images.items()},
        top=times(headline(results)),
        **values_of_every_report(results),
    )


def values_of_every_report(results: Results) -> dict[str, Any]:
    """Return what the templates of all reports show of the attacks, their checks and the settings."""
    return {
        "attacks": attack_cells(results),
        "shared": shared_cells(results),
        "texts": text_cells(results),
        "text_note": text_note(results),
        "together": together_cells(results),
        "together_note": together_note(results),
        "classes": class_cells(results),
        "class_note": class_note(results),
        "checks": trust_cells(results),
        "train_epsilon": results["train_epsilon"],
        "settings": results["settings"],
        "everything": json_text(everything_but_outcomes(results)),
    }


def json_text(values: Any) -> str:
    """Return values as readable JSON, with each list of numbers on one line, because some are long."""
    text = json.dumps(values, indent=2, allow_nan=False)
    # This is safe, because strings in JSON cannot contain line breaks.
    return re.sub(r"\[\n[-+\d.eE,\s]*\]", lambda found: f"[{' '.join(found[0][1:-1].split())}]", text)


def render_page(template: str, **values) -> bytes:
    """Render a template of `templates/`. Values are escaped, and a missing value is an error."""
    folder = FileSystemLoader(Path(__file__).parent / "templates")
    environment = Environment(
        loader=folder, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(template).render(version=__version__, **values).encode()


def points_text(points: float, sign: str = "-") -> str:
    """Return points of success with one decimal place; `sign="+"` shows plus signs, too, but 0.0 has no sign."""
    return f"{round(points, 1):{sign if round(points, 1) else '-'}.1f}".replace("-0.0", "0.0")


def success_cells(results: RobustnessResults) -> tuple[list[tuple[str, str]], list[list[tuple[str, bool]]]]:
    """Return headers of two lines, and for each run and way of decoding the cells: text, and whether it is the best."""
    runs, radii = results["runs"], multiples(results)
    headers = [("run", ""), ("decoding", ""), ("nominal", "% [95 %]")]
    headers += [(f"worst {times(m)}", "% [95 %]") for m in radii]
    rows = []
    for name, run in runs.items():
        for decoding, (nominal, worst) in DECODINGS.items():
            cells = [(nominal, None), *((worst, m) for m in radii)]
            # The row above already shows the name of the run.
            row = [(name if decoding == "greedy" else "", False), (decoding, False)]
            for field, m in cells:
                row.append((share_text(run, field, m), percent_text(value(run, field, m)) == _best(runs, field, m)))
            rows.append(row)
    return headers, rows


def _best(runs: dict[str, RobustnessRun], field: str, multiple: str | None) -> str | None:
    """Return the highest share as shown text, so that shares that look equal are equally good."""
    shares = [value(run, field, multiple) for run in runs.values()]
    finite = [share for share in shares if share is not None and math.isfinite(share)]
    return percent_text(max(finite)) if finite else None


def other_cells(results: RobustnessResults) -> tuple[list[tuple[str, str]], list[list[str]]]:
    """Return headers of two lines, and for each run its cost, amplification and training time as text."""
    rows = [
        [name, *(number_text(run.get(field)) for field in _OTHER_COLUMNS.values())]
        for name, run in results["runs"].items()
    ]
    return [("run", ""), *_OTHER_COLUMNS], rows
