"""What a model card says of an evaluation of tool calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult

from .measurement import threat_model_line
from .world_card import attack_names, share_table, trust_line

TOOL_CALL_PLOT = "tool_calls.png"


def is_of_tool_calls(numbers: dict[str, Any]) -> bool:
    """Whether a run's numbers are those of tool calls, and not of a world."""
    return "nominal_valid" in numbers


def tool_call_results(numbers: dict[str, Any]) -> list[EvalResult]:
    """
    The results for the card's metadata: valid and exact calls in percent, without attack and at each radius.

    Args:
        numbers: A run's, with the `settings`, `threat_model` and `train_epsilon` of its evaluation.
    """
    name = _dataset(numbers)
    found = []
    for kind in ("valid", "exact"):
        found.append((kind, "nominal", numbers[f"nominal_{kind}"]))
        worst = numbers[f"worst_case_{kind}"].items()
        found += [(kind, f"worst case, {float(m):g}x training radius", share) for m, share in worst]
    return [
        EvalResult(
            task_type="text-generation",
            task_name="calling tools",
            dataset_type=name,
            dataset_name=name,
            metric_type=f"{kind}_calls",
            metric_name=f"{kind} tool calls ({where}) %",
            metric_value=round(share, 2),
        )
        for kind, where, share in found
    ]


def tool_call_section(numbers: dict[str, Any]) -> str:
    """The card's lines on tool calls, in Markdown; `numbers` as in [`tool_call_results`]."""
    top = max(numbers["worst_case_valid"], key=float)
    rows = {f"{kind} tool calls": (f"nominal_{kind}", f"worst_case_{kind}") for kind in ("valid", "exact")}
    lines = [
        f"{numbers['examples']} rows of {_dataset(numbers)}, answered greedily; percent with 95 % intervals, 100 is perfect. "
        f"Worst case: what none of these attacks breaks: {attack_names(numbers)}.",
        threat_model_line(numbers),
        trust_line(numbers),
        "",
        *share_table(numbers, rows),
    ]
    counts = numbers["failures"][top]
    reasons = [f"{reason.replace('_', ' ')} {count}" for reason, count in counts.items() if count]
    lines += [
        "",
        "Valid: the answer can be read, and each call names a tool on offer with arguments that match its JSON Schema. Exact: "
        "the calls are accepted ones by the rules of the Berkeley Function Calling Leaderboard."
        + (f" Invalid answers at {float(top):g}x: {', '.join(reasons)}." if reasons else ""),
    ]
    return "\n".join(lines)


def _dataset(numbers: dict[str, Any]) -> str:
    """The name of a dataset on the Hub, or the last part of a path."""
    name = numbers["settings"]["dataset_name"]
    return Path(name).name if Path(name).exists() or name.count("/") != 1 else name
