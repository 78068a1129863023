"""The section of a model card on an evaluation in a world, and functions shared with the section on tool calls."""

from __future__ import annotations

from huggingface_hub import EvalResult

from .reading import attack_name, interval_text, threat_model_line, trust_sentence
from .results import EvaluationResults, RobustnessResults, Run


def world_results(results: RobustnessResults) -> list[EvalResult]:
    """
    The results for the card's metadata: success in percent, without attack and at each radius.

    Args:
        results: The results of one run.
    """
    (run,), world = results["runs"].values(), results["settings"]["environment"]
    found = [("nominal", run["nominal_success"])]
    worst = run["worst_case_success"].items()
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


def world_section(results: RobustnessResults) -> str:
    """The card's lines on success in a world, in Markdown; `results` as in [`world_results`]."""
    (run,) = results["runs"].values()
    rows = {
        "success, greedy": ("nominal_success", "worst_case_success"),
        "success, sampled": ("sampled_success", "sampled_worst_case_success"),
    }
    if run.get("all_attacks_success"):
        rows |= {"success, greedy, against attacks in words, too": ("nominal_success", "all_attacks_success")}
    return "\n".join(
        [
            f"{run['examples']} held-out observations; percent with 95 % intervals, 100 is perfect. Worst case: what "
            f"none of these attacks breaks: {attack_names(run)}.",
            threat_model_line(results),
            trust_sentence(results),
            "",
            *share_table(results, rows),
            "",
            *in_words(run),
            f"Amplification along the ascent (mean norm of J u): {run['amplification']:.4g}.",
        ]
    )


def attack_names(run: Run) -> str:
    """The attacks that ran, as one text."""
    names = [attack_name(name) for name in run.get("attacks") or ()]
    return ", ".join([*names, *(["token substitutions"] if run.get("token_attack") else [])]) or "none"


def in_words(run: Run) -> list[str]:
    """A line on what each attack in words leaves by itself; none without such attacks."""
    left = ", ".join(f"{attack_name(name)} {share:.1f} %" for name, share in (run.get("by_words") or {}).items())
    return [f"Left by each attack in words: {left}.", ""] if left else []


def share_table(results: EvaluationResults, rows: dict[str, tuple[str, str]]) -> list[str]:
    """
    Lines of a Markdown table of shares with their intervals. `rows` maps a label to two fields: without attack, and
    under attack by radius.
    """
    (run,), (_, worst) = results["runs"].values(), next(iter(rows.values()))
    radii = sorted(run[worst], key=float)
    headers = [f"worst case, {float(m):g}x radius ({float(m) * results['train_epsilon']:g})" for m in radii]
    lines = [f"| | nominal | {' | '.join(headers)} |", f"|---|---:|{'---:|' * len(radii)}"]
    intervals = run["intervals"]
    for label, (nominal, worst) in rows.items():
        cells = [(run[nominal], intervals[nominal]), *((run[worst][m], intervals[worst][m]) for m in radii)]
        lines.append(f"| {label} | {' | '.join(f'{share:.1f} {interval_text(found)}' for share, found in cells)} |")
    return lines
