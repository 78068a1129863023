"""The results of `rank_study.py` as JSON, a plot and a Markdown page."""

from __future__ import annotations

import io
import json
from pathlib import Path

from matplotlib.figure import Figure

from aajr_hf.evaluation.reporting.statistics import mean_interval

_COLUMNS = {
    "nominal_success": "nominal %",
    "worst_case_success": "worst case %",
    "sampled_worst_case_success": "sampled worst case %",
    "amplification": "amplification",
    "update_rank": "update rank",
    "train_seconds": "train s",
}


def label(run: dict) -> str:
    return "full" if run["rank"] is None else f"{run['adapter']} {run['rank']}"


def write_report(runs: list[dict], tuning: list[dict], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rank.json").write_text(json.dumps(runs, indent=2) + "\n")
    (folder / "rank_tuning.json").write_text(json.dumps(tuning, indent=2) + "\n")
    (folder / "rank.png").write_bytes(plot(runs))
    (folder / "rank.md").write_text(page(runs))


def page(runs: list[dict]) -> str:
    groups = _groups(runs)
    seeds = sorted({run["seed"] for run in runs})
    lines = [
        "# Does robustness need a high rank?",
        "",
        "`python scripts/rank_study.py` makes this page, `rank.json` and the plot again. One base agent of the world",
        "`congestion` is fine-tuned by `recipes/congestion/aajr.yaml` (lambda 6e-5, the penalty on half of each",
        f"batch) with each adapter and with seeds {', '.join(map(str, seeds))}. The agents are measured on held-out",
        "observations (greedy, 256 unless the command says otherwise), without an adversary and under all attacks of",
        "`aajr evaluate` at the training radius. The learning rate of each adapter is the best rate in",
        "`rank_tuning.json`, found with another seed on other observations. The table shows means with their 95 %",
        "confidence intervals (Student's t). *Update rank* is the number of directions that carry 99 % of a layer's",
        "update, averaged over layers. Times were measured with two runs at once, on one thread each, on a machine",
        "that also did other work.",
        "",
        f"| adapter | parameters | learning rate | {' | '.join(_COLUMNS.values())} |",
        "|---|---:|---:|" + "---:|" * len(_COLUMNS),
    ]
    for name, members in groups.items():
        cells = [_cell([run[column] for run in members]) for column in _COLUMNS]
        first = members[0]
        lines.append(
            f"| {name} | {first['trainable_parameters']:,} | {first['learning_rate']:g} | {' | '.join(cells)} |"
        )
    return "\n".join([*lines, "", "![success by adapter](rank.png)", "", *_claim(groups), ""])


def _groups(runs: list[dict]) -> dict[str, list[dict]]:
    groups: dict[str, list[dict]] = {}
    for run in runs:
        groups.setdefault(label(run), []).append(run)
    return groups


def _cell(values: list[float]) -> str:
    mean, half = mean_interval(values)
    digits = 0 if mean >= 200 else 1
    return f"{mean:.{digits}f}" if half is None else f"{mean:.{digits}f} ± {half:.{digits}f}"


def _claim(groups: dict[str, list[dict]]) -> list[str]:
    """Return whether the paper's claim holds here, from differences of worst-case success between paired seeds."""
    lora = {name: members for name, members in groups.items() if name.startswith("lora ")}
    if not lora:
        return []
    smallest, largest = list(lora)[0], list(lora)[-1]
    pairs = [(name, _same_budget(groups[name][0], lora)) for name in groups if name not in lora and name != "full"]
    comparisons = {
        "a LoRA of higher rank": [(largest, smallest)] if len(lora) > 1 else [],
        "adapters of full rank, with as many parameters": pairs,
        "full fine-tuning": [("full", largest)] if "full" in groups else [],
    }
    lines = [
        "## Does the claim hold?",
        "",
        "The paper holds that low-rank adapters cannot suppress adversarial directions, which span high-rank",
        "subspaces. So a higher rank should raise worst-case success. These are differences of worst-case success",
        "between runs of one seed, in points:",
        "",
    ]
    for what, found in comparisons.items():
        for name, reference in found:
            mean, half = _difference(groups[name], groups[reference])
            interval = "" if half is None else f" ± {half:.1f}"
            lines.append(f"- {what}: {name} against {reference} {mean:+.1f}{interval}: {_verdict(mean, half)}.")
    return lines


def _difference(runs: list[dict], references: list[dict]) -> tuple[float, float | None]:
    before = {run["seed"]: run["worst_case_success"] for run in references}
    return mean_interval([run["worst_case_success"] - before[run["seed"]] for run in runs if run["seed"] in before])


def _verdict(mean: float, half: float | None) -> str:
    if half is None:
        return "one seed shows nothing"
    if abs(mean) <= half:
        return "no difference is shown"
    return "the claim holds" if mean > 0 else "the claim fails"


def _same_budget(run: dict, lora: dict[str, list[dict]]) -> str | None:
    wanted = run["trainable_parameters"]
    return min(lora, key=lambda name: abs(lora[name][0]["trainable_parameters"] - wanted), default=None)


def plot(runs: list[dict]) -> bytes:
    """Plot nominal and worst-case success by adapter, each seed and the mean with its interval; return a PNG."""
    groups = _groups(runs)
    figure = Figure(figsize=(6.4, 1.2 + 0.36 * len(groups)), dpi=220, layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    rows = range(len(groups))
    for column, color, text, shift in (
        ("nominal_success", "#0072B2", "nominal", 0.12),
        ("worst_case_success", "#D55E00", "worst case at the training radius", -0.12),
    ):
        for row, members in zip(rows, groups.values(), strict=True):
            values = [run[column] for run in members]
            mean, half = mean_interval(values)
            axes.plot(values, [row + shift] * len(values), "o", color=color, markersize=2.5, alpha=0.4, linewidth=0)
            named = text if row == 0 else None
            axes.errorbar(
                mean, row + shift, xerr=half or 0, color=color, marker="D", markersize=4, capsize=2, label=named
            )
    axes.set_yticks(rows, [f"{name} ({members[0]['trainable_parameters']:,})" for name, members in groups.items()])
    axes.invert_yaxis()
    axes.set(xlim=(0, 100), xlabel="success (% of observations)", ylabel="adapter (trainable parameters)")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(frameon=False, loc="upper left")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
