"""The attack `trigger`: the same words at the end of what users or tools say, learnt on other rows than they are tried on."""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...training.data.incidental import used_words
from ...training.data.triggers import with_trigger
from ...training.policy.policy import frozen_parameters
from .losses import soft_failure
from .rewriting import Attacked, Rewritten
from .trigger_loss import TriggerLoss, Words, trigger_loss, words_of
from .trigger_search import Effort, Fluency, best_of_random, find_trigger


@dataclass(frozen=True)
class TriggerLesson:
    """
    What some rows teach about triggers of one length for an agent.

    Attributes:
        loss: The mean loss of the rows by trigger: a smooth share of wrong answers, because a trigger should break many
            rows, and not a few of them very much.
        words: The words that a trigger may have. For tool calls, they are none of those that the tools' schemas and the
            right calls contain, so that a trigger does not say anything about the call.
    """

    loss: TriggerLoss
    words: Words

    @classmethod
    def of(
        cls,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        rows: list[dict[str, Any]],
        length: int,
        *,
        roles: Collection[str],
        batch_size: int = 32,
    ) -> TriggerLesson | None:
        """Return the lesson; None if a trigger cannot be put into any of the rows."""
        used = set().union(*(used_words(row) for row in rows if row.get("tools")))
        words = words_of(tokenizer).without(used)
        loss = trigger_loss(
            model, tokenizer, rows, words, length, roles=roles, loss=soft_failure, batch_size=batch_size
        )
        return None if loss is None else cls(loss, words)

    def find(
        self, length: int, effort: Effort, seed: int, *, fluency: Fluency | None = None, weight: float = 0.0
    ) -> str:
        """Search for a trigger, from the best of a few random ones."""
        how = {"fluency": fluency, "weight": weight}
        start = best_of_random(self.loss, length, effort.starts, random.Random(seed), **how).words
        return self.words.text(find_trigger(self.loss, start, effort, **how).words)

    def random(
        self, length: int, effort: Effort, seed: int, *, fluency: Fluency | None = None, weight: float = 0.0
    ) -> str:
        """Return the best of random triggers at the cost of a search, as a control."""
        drawn, passes = random.Random(seed), effort.passes(length)
        return self.words.text(best_of_random(self.loss, length, passes, drawn, fluency=fluency, weight=weight).words)


@dataclass(frozen=True)
class Triggers:
    """
    Triggers that were learnt on the other half of the rows: `found` by gradients and a beam, and as a control the best of
    `random` ones at the same cost. `bank`: the triggers of a bank.

    Attributes:
        length: Words of a trigger.
        effort: How hard to search.
        examples: Rows of each half that are learnt from.
    """

    name: str = "trigger"
    kinds: tuple[str, ...] = ("found", "bank", "random")
    length: int = 3
    effort: Effort = Effort(candidates=8, beam=2, rounds=2)
    examples: int = 32
    control = "random"
    on_worlds = True

    def tries(self, kind: str, triggers: int) -> int:
        return triggers if kind == "bank" else 1

    def __call__(self, kind: str, attempt: int, rows: list[dict[str, Any]], on: Attacked) -> list[Rewritten | None]:
        if kind == "bank":
            halves = [on.triggers[attempt]] * 2
        else:
            # Rows with even numbers are attacked with what rows with odd numbers teach, and the other way round.
            halves = [self._learnt(kind, rows[1 - half :: 2][: self.examples], on) for half in (0, 1)]
        return [_rewritten(row, halves[number % 2], on.roles) for number, row in enumerate(rows)]

    def _learnt(self, kind: str, rows: list[dict[str, Any]], on: Attacked) -> str | None:
        lesson = None
        if rows:
            how = {"roles": on.roles, "batch_size": on.batch_size}
            lesson = TriggerLesson.of(on.model, on.tokenizer, rows, self.length, **how)
        if lesson is None:
            return None
        learn = lesson.find if kind == "found" else lesson.random
        with frozen_parameters(on.model):
            return learn(self.length, self.effort, on.seed)


def _rewritten(row: dict[str, Any], trigger: str | None, roles: Collection[str]) -> Rewritten | None:
    prompt = None if trigger is None else with_trigger(row["prompt"], trigger, roles)
    return None if prompt is None else Rewritten(row | {"prompt": prompt})
