"""The ratios of `benchmark.py`, and its tables: aligned Markdown that is also readable in a terminal."""

from __future__ import annotations

import statistics
from typing import NamedTuple


class Ratio(NamedTuple):
    """The cost of one way of training, divided by the cost of another."""

    name: str
    quantity: str  # "time", "memory", or "share" of one way's own time
    numerator: str
    denominator: str
    target: float | None = None


RATIOS = (
    Ratio("plain_vs_sft", "time", "plain", "sft", 1.02),
    Ratio("adversarial_vs_sft", "time", "adversarial", "sft", 3.1),
    Ratio("exact_vs_adversarial", "time", "exact", "adversarial", 3.0),
    Ratio("exact_vs_adversarial_checkpointed", "time", "exact_checkpointed", "adversarial_checkpointed"),
    Ratio("finite_difference_vs_adversarial", "time", "finite_difference", "adversarial"),
    Ratio("amortised_vs_adversarial", "time", "amortised", "adversarial_and_clean", 1.05),
    Ratio("global_spectral_vs_adversarial", "time", "global_spectral", "adversarial"),
    Ratio("adversarial_vs_sign_loop", "time", "adversarial", "sign_loop"),
    Ratio("amortised_vs_sign_loop", "time", "amortised", "sign_loop"),
    Ratio("amortised_vs_sft", "time", "amortised", "sft"),
    Ratio("exact_memory_vs_adversarial", "memory", "exact_checkpointed", "adversarial_checkpointed", 1.25),
    Ratio("exact_memory_vs_adversarial_unchecked", "memory", "exact_checkpointed", "adversarial"),
    Ratio("amortised_memory_vs_adversarial", "memory", "amortised", "adversarial_and_clean"),
    Ratio("monitoring_of_adversarial", "share", "adversarial", "adversarial", 0.01),
    Ratio("monitoring_of_exact", "share", "exact", "exact", 0.01),
)


_LEGEND = (
    "Peak: memory above the loaded model (activations, gradients, optimizer state); act.: activations, which is\n"
    "memory above weights, gradients and optimizer state. GFLOP: operations of one optimizer step; F is a forward\n"
    "with logits only at the action's positions. Time ratios: medians over rounds of the ratio within a round;\n"
    "memory ratios: ratios of the peaks. Monitoring: the share of the host's time that the metrics of the inner\n"
    "ascent take."
)


def ratios(variants: dict[str, dict]) -> dict[str, float | None]:
    """Return the ratios between the measured variants; None if time or memory was not measured."""
    measured = [ratio for ratio in RATIOS if {ratio.numerator, ratio.denominator} <= variants.keys()]
    return {ratio.name: _ratio(ratio, variants[ratio.numerator], variants[ratio.denominator]) for ratio in measured}


def _ratio(ratio: Ratio, numerator: dict, denominator: dict) -> float | None:
    if ratio.quantity == "share":
        return numerator["monitoring_share"]
    quantity = "step_seconds" if ratio.quantity == "time" else "memory"
    if numerator[quantity] is None or denominator[quantity] is None:
        return None
    if ratio.quantity == "time":
        pairs = zip(numerator["step_seconds"]["rounds"], denominator["step_seconds"]["rounds"], strict=True)
        return statistics.median(above / below for above, below in pairs)
    return numerator["memory"]["above_model_mib"] / denominator["memory"]["above_model_mib"]


def report(result: dict) -> str:
    """Return all tables of a result, as Markdown."""
    facts = result["machine"]
    head = (
        f"{facts['cpu']}, {facts['cores']} cores, {facts['threads']} threads, {facts['ram_gib']} GiB; "
        f"device {facts['device']}.\nPython {facts['python']}, torch {facts['torch']}, "
        f"transformers {facts['transformers']}, TRL {facts['trl']}; commit {result['commit']}."
    )
    parts = [head, _LEGEND]
    for name, case in result["cases"].items():
        parts += [f"### {name}", describe(case["shape"]), variant_table(case), ratio_table(case["ratios"])]
    if len(result["cases"]) > 1:
        parts += ["### Ratios by case", case_table(result["cases"])]
    return "\n\n".join(parts) + "\n"


def describe(shape: dict) -> str:
    model = shape["model"]
    return (
        f"Llama of {shape['layer_parameters'] / 1e6:.1f} M parameters in {model['layers']} layers of width "
        f"{model['hidden']} ({shape['parameters'] / 1e6:.1f} M with tied\nembeddings), vocabulary "
        f"{shape['vocabulary']:,}, {shape['batch']} examples of {shape['length']} tokens, "
        f"{shape['action_tokens']} of them actions; K = {shape['ascent_steps']}."
    )


def variant_table(case: dict) -> str:
    rows = [["", "ms/step", "quartiles", "peak MiB", "act. MiB", "GFLOP", "theory"]]
    for name, entry in case["variants"].items():
        time, memory, flops = entry["step_seconds"], entry["memory"], entry["flops"]
        rows.append(
            [
                name,
                _milliseconds(time["median"]) if time else "-",
                f"{_milliseconds(time['q1'])} .. {_milliseconds(time['q3'])}" if time else "-",
                str(round(memory["above_model_mib"])) if memory else "-",
                str(round(memory["activations_mib"])) if memory else "-",
                _giga(flops["measured"]),
                f"{_giga(flops['theoretical'])} ({flops['theoretical_forwards']:.3g} F)",
            ]
        )
    return table(rows)


def ratio_table(values: dict[str, float | None]) -> str:
    rows = [["ratio", "of", "value", "target", ""]]
    for ratio in RATIOS:
        if ratio.name not in values:
            continue
        value = values[ratio.name]
        met = "" if ratio.target is None or value is None else "met" if value <= ratio.target else "missed"
        rows.append([ratio.name, ratio.quantity, _number(value), _number(ratio.target), met])
    return table(rows)


def case_table(cases: dict[str, dict]) -> str:
    """Return a table of the ratios that have a target, with one row for each case."""
    chosen = [ratio for ratio in RATIOS if ratio.target is not None]
    rows = [["", *(ratio.name.replace("_vs_", " / ").replace("_", " ") for ratio in chosen)]]
    rows.append(["target", *(_number(ratio.target) for ratio in chosen)])
    for name, case in cases.items():
        rows.append([name, *(_number(case["ratios"][ratio.name]) for ratio in chosen)])
    return table(rows)


def table(rows: list[list[str]]) -> str:
    """
    Return a Markdown table of rows of text. The first row is the header; all columns except the first are
    right-aligned.
    """
    widths = [max(3, *(len(row[i]) for row in rows)) for i in range(len(rows[0]))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [rows[0], rule, *rows[1:]]
    cells = ([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.1f}" if seconds < 0.1 else f"{1000 * seconds:.0f}"


def _giga(flops: float) -> str:
    return f"{flops / 1e9:.0f}" if flops >= 1e11 else f"{flops / 1e9:.3g}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
