"""Attacks on what a player reads, without a look into it: several rewritings, of which the costliest answer counts."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ...training.data.roles import OBSERVED_ROLES
from ...training.data.triggers import with_trigger
from .players import Player

TRIGGER, NUMBERS = "trigger", "token"
# They need no gradients, and no embeddings.
ON_TEXTS = (TRIGGER, NUMBERS)
_ROLES = OBSERVED_ROLES["observation"]
_NUMBER = re.compile(r"\d+")

Row = dict[str, Any]
# The rows of one step -> for each, its rewritings. What is right for a row stays as it was.
Rewrite = Callable[[list[Row]], list[list[Row]]]


class Misled:
    """
    A player under an attack that rewrites its prompts. It is asked for an answer to each rewriting and to the prompt
    itself, and plays the one that costs the most in the world as it is. An answer that the world does not know costs as
    much as the worst that it knows.

    Attributes:
        read: The observations, as they were read for the last answers.
    """

    def __init__(self, player: Player, rewrite: Rewrite):
        self.player, self.rewrite = player, rewrite
        self.read: list[str] = []

    def check(self, rows: list[Row]) -> None:
        """Check, before the episodes start, that the player accepts the rows and their rewritings."""
        self.player.check([*rows, *(one for several in self.rewrite(rows) for one in several)])

    def answer(self, rows: list[Row]) -> list[str]:
        tried = [[row, *several] for row, several in zip(rows, self.rewrite(rows), strict=True)]
        said = iter(self.player.answer([one for several in tried for one in several]))
        # The first of equal ones: without effect, the attack changes nothing.
        worst = [
            max(((one, next(said)) for one in several), key=lambda pair, row=row: cost(row, pair[1]))
            for row, several in zip(rows, tried, strict=True)
        ]
        self.read = [one["prompt"][-1]["content"] for one, _ in worst]
        return [answer for _, answer in worst]


def cost(row: Row, answer: str) -> float:
    """Return the cost of an answer, by the row's `actions` and `action_costs`."""
    known = dict(zip(row["actions"], row["action_costs"], strict=True))
    return known.get(answer, max(row["action_costs"]))


def with_triggers(triggers: Sequence[str]) -> Rewrite:
    """Rewrite each prompt with each of these triggers."""

    def rewrite(rows: list[Row]) -> list[list[Row]]:
        found = []
        for row in rows:
            prompts = (with_trigger(row["prompt"], trigger, _ROLES) for trigger in triggers)
            found.append([row | {"prompt": prompt} for prompt in prompts if prompt is not None])
        return found

    return rewrite


def with_other_numbers(trials: int) -> Rewrite:
    """
    Rewrite each prompt up to `trials` times, each time with one number of its observation replaced by another one that
    stands in an observation of the same step. Drawn by torch's global generator.
    """

    def rewrite(rows: list[Row]) -> list[list[Row]]:
        pool = sorted({number for row in rows for number in _NUMBER.findall(row["prompt"][-1]["content"])})
        seeds = torch.randint(2**40, (len(rows),)).tolist()
        return [_other_numbers(row, pool, trials, seed) for row, seed in zip(rows, seeds, strict=True)]

    return rewrite


def _other_numbers(row: Row, pool: list[str], trials: int, seed: int) -> list[Row]:
    *before, last = row["prompt"]
    text = last["content"]
    changes = [(m.span(), new) for m in _NUMBER.finditer(text) for new in pool if new != m[0]]
    drawn = random.Random(seed).sample(changes, min(trials, len(changes)))
    return [
        row | {"prompt": [*before, last | {"content": f"{text[:start]}{new}{text[end:]}"}]}
        for (start, end), new in drawn
    ]
