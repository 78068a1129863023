"""Summarise results in sentences: trust in the attack, robustness of the agents, and its cost."""

from __future__ import annotations

from ...training.sharing.reading import is_lost_without_attack, trust_sentence
from ...training.sharing.results import RobustnessResults, RobustnessRun
from .membership import membership_sentences
from .results import (
    SUCCESS,
    SUCCESS_UNDER_ATTACK,
    check_results,
    difference,
    headline,
    number_text,
    percent_text,
    share_text,
    times,
    value,
)
from .shared_directions import shared_sentences
from .text_report import text_sentences
from .together import together_sentences


def summary_sentences(results: RobustnessResults) -> list[str]:
    """
    Return the sentences, in this order: whether the success under attack can be trusted; whether regularization helped
    and what it cost (run "aajr" against "adversarial", "sft" and "base", if they exist); the most robust run, unless no
    run does anything right without attack; what attacks in words leave, and all attacks together; budgets; what prompts share.

    Raises:
        ValueError: If a number is missing or not finite; names the run and the field.
    """
    check_results(results)
    runs, top = results["runs"], headline(results)
    sentences = [trust_sentence(results)]
    if "aajr" in runs:
        sentences += [_comparison(runs, name, top) for name in ("adversarial", "sft", "base") if name in runs]
    if not all(map(is_lost_without_attack, runs.values())):
        sentences.append(_most_robust(runs, top))
    sentences += text_sentences(results) + together_sentences(results)
    return sentences + membership_sentences(results) + shared_sentences(results)


def _comparison(runs: dict[str, RobustnessRun], name: str, top: str) -> str:
    ours, theirs = runs["aajr"], runs[name]

    def change(fields: tuple[str, str], multiple: str | None = None) -> str:
        texts = []
        for field, decoding in zip(fields, ("", "sampled "), strict=True):
            after, before = (percent_text(value(run, field, multiple)) for run in (ours, theirs))
            texts.append(f"{decoding}{after} against {before}%, {difference(ours, theirs, field, multiple).text()}")
        return "; ".join(texts)

    attacked, calm = change(SUCCESS_UNDER_ATTACK, top), change(SUCCESS)
    return (
        f"aajr against {name}, attacked at {times(top)} the training radius: success {attacked}. "
        f"Without attack: {calm}.{_time(ours.get('train_seconds'), theirs.get('train_seconds'))}"
    )


def _time(seconds: float | None, reference: float | None) -> str:
    if not seconds:
        return ""
    if not reference:
        return f" Training took {number_text(seconds)} s."
    longer = number_text(seconds / reference)
    return f" Training took {longer} times as long ({number_text(seconds)} against {number_text(reference)} s)."


def _most_robust(runs: dict[str, RobustnessRun], top: str) -> str:
    greedy, sampled = SUCCESS_UNDER_ATTACK
    ordered = sorted(runs, key=lambda name: -runs[name][greedy][top])
    best = percent_text(runs[ordered[0]][greedy][top])
    leaders = [name for name in runs if percent_text(runs[name][greedy][top]) == best]
    described = ", ".join(
        f"{name} (sampled {percent_text(runs[name][sampled][top])}%; "
        f"{percent_text(runs[name]['nominal_success'])}% without attack)"
        for name in leaders
    )
    share = share_text(runs[leaders[0]], greedy, top).replace(best, f"{best}%", 1)
    sentence = f"Most robust at {times(top)} the training radius, with {share} success: {described}"
    if len(leaders) == 1 and len(runs) > 1:
        lead = difference(runs[ordered[0]], runs[ordered[1]], greedy, top)
        sentence += f"; {lead.points:.1f} points ahead of {ordered[1]} {lead.chance_text()}"
    return f"{sentence}."
