"""How likely the words of a trigger are where they stand: by an n-gram model of the observations, or a language model."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .trigger_loss import Words

# Prompts after whose texts a language model reads a trigger.
_CONTEXTS = 8


class NGram:
    """
    A bigram model of texts, smoothed with the frequencies of single words, and these with a uniform distribution.

    Args:
        texts: Texts as lists of tokens; a trigger stands at their ends.
        words: The words of triggers.
        strength: How many observations the smoothing counts as.
    """

    def __init__(self, texts: Sequence[Sequence[int]], words: Words, strength: float = 1.0):
        number = {token: word for word, token in enumerate(words.tokens.tolist())}
        read = [[number.get(token) for token in text] for text in texts]
        self._size, self._strength = len(words.texts), strength
        # None stands for what is no word.
        self._after: dict[int | None, Counter] = defaultdict(Counter)
        for text in read:
            for one, other in pairwise(text):
                self._after[one][other] += 1
        single = self._counts(Counter(word for text in read for word in text))
        self._single = (single + strength / self._size) / (single.sum() + strength)
        # Before the first word of a trigger stands the end of a text.
        ends = Counter(text[-1] for text in read if text)
        begun = [count * self._next(word) for word, count in ends.items()]
        self._first = sum(begun) / sum(ends.values()) if ends else self._single

    def __call__(self, before: Sequence[int]) -> Tensor:
        """Return the log-probabilities of the next word, (W,)."""
        return (self._next(before[-1]) if before else self._first).log()

    def _next(self, word: int | None) -> Tensor:
        counts = self._counts(self._after[word])
        return (counts + self._strength * self._single) / (counts.sum() + self._strength)

    def _counts(self, counter: Counter) -> Tensor:
        found = torch.zeros(self._size, dtype=torch.float64)
        for word, count in counter.items():
            if word is not None:
                found[word] = count
        return found


class LanguageModel:
    """
    A causal language model. It reads the trigger after the texts of a few prompts.

    Args:
        model: The model, with the tokens of the attacked agent.
        texts: Texts as lists of tokens.
        words: The words of triggers.
    """

    def __init__(self, model: PreTrainedModel, texts: Sequence[Sequence[int]], words: Words):
        self._model, self._words = model, words
        self._texts = [list(text) for text in texts[:_CONTEXTS] if text]
        self._known: dict[tuple[int, ...], Tensor] = {}

    @torch.no_grad()
    def __call__(self, before: Sequence[int]) -> Tensor:
        """Return the log-probabilities of the next word, (W,): means over the texts."""
        before = tuple(before)
        if before not in self._known:
            own, found = self._words.tokens[list(before)].tolist(), []
            for text in self._texts:
                ids = torch.tensor([[*text, *own]], device=self._model.device)
                logits = self._model(input_ids=ids, use_cache=False).logits[0, -1].double().cpu()
                found.append(logits.log_softmax(dim=0)[self._words.tokens])
            self._known[before] = torch.stack(found).mean(dim=0)
        return self._known[before]


def observed_tokens(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[dict[str, Any]], roles: Collection[str]
) -> list[list[int]]:
    """Return the tokens of each message of these roles."""
    texts = [message["content"] for row in rows for message in row["prompt"] if message["role"] in roles]
    return tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []


def check_same_tokens(tokenizer: PreTrainedTokenizerBase, judge: PreTrainedTokenizerBase) -> None:
    """
    Check that a language model has the tokens of the attacked agent.

    Raises:
        ValueError: if not.
    """
    if tokenizer.get_vocab() != judge.get_vocab():
        raise ValueError(
            "it has other tokens than the agent: give a model with the same tokenizer, such as the one that the agent was "
            "fine-tuned from, or leave the option out for an n-gram model of the observations"
        )
