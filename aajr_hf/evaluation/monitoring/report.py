"""What a monitor knows: as sentences, as one web page, and as metrics for Prometheus."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ...training.sharing.results import MonitorNumbers, MonitorResults
from ..files import replace_file
from ..reporting.plots import WIDE, panels, render
from ..reporting.report import json_text, render_page
from ..reporting.results import interval_text, number_text, percent_text

PAGE, RESULTS = "monitor.html", "monitor.json"
# Range of the evidence that is shown.
_LEAST, _MOST = 1e-3, 1e6
# By name of a test: what has happened if it raises an alarm.
ALARMS = {
    "success": "the share of right answers has dropped",
    "surprise": "the words of the observations are less likely to the agent than before",
    "distance": "the agent's state before its answers is farther from the known ones than before",
}


def monitor_sentences(numbers: MonitorNumbers) -> list[str]:
    """Return alarms first, then what is known about success, observations and perturbations."""
    sentences = [
        f"ALARM at answer {test['alarm_at']}: {ALARMS[name]} (evidence {_evidence(test['highest'])}; an alarm needs "
        f"{number_text(test['needed'])})."
        for name, test in numbers["tests"].items()
        if test["alarm_at"] is not None
    ]
    if not sentences:
        strongest = max(numbers["tests"].values(), key=lambda test: test["highest"])
        sentences.append(
            f"No alarm in {numbers['answers']} answers: the evidence of a change was at most {number_text(strongest['highest'])}, "
            f"and an alarm needs {number_text(strongest['needed'])}."
        )
    if numbers["success"] is not None:
        expected = "" if numbers["expected"] is None else f"; expected: at least {percent_text(numbers['expected'])}%"
        sentences.append(
            f"{percent_text(numbers['success'])}% {interval_text(numbers['interval'])} of {numbers['judged']} answers are "
            f"right, {percent_text(numbers['recent_success'])}% of the newest{expected}."
        )
    else:
        sentences.append("No right answers are known, so only the observations are tested.")
    moved = numbers["moved"]
    if moved is not None:
        unknown = f"; of {moved['unmeasured']} others the length is unknown" if moved["unmeasured"] else ""
        sentences.append(
            f"{moved['measured']} prompts were changed, by {number_text(moved['median'])} mean embedding norms in the median, "
            f"{number_text(moved['quantile'])} in the 90 % quantile, {number_text(moved['largest'])} at most{unknown}."
        )
    return sentences


def _evidence(wealth: float) -> str:
    return number_text(wealth) if wealth < _MOST else "over a million"


def write_monitor(results: MonitorResults, folder: Path) -> None:
    """Write `monitor.json` and `monitor.html`, each atomically."""
    replace_file(folder / RESULTS, (json_text(results) + "\n").encode())
    replace_file(folder / PAGE, _page(results))


def _page(results: MonitorResults) -> bytes:
    image = render(lambda figure: _draw(figure, results), WIDE)
    headers = [
        ("test", ""),
        ("evidence", "now"),
        ("evidence", "at its highest"),
        ("an alarm", "needs"),
        ("alarm", "at answer"),
    ]
    rows = [
        [
            name,
            *(_evidence(test[field]) for field in ("evidence", "highest", "needed")),
            str(test["alarm_at"] or "-"),
        ]
        for name, test in results["tests"].items()
    ]
    return render_page(
        "monitor.html.j2",
        sentences=monitor_sentences(results),
        headers=headers,
        rows=rows,
        image=base64.b64encode(image).decode(),
        settings=results["settings"] | {"logs": ", ".join(results["settings"]["logs"])},
        everything=json_text({name: value for name, value in results.items() if name != "history"}),
    )


def _draw(figure: Figure, results: MonitorResults) -> None:
    left, right = panels(figure, ("success of the newest answers", "evidence of a change"))
    history = results["history"]
    answers = history["answers"]
    known = [(n, share) for n, share in zip(answers, history["recent_success"], strict=True) if share is not None]
    if known:
        left.plot(*zip(*known, strict=True), color="#0072B2")
    if results["expected"] is not None:
        left.axhline(results["expected"], color="0.35", linestyle=(0, (2, 2)), label="expected")
        left.legend(frameon=False)
    for (name, evidence), color in zip(history["evidence"].items(), ("#0072B2", "#D55E00", "#009E73"), strict=False):
        right.plot(answers, np.clip(evidence, _LEAST, _MOST), color=color, label=name)
    needed = max(test["needed"] for test in results["tests"].values())
    right.axhline(needed, color="0.35", linestyle=(0, (2, 2)), label="alarm")
    right.set(yscale="log", ylabel="evidence", ylim=(_LEAST / 2, 2 * _MOST))
    right.legend(frameon=False)
    left.set(ylim=(-3, 103), ylabel="% of answers")
    for axes in (left, right):
        axes.set_xlabel("answers")


def prometheus_text(results: MonitorNumbers, agent: str) -> str:
    """Return the numbers in Prometheus' text format, for a textfile collector."""
    label = f"agent={json.dumps(agent)}"
    lines = [
        *_metric("aajr_monitor_alarm", "gauge", "1 if a test has raised an alarm", {label: float(results["alarm"])}),
        *_metric("aajr_monitor_answers_total", "counter", "Answers that were read", {label: results["answers"]}),
    ]
    shares = {"success": results["success"], "recent_success": results["recent_success"]}
    for name, share in shares.items():
        if share is not None:
            lines += _metric(f"aajr_monitor_{name}_ratio", "gauge", "Share of right answers", {label: share / 100})
    evidence = {f'{label},test="{name}"': test["evidence"] for name, test in results["tests"].items()}
    lines += _metric("aajr_monitor_evidence", "gauge", "Evidence of a change", evidence)
    if results["moved"] is not None:
        lengths = {f'{label},statistic="{name}"': results["moved"][name] for name in ("median", "quantile", "largest")}
        lines += _metric("aajr_monitor_moved", "gauge", "Length of perturbations, in mean embedding norms", lengths)
    return "\n".join([*lines, ""])


def _metric(name: str, kind: str, text: str, values: dict[str, float]) -> list[str]:
    samples = [f"{name}{{{labels}}} {value:g}" for labels, value in values.items()]
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}", *samples]
