"""The mean loss of an agent on many prompts, as a function of the words of a trigger that all of them end with."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...training.data.triggers import with_trigger
from ...training.policy.policy import frozen_parameters
from ..batches import batches_by_length, read_batch
from .losses import Loss
from .target import Target


@dataclass(frozen=True)
class Words:
    """
    The words that triggers are made of. Each is one token, also between other words, so that a trigger has the same
    tokens after decoding and encoding.

    Attributes:
        tokens: Their tokens, (W,).
        texts: Their texts, without spaces around them.
    """

    tokens: Tensor
    texts: tuple[str, ...]

    def text(self, words: Sequence[int]) -> str:
        """Return the text of a trigger, given by the numbers of its words."""
        return " ".join(self.texts[word] for word in words)

    def without(self, texts: Collection[str]) -> Words:
        """Return the words that are not among these texts, which are in lower case."""
        kept = [number for number, text in enumerate(self.texts) if text.lower() not in texts]
        return Words(self.tokens[kept], tuple(self.texts[number] for number in kept))


def words_of(tokenizer: PreTrainedTokenizerBase) -> Words:
    """Return all words of a tokenizer: no special tokens, no parts of words, nothing that cannot be printed."""
    tokens = [token for token in range(len(tokenizer)) if token not in tokenizer.added_tokens_decoder]
    texts = [text.strip() for text in tokenizer.batch_decode([[token] for token in tokens])]
    likely = [(token, text) for token, text in zip(tokens, texts, strict=True) if text and text.isprintable()]
    # Three times: the first may be another token, because no space is before it.
    spoken = tokenizer([f"{text} {text} {text}" for _, text in likely], add_special_tokens=False)["input_ids"]
    kept = [
        pair
        for pair, ids in zip(likely, spoken, strict=True)
        if ids[-2:] == [pair[0]] * 2 and pair[0] != tokenizer.unk_token_id
    ]
    return Words(torch.tensor([token for token, _ in kept], dtype=torch.long), tuple(text for _, text in kept))


@dataclass(frozen=True)
class Slots:
    """
    Some prompts that end with a trigger.

    Attributes:
        target: The agent on these prompts, whose perturbable tokens are those of the trigger.
        places: The positions of the trigger's tokens in each prompt, (B, n).
    """

    target: Target
    places: Tensor

    def delta(self, vectors: Tensor) -> Tensor:
        """Return the perturbations (B, L, d) that put these embeddings (n, d) in the place of the trigger's."""
        rows = torch.arange(len(self.places), device=self.places.device)[:, None]
        delta = self.target.origin.clone()
        delta[rows, self.places] = vectors - self.target.state[rows, self.places]
        return delta


class TriggerLoss:
    """
    The mean loss over all prompts.

    Args:
        slots: The prompts, in batches.
        table: The embeddings of the words, (W, d).
        loss: The loss of each prompt.

    Attributes:
        passes: Number of passes over all prompts so far. A gradient counts as three.
    """

    def __init__(self, slots: Sequence[Slots], table: Tensor, loss: Loss):
        self.slots, self.table, self.loss, self.passes = list(slots), table, loss, 0
        self.examples = sum(len(some.target.batch) for some in slots)

    @torch.no_grad()
    def __call__(self, words: Sequence[int]) -> float:
        """Return the mean loss with the trigger of these words."""
        self.passes += 1
        vectors = self.table[list(words)]
        return sum(float(self._sum(some, some.delta(vectors))) for some in self.slots) / self.examples

    def gradient(self, words: Sequence[int]) -> Tensor:
        """Return the gradient of the mean loss in the embeddings of the trigger's tokens, (n, d)."""
        self.passes += 3
        total = torch.zeros_like(self.table[list(words)])
        for some in self.slots:
            vectors = self.table[list(words)].detach().requires_grad_(True)
            with torch.enable_grad():
                (found,) = torch.autograd.grad(self._sum(some, some.delta(vectors)), vectors)
            total += found
        return total / self.examples

    def hotflip(self, words: Sequence[int]) -> Tensor:
        """
        Return how much the loss rises, to first order, if one word of the trigger is replaced: (n, W), for each place
        and each new word (HotFlip, Ebrahimi et al., arXiv 1712.06751).
        """
        gradient = self.gradient(words)
        return gradient @ self.table.T - (gradient * self.table[list(words)]).sum(dim=1, keepdim=True)

    def _sum(self, some: Slots, delta: Tensor) -> Tensor:
        return self.loss(some.target.policy(delta), some.target.batch).sum()


def trigger_loss(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: list[dict[str, Any]],
    words: Words,
    length: int,
    *,
    roles: Collection[str],
    loss: Loss,
    batch_size: int = 32,
) -> TriggerLoss | None:
    """
    Return the loss of triggers with `length` words on rows with `prompt` and `completion`. Rows in which nobody of the
    roles speaks are left out.

    Returns:
        None if there are fewer than two words, or no row is left, for example because the chat template changes what is
        said.
    """
    if len(words.texts) < 2:
        return None
    # The places of the trigger are where two prompts with other triggers differ.
    pairs = []
    for row in rows:
        said = [with_trigger(row["prompt"], words.text([word] * length), roles) for word in (0, 1)]
        if said[0] is not None:
            pairs.append([row | {"prompt": prompt} for prompt in said])
    found = []
    with frozen_parameters(model):
        for numbers in batches_by_length(tokenizer, [one for one, _ in pairs], batch_size) if pairs else ():
            found.append(_slots(model, tokenizer, [pairs[number] for number in numbers], words, length))
        found = [some for some in found if some is not None]
        if not found:
            return None
        device = found[0].target.state.device
        with torch.no_grad():
            table = model.get_input_embeddings()(words.tokens[None].to(device))[0]
    return TriggerLoss(found, table.to(found[0].target.state.dtype), loss)


def _slots(model, tokenizer, pairs: list[list[dict[str, Any]]], words: Words, length: int) -> Slots | None:
    """The slots of some rows, of which each is given with two triggers; None if none has the trigger's tokens."""
    both = [
        read_batch(tokenizer, list(rows), "prompt", model.device, candidates=False)
        for rows in zip(*pairs, strict=True)
    ]
    ids = [batch.input_ids for batch in both]
    if ids[0].shape != ids[1].shape:
        return None
    differ = ids[0] != ids[1]
    as_said = (differ <= (ids[0] == words.tokens[0].to(ids[0]))).all(dim=1)
    kept = ((differ.sum(dim=1) == length) & as_said).nonzero().flatten()
    if not len(kept):
        return None
    mask = differ[kept]
    batch = replace(both[0].select(kept), perturbable=mask)
    return Slots(Target(model, batch), mask.nonzero()[:, 1].reshape(len(kept), length))
