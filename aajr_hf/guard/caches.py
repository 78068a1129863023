"""Caches of messages: written by a sender, read by an agent in place of the text."""

from __future__ import annotations

import inspect

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache, DynamicLayer

# The keys and the values of each layer, each (B, heads, P, width).
States = list[tuple[Tensor, Tensor]]


def write(model: PreTrainedModel, messages: list[list[int]], pad_token: int) -> tuple[States, Tensor]:
    """
    Write the caches of B messages, without a graph.

    Returns:
        The keys and values, padded on the right to P tokens, and a mask (B, P) that is 1 at the tokens of the messages.

    Raises:
        ValueError: if the model does not keep the keys and values of all tokens, or takes no positions.
    """
    ids = _padded(messages, pad_token).to(model.device)
    mask = _padded([[1] * len(message) for message in messages], 0).to(model.device)
    with torch.no_grad():
        cache = model(input_ids=ids, attention_mask=mask, use_cache=True).get("past_key_values")
    layers = cache.layers if isinstance(cache, DynamicCache) else []
    takes_positions = "position_ids" in inspect.signature(model.forward).parameters
    if not layers or any(type(layer) is not DynamicLayer for layer in layers) or not takes_positions:
        raise ValueError(
            f"A {model.config.model_type} model cannot share caches: it has layers without full attention, or no position ids: "
            "use another model."
        )
    return [(layer.keys, layer.values) for layer in layers], mask


def as_cache(states: States) -> DynamicCache:
    """Return a new cache with these keys and values; the model that reads it appends its own."""
    cache = DynamicCache()
    for layer, (keys, values) in enumerate(states):
        cache.update(keys, values, layer)
    return cache


def answer_logits(
    model: PreTrainedModel,
    states: States,
    mask: Tensor,
    own: list[list[int]],
    answers: list[list[int]],
    pad_token: int,
) -> tuple[Tensor, Tensor]:
    """
    Read caches and the own tokens that follow them, and predict given answers. Gradients flow to the states.

    Args:
        states, mask: The caches, as [`write`] returns them.
        own, answers: For each of the B caches, the tokens of the rest of the prompt and of the answer.

    Returns:
        The logits (B, R, V), and the tokens that they should predict (B, R): -100 where no token of an answer is
        predicted.
    """
    text = [[*before, *answer] for before, answer in zip(own, answers, strict=True)]
    ids = _padded(text, pad_token).to(mask.device)
    labels = _padded([[-100] * len(b) + a for b, a in zip(own, answers, strict=True)], -100).to(mask.device)
    whole = torch.cat([mask, _padded([[1] * len(tokens) for tokens in text], 0).to(mask.device)], dim=1)
    positions = (whole.cumsum(dim=1) - 1)[:, mask.shape[1] :]
    output = model(
        input_ids=ids, attention_mask=whole, position_ids=positions, past_key_values=as_cache(states), use_cache=True
    )
    return output.logits[:, :-1], labels[:, 1:]


def generate_after(
    model: PreTrainedModel, states: States, mask: Tensor, own: list[list[int]], pad_token: int, max_new_tokens: int
) -> list[list[int]]:
    """
    Generate an answer after each of B caches and the own tokens that follow it, as `generate` of `evaluation` does after
    a prompt.
    """
    # Own tokens are padded on the left, between cache and text, so that every prompt ends where its answer begins.
    ids = _padded(own, pad_token, "left").to(mask.device)
    whole = torch.cat([mask, _padded([[1] * len(tokens) for tokens in own], 0, "left").to(mask.device)], dim=1)
    # `generate` skips as many tokens as the cache holds, whatever they are.
    skipped = torch.full_like(mask, pad_token)
    with torch.no_grad():
        output = model.generate(
            input_ids=torch.cat([skipped, ids], dim=1),
            attention_mask=whole,
            past_key_values=as_cache(states),
            max_new_tokens=max_new_tokens,
        )
    return output[:, whole.shape[1] :].tolist()


def _padded(rows: list[list[int]], value: int, side: str = "right") -> Tensor:
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value, padding_side=side)
