"""What a model card says of an evaluation in a world, and what it shares with that of tool calls."""

from __future__ import annotations

from typing import Any

from huggingface_hub import EvalResult

from .measurement import attack_name, interval_text, threat_model_line, trust_sentence


def world_results(numbers: dict[str, Any]) -> list[EvalResult]:
    """
    The results for the card's metadata: success in percent, without attack and at each radius.

    Args:
        numbers: A run's, with the `settings`, `threat_model` and `train_epsilon` of its evaluation.
    """
    world = numbers["settings"]["environment"]
    found = [("nominal", numbers["nominal_success"])]
    worst = numbers["worst_case_success"].items()
    found += [(f"worst case, {float(m):g}x training radius", success) for m, success in worst]
    return [
        EvalResult(
            task_type="text-generation",
            task_name="acting as an agent",
            dataset_type=f"aajr-hf/{world}",
            dataset_name=f"world {world} of aajr-hf",
            metric_type="success",
            metric_name=f"success ({name}) %",
            metric_value=round(success, 2),
        )
        for name, success in found
    ]


def world_section(numbers: dict[str, Any]) -> str:
    """The card's lines on success in a world, in Markdown; `numbers` as in [`world_results`]."""
    rows = {
        "success, greedy": ("nominal_success", "worst_case_success"),
        "success, sampled": ("sampled_success", "sampled_worst_case_success"),
    }
    return "\n".join(
        [
            f"{numbers['examples']} held-out observations; percent with 95 % intervals, 100 is perfect. Worst case: what none of "
            f"these attacks breaks: {attack_names(numbers)}.",
            threat_model_line(numbers),
            trust_line(numbers),
            "",
            *share_table(numbers, rows),
            "",
            f"Amplification along the ascent (mean norm of J u): {numbers['amplification']:.4g}.",
        ]
    )


def attack_names(numbers: dict[str, Any]) -> str:
    """The attacks that ran, as one list."""
    names = [attack_name(name) for name in numbers.get("attacks") or ()]
    return ", ".join([*names, *(["token substitutions"] if numbers.get("token_attack") else [])]) or "none"


def trust_line(numbers: dict[str, Any]) -> str:
    """Whether this agent's success under attack can be trusted."""
    return trust_sentence({"runs": {"this agent": numbers}})


def share_table(numbers: dict[str, Any], rows: dict[str, tuple[str, str]]) -> list[str]:
    """Lines of a Markdown table of shares with their intervals: by label, the fields without attack and by multiple."""
    nominal, worst = next(iter(rows.values()))
    radii = sorted(numbers[worst], key=float)
    headers = [f"worst case, {float(m):g}x radius ({float(m) * numbers['train_epsilon']:g})" for m in radii]
    lines = [f"| | nominal | {' | '.join(headers)} |", f"|---|---:|{'---:|' * len(radii)}"]
    intervals = numbers["intervals"]
    for label, (nominal, worst) in rows.items():
        cells = [(numbers[nominal], intervals[nominal]), *((numbers[worst][m], intervals[worst][m]) for m in radii)]
        lines.append(f"| {label} | {' | '.join(f'{share:.1f} {interval_text(found)}' for share, found in cells)} |")
    return lines
