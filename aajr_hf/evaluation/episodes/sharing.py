"""A player whose agents read what the caches of their peers say."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...environments import TextWorld
from ...environments.messages import with_messages
from ...guard.caches import generate_after, write
from ...guard.guard import CacheGuard, cache_widths
from ...guard.prompts import shared_prompts
from ...guard.training import pass_on
from ...training.data.system_prompts import with_system_prompt
from .players import ModelPlayer


def told(world: TextWorld) -> dict[str, dict[str, Any]]:
    """
    Return the current rows of all agents, each with a message of the agent before it.

    Raises:
        ValueError: if in this world no words of an observation come from peers.
    """
    rows = world.rows()
    return dict(zip(rows, with_messages(type(world), list(rows.values())), strict=True))


class SharingPlayer(ModelPlayer):
    """
    A [`ModelPlayer`] of rows with a `message`, whose agents do not read the message as text: they read the cache that
    the sender writes of it. Senders and readers are the same model.

    Args:
        guard: Changes the caches before they are read; None for raw caches.
        settings: Other arguments of [`ModelPlayer`], but for an attack.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        guard: CacheGuard | None = None,
        **settings,
    ):
        super().__init__(model, tokenizer, **settings)
        self.guard = guard

    def check(self, rows: list[dict[str, Any]]) -> None:
        super().check(rows)
        shared_prompts(self.tokenizer, with_system_prompt(rows, self.system_prompt))
        if self.guard is None:
            cache_widths(self.model)  # refuses models that cannot share caches
        else:
            self.guard.check_fits(self.model)

    def _answer(self, rows: list[dict[str, Any]]) -> list[str]:
        _, budgets = self._prompts(rows)
        prompts, pad = shared_prompts(self.tokenizer, rows), self.tokenizer.pad_token_id
        states, mask = write(self.model, [prompt.message for prompt in prompts], pad)
        states = pass_on(self.guard, states)
        said = generate_after(self.model, states, mask, [prompt.own for prompt in prompts], pad, max(budgets))
        return [self._text(tokens, budget) for tokens, budget in zip(said, budgets, strict=True)]
