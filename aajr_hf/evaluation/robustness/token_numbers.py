"""Compare the attack `token` with a gradient attack within the same radius."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedTokenizerBase

from ...objective import PerturbationSet
from ..attacks.search import Search
from ..attacks.settings import RobustnessSettings
from ..attacks.suite import ATTACKS, MAIN
from ..attacks.target import Target
from ..attacks.tokens import number_substitutions, sample_substitutions, substitution_radius, worst_substitution
from ..means import Means


class TokenAttack:
    """
    Measurement of the attack `token`. It adds, under `token_attack`, `success`, `sampled_success`, `cost` and `radius`
    (l2 norm over all embeddings, as a multiple of the prompt's mean embedding norm). Under `pga`, it adds the same
    numbers for projected gradient ascent within each example's radius.

    Raises:
        ValueError: if no row has a number that another one could replace.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, rows: list[dict[str, Any]], settings: RobustnessSettings):
        self.substitutions, self.settings = number_substitutions(tokenizer, rows), settings

    def measure(self, target: Target, numbers: list[int], totals: Means) -> None:
        """Add the numbers of a batch of the rows with these numbers to the totals."""
        settings = self.settings
        trials = [
            sample_substitutions(self.substitutions[number], settings.token_trials, settings.seed + number)
            for number in numbers
        ]
        rewritten = worst_substitution(target, trials)
        radius = substitution_radius(target, rewritten)
        found = rewritten.outcome(rewritten.origin)
        _add(totals, 100 * found.greedy, 100 * found.sampled, found.cost, radius / target.scale)
        search = Search(target, PerturbationSet(radius), numbers, steps=settings.attack_steps)
        ATTACKS[MAIN](search)
        left = 100 * (1 - search.broken.float())
        _add(totals, left, 100 * search.sampled, search.cost, radius / target.scale, "pga")


def _add(totals: Means, success, sampled, cost, radius, *names: str) -> None:
    for field, values in (("success", success), ("sampled_success", sampled), ("cost", cost), ("radius", radius)):
        totals.add(values, "token_attack", *names, field)
