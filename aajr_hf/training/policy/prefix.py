"""
Keys and values of the tokens before the first one that is perturbed or predicts an action, such as a system prompt. They
are the same in every pass with the same weights, so they are computed once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from ..data.batch import AgentBatch

# A shorter prefix costs more than it saves.
_SHORTEST = 8


@dataclass(frozen=True)
class Prefix:
    """
    Attributes:
        length: The number of tokens, P.
        states: The keys and values of each layer, each (B, heads, P, width); or (1, heads, P, width) if all examples
            have the same prefix.
        shared: Whether all examples have the same prefix.
    """

    length: int
    states: list[tuple[Tensor, Tensor]]
    shared: bool

    def select(self, rows: Tensor) -> Prefix:
        """The prefix of some examples."""
        if self.shared:
            return self
        return Prefix(self.length, [(keys[rows], values[rows]) for keys, values in self.states], False)

    def arguments(self, batch: AgentBatch) -> dict[str, Any]:
        """Keyword arguments for the model that continue after the prefix."""
        cache = DynamicCache()  # a new one for each pass, because the pass extends it
        for layer, (keys, values) in enumerate(self.states):
            cache.update(keys.expand(len(batch), -1, -1, -1), values.expand(len(batch), -1, -1, -1), layer)
        return {"input_ids": batch.input_ids[:, self.length :], "past_key_values": cache, "use_cache": True}


def cached_prefix(model: nn.Module, batch: AgentBatch) -> Prefix | None:
    """
    Compute the prefix of a batch, without a graph.

    Returns:
        None if it would be too short, or if the model does not read earlier tokens only through the keys and values of
        full attention: with sliding windows, recurrent layers, packed rows, activation checkpointing in training
        (Transformers drops the cache there), or weights that are sharded (all processes must make equal numbers of
        passes).
    """
    if batch.packed is not None or _sharded(model) or model.training and _checkpoints(model):
        return None
    length = _length(batch)
    if length < _SHORTEST:
        return None
    tokens = batch.input_ids[:, :length]
    shared = bool((tokens == tokens[:1]).all())
    with torch.no_grad():
        cache = model(input_ids=tokens[:1] if shared else tokens, use_cache=True).get("past_key_values")
    if not isinstance(cache, DynamicCache) or any(type(layer) is not DynamicLayer for layer in cache.layers):
        return None
    return Prefix(length, [(layer.keys, layer.values) for layer in cache.layers], shared)


def _length(batch: AgentBatch) -> int:
    """Number of tokens before the first one of any example that is perturbable or whose logits predict an action."""
    first_perturbable = batch.perturbable.int().argmax(dim=1)
    first_action = batch.action_positions[:, 0]
    return int(torch.minimum(first_perturbable, first_action).min())


def _sharded(model: nn.Module) -> bool:
    return any(isinstance(parameter, DTensor) or hasattr(parameter, "ds_id") for parameter in model.parameters())


def _checkpoints(model: nn.Module) -> bool:
    return any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
