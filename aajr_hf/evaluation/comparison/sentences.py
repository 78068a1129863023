"""Summarise a comparison in sentences: which method wins, at which price, and with which certainty."""

from __future__ import annotations

from ...training.sharing.reading import trust_sentence
from ...training.sharing.results import AtNominal, AtWorstCase, ComparisonResults, MatchedPair
from ..reporting.results import DECODINGS, difference, headline, number_text, percent_text, times
from ..reporting.statistics import PairedDifference


def comparison_sentences(comparison: ComparisonResults) -> list[str]:
    """
    Return the sentences, in this order: whether the success under attack can be trusted; the most robust run and its
    price; one method against each other method, at equal worst-case and at equal nominal success, at the training
    radius; the gradients; limits of the comparison.

    Args:
        comparison: Result of [`compare`].
    """
    top = headline(comparison)
    sentences = [trust_sentence(comparison), _leader(comparison, top)]
    pairs: dict[str, dict[str, MatchedPair]] = {}
    for entry in comparison["matched"]:
        if entry["multiple"] == top:
            pairs.setdefault(entry["methods"][1], {})[entry["decoding"]] = entry
    sentences += [_pair(**entries) for entries in pairs.values()]
    return [sentence for sentence in (*sentences, _gradients(comparison), *_doubts(comparison, top)) if sentence]


def _leader(comparison: ComparisonResults, top: str) -> str:
    configurations = comparison["configurations"]
    leader = max(configurations, key=lambda c: (c["worst_case_success"][top], c["nominal_success"]))
    greedy, sampled = (leader[worst][top] for _, worst in DECODINGS.values())
    sentence = (
        f"Most robust: {leader['label']}, correct in {percent_text(greedy)}% (sampled {percent_text(sampled)}%) when "
        f"attacked at {times(top)} the training radius (epsilon {float(top) * comparison['train_epsilon']:g})."
    )
    prices = []
    for decoding, (nominal, _) in DECODINGS.items():
        best = comparison["best_unregularised"][decoding]
        if best is None:
            return f"{sentence} All runs have a penalty, so the price of robustness is unknown: add a run without one."
        if best["label"] == leader["label"]:
            prices.append(f"{decoding} none (it is itself this best run)")
            continue
        reference = next(c for c in configurations if c["label"] == best["label"])
        price = difference(reference, leader, nominal)
        against = f"{percent_text(leader[nominal])}% against {percent_text(best['nominal'])}% for {best['label']}"
        prices.append(f"{decoding} {price.points:.1f} points {price.chance_text()}, {against}")
    return f"{sentence} Its price, in nominal success below the best run without a penalty: {'; '.join(prices)}."


def _pair(greedy: MatchedPair, sampled: MatchedPair) -> str:
    ours, theirs = greedy["methods"]
    robust, nominal = greedy["at_worst_case"], greedy["at_nominal"]
    return (
        f"{ours} against {theirs} at {times(greedy['multiple'])}: {_verdict(greedy, sampled)} "
        f"At equal robustness (both {percent_text(robust['level'])}% under attack) nominal success is "
        f"{_side_by_side(robust, 'nominal')}; at equal nominal success (both {percent_text(nominal['level'])}%) success under "
        f"attack is {_side_by_side(nominal, 'worst_case')}. "
        f"Sampled: at {percent_text(sampled['at_worst_case']['level'])}% under attack, nominal success is "
        f"{_side_by_side(sampled['at_worst_case'], 'nominal')}; at {percent_text(sampled['at_nominal']['level'])}% "
        f"nominal success, success under attack is {_side_by_side(sampled['at_nominal'], 'worst_case')}."
    )


def _side_by_side(found: AtWorstCase | AtNominal, field: str) -> str:
    ours, theirs = map(percent_text, found[field])
    return f"{ours} against {theirs}%, {PairedDifference(**found['difference']).text()}"


def _verdict(greedy: MatchedPair, sampled: MatchedPair) -> str:
    ours, theirs = greedy["methods"]
    nominal, robust = (
        {PairedDifference(**entry[place]["difference"]).sign for entry in (greedy, sampled)} - {0}
        for place in ("at_worst_case", "at_nominal")
    )
    if not nominal | robust:
        return "no difference is shown."
    if len(nominal | robust) == 1:
        return f"{ours if 1 in nominal | robust else theirs} wins."
    if len(nominal) == len(robust) == 1:
        calm, tough = (ours, theirs) if 1 in nominal else (theirs, ours)
        return f"{tough} withstands more, {calm} does better without attack."
    return "the two ways of decoding disagree."


def _gradients(comparison: ComparisonResults) -> str:
    found = {
        name: run["gradient_norm"]["coefficient_of_variation"]
        for name, run in comparison["runs"].items()
        if run["gradient_norm"] and run["gradient_norm"]["coefficient_of_variation"] is not None
    }
    if len(found) < 2:
        return ""
    steady, wild = min(found, key=found.get), max(found, key=found.get)
    norms = {name: comparison["runs"][name]["gradient_norm"] for name in (steady, wild)}
    least, most = (
        f"{name} (variance {number_text(norms[name]['variance'])}, mean {number_text(norms[name]['mean'])}"
        + (")" if norms[name]["every_step"] else f", only over {norms[name]['values']} logged norms)")
        for name in (steady, wild)
    )
    return f"Relative to its mean, the gradient norm in training varied least in {least} and most in {most}."


def _doubts(comparison: ComparisonResults, top: str) -> list[str]:
    configurations, runs = comparison["configurations"], comparison["runs"]
    examples = min(run["examples"] for run in runs.values())
    several = [c for c in configurations if len(c["runs"]) > 1]
    doubts = f"Differences are paired over {examples} examples, with p of the exact McNemar test and 95 % intervals. "
    if several:
        spread = max(_spread([runs[name]["worst_case_success"][top] for name in c["runs"]]) for c in several)
        doubts += f"In addition, seeds of one configuration differ by up to {spread:.1f} points at {times(top)}."
    else:
        doubts += "In addition, another training seed may change the numbers."
    counts: dict[str, int] = {}
    for c in configurations:
        counts[c["method"]] = counts.get(c["method"], 0) + 1
    found = [doubts]
    if len(set(counts.values())) > 1 and max(counts.values()) > 1:
        listed = ", ".join(f"{method} {count}" for method, count in counts.items())
        found.append(f"Chance favours methods with more runs, because their best run counts; runs here: {listed}.")
    differing = comparison["differing_settings"]
    if differing:
        listed = "; ".join(f"{name} ({', '.join(map(str, values))})" for name, values in differing.items())
        found.append(f"The runs also differ in {listed}: this contributes to the differences above.")
    radii = {run["epsilon"] for run in runs.values() if run["epsilon"] and run["method"] != "base"}
    if radii - {comparison["train_epsilon"]}:
        listed = ", ".join(f"{radius:g}" for radius in sorted(radii))
        found.append(
            f"Attack radii are multiples of epsilon {comparison['train_epsilon']:g}, but training used {listed}."
        )
    return found


def _spread(values: list[float]) -> float:
    return max(values) - min(values)
