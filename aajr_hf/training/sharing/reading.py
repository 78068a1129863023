"""Read results, and say in words which they are: version, kind, threat model, and whether they can be trusted."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

from .results import Results, Run

RESULTS_VERSION = 2
# Kinds of results that have runs under attack.
KINDS = ("robustness", "tool_calls", "comparison")
# Share of right answers without attack, in percent, below which the success under attack says nothing about an agent.
_ALMOST_NOTHING = 5.0
# Fields with this share, for worlds and for tool calls, and words for an agent whose share is lower.
_RIGHT = {
    "nominal_success": ("answer", "almost no observation correctly"),
    "nominal_valid": ("make", "almost no valid tool call"),
}
_TOKENS = {
    "prompt": "the whole prompt",
    "observation": "the observation",
    "user": "what the user says",
    "tool": "what tools return",
    "incidental": "words that the calls do not use",
    "all": "all tokens",
}


def read_results(file: Path) -> Results:
    """
    Read results of `aajr evaluate` or `aajr compare`, of any version. If results of the current version have no
    `kind`, as the first ones, it is added.

    Raises:
        OSError, ValueError: if the file cannot be read, or does not hold results.
    """
    results = json.loads(file.read_text(encoding="utf-8"))
    try:
        is_todays = version_problem(results) is None
        if is_todays:
            results.setdefault("kind", _unsaid_kind(results))
    except (KeyError, TypeError, AttributeError) as error:
        raise no_results(error) from error
    if is_todays and results["kind"] not in KINDS:
        raise ValueError(
            f"These are results of kind {results['kind']!r}, but this release reads only {', '.join(KINDS)}."
        )
    return results


def _unsaid_kind(results: dict[str, Any]) -> str:
    """Kind of results without a field `kind`, found by their other fields; no other function does this."""
    if "configurations" in results:
        return "comparison"
    return "tool_calls" if any("nominal_valid" in run for run in results["runs"].values()) else "robustness"


def no_results(error: Exception) -> ValueError:
    """Error for a file that does not hold results."""
    return ValueError(f"These are not results of `aajr evaluate`: {error!r}.")


def version_problem(results: Results) -> str | None:
    """Why results are not of the current version, as the end of a sentence; None if they are."""
    version = results.get("version")
    if version == RESULTS_VERSION:
        return None
    if version is None:
        return "measured by the old attack, which used only the expected cost and the agent's own gradients"
    return f"of version {version!r}, but this release reads version {RESULTS_VERSION}"


def trust_sentence(results: Results) -> str:
    """
    Name the runs that do almost nothing right without attack. For the others, say whether the success under attack can
    be trusted, and why not for each run that fails a check of the attack.
    """
    runs = results["runs"]
    lost = {name: run for name, run in runs.items() if is_lost_without_attack(run)}
    sentences = [_lost_sentence(lost)] if lost else []
    if len(lost) < len(runs):
        rest = {name: run for name, run in runs.items() if name not in lost}
        sentences.append(_checks_sentence(rest, are_all=not lost))
    return " ".join(sentences)


def is_lost_without_attack(run: Run) -> bool:
    """Whether an agent does almost nothing right even without attack, so that an attack has almost nothing to break."""
    return any(run.get(field, 100) < _ALMOST_NOTHING for field in _RIGHT)


def _lost_sentence(runs: dict[str, Run]) -> str:
    field, (verb, what) = next((field, words) for field, words in _RIGHT.items() if field in next(iter(runs.values())))
    several, shares = len(runs) > 1, " and ".join(f"{run[field]:.1f}%" for run in runs.values())
    return (
        f"{' and '.join(runs)} {verb}{'' if several else 's'} {what}, even without attack ({shares}), so "
        f"{'their' if several else 'its'} success under attack says nothing."
    )


def _checks_sentence(runs: dict[str, Run], are_all: bool) -> str:
    reasons = {name: _why_not(run) for name, run in runs.items()}
    doubtful = [f"{name}, which {reason}" for name, reason in reasons.items() if reason]
    if not doubtful:
        only = next(iter(reasons)) if len(reasons) == 1 else None
        if are_all:
            return f"The success under attack can be trusted: {only or 'every run'} passes all checks of the attack."
        whose, pass_ = (only, "it passes") if only else ("the other runs", "they pass")
        return f"The success of {whose} under attack can be trusted: {pass_} all checks of the attack."
    others = "; the other runs pass all checks" if len(doubtful) < len(reasons) else ""
    return f"Do not trust the success under attack of {', nor of '.join(doubtful)}{others}."


def _why_not(run: Run) -> str:
    if not run["trust"]:
        return "was not checked"
    failed = [rule for rule in run["trust"] if not rule["passed"]]
    texts = [f'"{rule["rule"]}" ({textwrap.shorten(rule["detail"], 100, placeholder="…")})' for rule in failed]
    return f"fails the check{'s' * (len(failed) > 1)} {' and '.join(texts)}" if failed else ""


def threat_model_line(results: Results) -> str:
    """The threat model: `Threat model: l2 ball over the whole prompt, radius 1x = 0.25 mean embedding norms.`"""
    model = results["threat_model"]
    norm = model["perturbation_norm"].replace("linf", "l-infinity")
    tokens = _TOKENS[model["perturbed_tokens"]]
    where = "over" if model["perturbation_scope"] == "sequence" else "around each token of"
    unit = "mean embedding norms" if model["epsilon_mode"] == "relative" else "in the embeddings' own unit"
    return f"Threat model: {norm} ball {where} {tokens}, radius 1x = {model['epsilon']:g} {unit}."


def attack_name(name: str) -> str:
    """The displayed name of an attack."""
    return name.replace("_", " ")


def interval_text(interval: list[float] | None) -> str:
    """An interval in whole percent, `[78-84]`: as one word, so that a table does not break it."""
    return "" if interval is None else f"[{interval[0]:.0f}-{interval[1]:.0f}]"
