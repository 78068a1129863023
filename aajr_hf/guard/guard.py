"""The guard: a small change of each key and each value of a cache before a peer reads it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .caches import States, write


class CacheGuard(nn.Module):
    """
    `K' = K + W2 GELU(W1 LN(K))` for the keys of each layer at each token, all heads together, and likewise for the
    values (arXiv 2605.22786). `W2` is zero at the start, so that a new guard changes nothing.

    Args:
        widths: Width of keys and of values in each layer: heads times the width of a head.
        bottleneck: Output width of `W1`.

    Raises:
        ValueError: for a bottleneck below 1.
    """

    def __init__(self, widths: list[tuple[int, int]], bottleneck: int = 16):
        super().__init__()
        if bottleneck < 1:
            raise ValueError(f"`bottleneck` must be at least 1; got {bottleneck}.")
        self.widths, self.bottleneck = [tuple(pair) for pair in widths], bottleneck
        self.keys = nn.ModuleList(_Change(width, bottleneck) for width, _ in widths)
        self.values = nn.ModuleList(_Change(width, bottleneck) for _, width in widths)

    def forward(self, states: States) -> States:
        """Return the keys and values that a peer gets, in the shapes and types of those given."""
        return [
            (of_keys(keys), of_values(values))
            for of_keys, of_values, (keys, values) in zip(self.keys, self.values, states, strict=True)
        ]

    def check_fits(self, model: PreTrainedModel) -> None:
        """
        Check that the guard was made for caches of the model's shape.

        Raises:
            ValueError: if not.
        """
        if (found := cache_widths(model)) != self.widths:
            raise ValueError(
                f"The guard is for caches of {_text(self.widths)}, but those of the model have {_text(found)}: train one for this "
                "model with `aajr guard`."
            )


class _Change(nn.Module):
    def __init__(self, width: int, bottleneck: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.inner = nn.Linear(width, bottleneck)
        self.outer = nn.Linear(bottleneck, width, bias=False)
        nn.init.zeros_(self.outer.weight)

    def forward(self, states: Tensor) -> Tensor:
        heads = states.shape[1]
        flat = states.transpose(1, 2).flatten(2).to(self.outer.weight.dtype)
        change = self.outer(nn.functional.gelu(self.inner(self.norm(flat))))
        return (states + change.unflatten(2, (heads, -1)).transpose(1, 2)).to(states.dtype)


@torch.no_grad()
def cache_widths(model: PreTrainedModel) -> list[tuple[int, int]]:
    """
    Return the width of keys and of values in each layer of the model's caches.

    Raises:
        ValueError: if the model cannot share caches.
    """
    states, _ = write(model, [[0]], 0)
    return [(keys.shape[1] * keys.shape[3], values.shape[1] * values.shape[3]) for keys, values in states]


def _text(widths: list[tuple[int, int]]) -> str:
    return f"{len(widths)} layers of widths {', '.join(sorted({f'{keys}+{values}' for keys, values in widths}))}"
