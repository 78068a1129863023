"""The section of a model card on an evaluation of tool calls."""

from __future__ import annotations

from huggingface_hub import EvalResult

from .hub_names import public_name
from .reading import threat_model_line, trust_sentence
from .results import TextTally, ToolCallResults
from .world_card import attack_names, in_words, share_table

TOOL_CALL_PLOT = "tool_calls.png"


def tool_call_results(results: ToolCallResults) -> list[EvalResult]:
    """
    The results for the card's metadata: valid and exact calls in percent, without attack and at each radius.

    Args:
        results: The results of one run.
    """
    (run,), name, found = results["runs"].values(), public_name(results["settings"]["dataset_name"]), []
    for kind in ("valid", "exact"):
        found.append((kind, "nominal", run[f"nominal_{kind}"]))
        worst = run[f"worst_case_{kind}"].items()
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


def tool_call_section(results: ToolCallResults) -> str:
    """The card's lines on tool calls, in Markdown; `results` as in [`tool_call_results`]."""
    (run,) = results["runs"].values()
    dataset = public_name(results["settings"]["dataset_name"])
    top = max(run["worst_case_valid"], key=float)
    rows = {f"{kind} tool calls": (f"nominal_{kind}", f"worst_case_{kind}") for kind in ("valid", "exact")}
    if run.get("all_attacks_exact"):
        rows |= {"exact, against attacks in words, too": ("nominal_exact", "all_attacks_exact")}
    lines = [
        f"{run['examples']} rows of {dataset}, answered greedily; percent with 95 % intervals, 100 is "
        f"perfect. Worst case: what none of these attacks breaks: {attack_names(run)}.",
        threat_model_line(results),
        trust_sentence(results),
        "",
        *share_table(results, rows),
    ]
    lines += ["", *in_words(run)][:-1]
    for attack, kinds in (run.get("text_attacks") or {}).items():
        lines += ["", *_text_lines(attack, kinds)]
    counts = run["failures"][top]
    reasons = [f"{reason.replace('_', ' ')} {count}" for reason, count in counts.items() if count]
    lines += [
        "",
        "Valid: the answer can be read, and each call names a tool on offer with arguments that match its JSON "
        "Schema. Exact: the calls are accepted ones by the rules of the Berkeley Function Calling Leaderboard."
        + (f" Invalid answers at {float(top):g}x: {', '.join(reasons)}." if reasons else ""),
    ]
    return "\n".join(lines)


def _text_lines(attack: str, kinds: dict[str, TextTally]) -> list[str]:
    """A table of an attack that rewrites texts."""
    lines = [f"| {attack} | rows | exact before | exact after | injected call made |", "|---|---|---|---|---|"]
    for kind, tally in kinds.items():
        shares = [tally[field] for field in ("nominal", "exact", "made")] if tally["rows"] else [None] * 3
        cells = ["-" if share is None else f"{share:.1f}" for share in shares]
        lines.append(f"| {kind} | {tally['rows']} | {' | '.join(cells)} |")
    return lines
