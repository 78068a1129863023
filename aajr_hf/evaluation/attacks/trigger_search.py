"""
Search for triggers: words at the end of every prompt that raise an agent's loss on all of them (Wallace et al., arXiv
1908.07125). Gradients choose the candidates, and a beam from left to right tries them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .trigger_loss import TriggerLoss

# From the words before it, log-probabilities (W,) of the next word of a trigger.
Fluency = Callable[[Sequence[int]], Tensor]


@dataclass(frozen=True)
class Effort:
    """
    How hard to search.

    Attributes:
        candidates: Words that are tried at each place of each trigger of the beam: those with the best scores.
        beam: Triggers that are kept from place to place.
        rounds: Passes over all places. The search ends earlier where a round finds nothing better.
        starts: Random triggers, from the best of which a search starts.
    """

    candidates: int = 20
    beam: int = 3
    rounds: int = 3
    starts: int = 20

    def passes(self, length: int) -> int:
        """Return the number of passes over the prompts that a search takes at most, as counted by `TriggerLoss`."""
        return self.starts + 1 + self.rounds * (3 + self.candidates * (1 + self.beam * (length - 1)))


@dataclass(frozen=True)
class Found:
    """
    Attributes:
        words: The trigger.
        value: What the search maximised: the mean loss, plus the weight times the mean log-probability of the words.
    """

    words: tuple[int, ...]
    value: float


def find_trigger(
    loss: TriggerLoss,
    start: Sequence[int],
    effort: Effort,
    *,
    fluency: Fluency | None = None,
    weight: float = 0.0,
) -> Found:
    """
    Find a trigger with as many words as `start`, where the search begins. No trigger that was tried is better.

    Args:
        fluency: Log-probabilities of words after others.
        weight: Weight of the mean log-probability of the trigger's words, in units of the loss per nat.
    """
    known: dict[tuple[int, ...], float] = {}
    length = len(start)

    def value(words: tuple[int, ...]) -> float:
        if words not in known:
            known[words] = loss(words) + weight * mean_log_prob(words, fluency)
        return known[words]

    def rising(words: tuple[int, ...], place: int, scores: Tensor) -> list[tuple[int, ...]]:
        """The trigger with other words at one place: those with the best scores."""
        if fluency is not None and weight:
            scores = scores + weight / length * fluency(words[:place]).to(scores)
        best = scores.topk(min(effort.candidates, len(scores))).indices.tolist()
        return [(*words[:place], word, *words[place + 1 :]) for word in best]

    best = tuple(start)
    value(best)
    for _ in range(effort.rounds):
        scores, beam = loss.hotflip(best), [best]
        for place in range(length):
            tried = {new for words in beam for new in rising(words, place, scores[place])}
            beam = sorted({*tried, *beam}, key=lambda words: (-value(words), words))[: effort.beam]
        if value(beam[0]) <= value(best):
            break
        best = beam[0]
    return Found(best, known[best])


def best_of_random(
    loss: TriggerLoss,
    length: int,
    passes: int,
    drawn: random.Random,
    *,
    fluency: Fluency | None = None,
    weight: float = 0.0,
) -> Found:
    """Return the best of so many random triggers: what a search that costs as much finds without gradients."""
    tried = [random_words(loss, length, drawn) for _ in range(passes)]
    values = {words: loss(words) + weight * mean_log_prob(words, fluency) for words in dict.fromkeys(tried)}
    best = max(values, key=values.get)
    return Found(best, values[best])


def random_words(loss: TriggerLoss, length: int, drawn: random.Random) -> tuple[int, ...]:
    """Draw a trigger."""
    return tuple(drawn.randrange(len(loss.table)) for _ in range(length))


def mean_log_prob(words: Sequence[int], fluency: Fluency | None) -> float:
    """Return the mean log-probability of the words of a trigger, each after those before it; 0 without a model."""
    if fluency is None:
        return 0.0
    return float(torch.stack([fluency(words[:place])[word] for place, word in enumerate(words)]).mean())
