"""What is sent over the links between agents: batches of caches, with the private words of their senders."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..environments import TextWorld
from ..environments.messages import own_words, sent_rows, with_values
from ..evaluation.generation import check_lengths, end_tokens
from ..training.data.system_prompts import with_system_prompt
from .caches import States, answer_logits, write
from .prompts import SharedPrompt, shared_prompts

# Senders in the sample that says which values a private word has, and how often.
_SAMPLE = 2000
# Seeds of the messages, beside the user's: to train a guard on, to measure on, to train decoders on.
TRAINING, HELD_OUT, FRESH = 0, 1, 2


def streams(seed: int, purpose: int) -> np.random.Generator:
    """Return the generator of the messages for one purpose. Different purposes have different messages."""
    return np.random.default_rng([seed, purpose])


@dataclass(frozen=True)
class PrivateWords:
    """
    The private words of a world, and the values that they have.

    Attributes:
        words: The m words.
        shares: For each word, its values and the share of the senders that have them, the most frequent first.
    """

    words: tuple[str, ...]
    shares: tuple[dict[str, float], ...]

    @classmethod
    def of(cls, world: type[TextWorld], words: list[str], agents: int) -> PrivateWords:
        """
        Look the values up in a sample of moments.

        Raises:
            ValueError: if a word is unknown or given twice, or no words of an observation come from peers.
        """
        known = own_words(world, agents)
        for word in words:
            if word not in known or words.count(word) > 1:
                raise ValueError(
                    f"`private` must be different words that agents alone know, of {', '.join(known)}; got {' '.join(words)}."
                )
        sample = itertools.islice(sent_rows(world, np.random.default_rng(0), agents, all_links=False), _SAMPLE)
        messages = [row["message"] for (row,) in sample]
        counts = [Counter(_value(message, word) for message in messages) for word in words]
        return cls(tuple(words), tuple({v: n / _SAMPLE for v, n in count.most_common()} for count in counts))

    def encode(self, message: str) -> list[int]:
        """Return the numbers of the values that the sender's own words have in a message."""
        values = [list(shares) for shares in self.shares]
        found = [_value(message, word) for word in self.words]
        return [known.index(v) if v in known else len(known) for v, known in zip(found, values, strict=True)]

    def redrawn(self, rows: list[dict[str, Any]], rng: np.random.Generator) -> list[dict[str, Any]]:
        """Return the rows of one sender's messages with private words that are drawn anew from their shares, once for all."""
        drawn = {}
        for word, shares in zip(self.words, self.shares, strict=True):
            drawn[word] = list(shares)[rng.choice(len(shares), p=list(shares.values()))]
        return [with_values(row, drawn) for row in rows]


@dataclass(frozen=True)
class Sent:
    """
    The caches that B senders send.

    Attributes:
        states, mask: Results of [`write`] for the B * links messages; those of one sender are adjacent.
        secrets: (B, m), the senders' private words, as [`PrivateWords.encode`] numbers them.
        links: Number of messages of each sender.
        own, answers: For each message, the tokens of its reader's own words and of its reader's right answer.
    """

    states: States
    mask: Tensor
    secrets: Tensor
    links: int
    own: list[list[int]]
    answers: list[list[int]]


@dataclass(frozen=True)
class Links:
    """
    The links between the agents of a world, all played by one model.

    Attributes:
        model, tokenizer: The model.
        world: The world.
        agents: Number of agents.
        private: The private words.
        all_links: Whether each sender sends to all other agents, or only to the next one.
        system_prompt: Text before every observation, or None.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    world: type[TextWorld]
    agents: int
    private: PrivateWords
    all_links: bool = False
    system_prompt: str | None = None

    def batches(self, size: int, rng: np.random.Generator) -> Iterator[Sent]:
        """
        Send without end, about `size` messages at a time: those of at least one sender.

        Raises:
            ValueError: if a prompt and its answer are longer than the model's context, or the model, its template or its
                tokenizer cannot share caches.
        """
        for groups in self._groups(size, rng):
            yield self._send(groups)

    def pairs(self, size: int, rng: np.random.Generator) -> Iterator[tuple[Sent, States]]:
        """
        As [`batches`], and with each batch the caches of the same messages with other private words, which are drawn from
        their shares.

        Raises:
            ValueError: as [`batches`], or if the length of a message depends on the private words, which no guard can hide.
        """
        for groups in self._groups(size, rng):
            sent, others = self._send(groups), [self.private.redrawn(group, rng) for group in groups]
            states, mask = self._write(self._prompts(others))
            if not torch.equal(mask, sent.mask):
                raise ValueError(
                    f"The tokenizer writes values of {', '.join(self.private.words)} with different numbers of tokens, so the "
                    "length of a cache tells them: choose other private words, or use fewer agents."
                )
            yield sent, states

    def _groups(self, size: int, rng: np.random.Generator) -> Iterator[list[list[dict[str, Any]]]]:
        """Yield about `size` rows at a time, in one list for each sender."""
        sent = sent_rows(self.world, rng, self.agents, all_links=self.all_links)
        while True:
            yield list(itertools.islice(sent, max(size // self.per_sender, 1)))

    @property
    def per_sender(self) -> int:
        """Number of messages of each sender."""
        return self.agents - 1 if self.all_links else 1

    def _prompts(self, groups: list[list[dict[str, Any]]]) -> list[SharedPrompt]:
        rows = with_system_prompt([row for group in groups for row in group], self.system_prompt)
        return shared_prompts(self.tokenizer, rows)

    def _write(self, prompts: list[SharedPrompt]) -> tuple[States, Tensor]:
        return write(self.model, [prompt.message for prompt in prompts], self.tokenizer.pad_token_id)

    def _send(self, groups: list[list[dict[str, Any]]]) -> Sent:
        prompts = self._prompts(groups)
        ends = end_tokens(self.model, self.tokenizer)
        answers = [_until(prompt.reference, ends) for prompt in prompts]
        whole = [prompt.message + prompt.own for prompt in prompts]
        check_lengths(self.model, whole, list(map(len, answers)), "use fewer agents or a shorter system prompt")
        states, mask = self._write(prompts)
        secrets = torch.tensor([self.private.encode(group[0]["message"]) for group in groups], device=mask.device)
        return Sent(states, mask, secrets, self.per_sender, [prompt.own for prompt in prompts], answers)

    def reader_losses(self, states: States, sent: Sent) -> tuple[Tensor, Tensor]:
        """
        Let the readers read the caches.

        Args:
            states: What the readers get of `sent.states`.

        Returns:
            The mean loss per token of the right answers, and whether each reader's likeliest answer is the right one.
        """
        pad = self.tokenizer.pad_token_id
        logits, labels = answer_logits(self.model, states, sent.mask, sent.own, sent.answers, pad)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())
        right = ((logits.argmax(dim=-1) == labels) | (labels == -100)).all(dim=1)
        return loss, right


def _value(message: str, word: str) -> str:
    """Return the value after a word of the sender, whose words come first."""
    words = message.split()
    return words[words.index(word) + 1]


def _until(tokens: list[int], ends: list[int]) -> list[int]:
    end = next((i for i, token in enumerate(tokens) if token in ends), len(tokens))
    return tokens[: end + 1]
