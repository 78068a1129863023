"""The guard: a small change of each key and each value of a cache before a peer reads it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .caches import States, write


class CacheGuard(nn.Module):
    """
    `K' = K + C + S * noise` for the keys of each layer at each token, all heads together, and likewise for the values, with
    `(C, S) = W2 GELU(W1 x)` and standard normal noise; x is the token's keys and values of all layers, each after a layer
    norm. `W2` is zero at the start, so that a new guard changes nothing. The noise is drawn anew in each call.

    In LCGuard (arXiv 2605.22786), x is LN(K) alone, and there is no noise. But the values of the first layer depend on the token
    alone, so a guard that sees nothing else cannot tell a private digit from a public one; and what is changed without noise can be
    changed back.

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
        flat = [width for pair in widths for width in pair]
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in flat)
        self.changes = nn.ModuleList(_Change(sum(flat), width, bottleneck) for width in flat)

    def forward(self, states: States) -> States:
        """Return the keys and values that a peer gets, in the shapes and types of those given."""
        each = [one for pair in states for one in pair]
        flat = [one.transpose(1, 2).flatten(2).to(self.norms[0].weight.dtype) for one in each]
        seen = torch.cat([norm(one) for norm, one in zip(self.norms, flat, strict=True)], dim=2)
        passed = [change(one, seen) for change, one in zip(self.changes, each, strict=True)]
        return list(zip(passed[::2], passed[1::2], strict=True))

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
    def __init__(self, seen: int, width: int, bottleneck: int):
        super().__init__()
        self.inner = nn.Linear(seen, bottleneck)
        self.outer = nn.Linear(bottleneck, 2 * width, bias=False)
        nn.init.zeros_(self.outer.weight)

    def forward(self, states: Tensor, seen: Tensor) -> Tensor:
        change, scale = self.outer(nn.functional.gelu(self.inner(seen))).chunk(2, dim=2)
        change = change + scale * torch.randn_like(scale)
        return (states + change.unflatten(2, (states.shape[1], -1)).transpose(1, 2)).to(states.dtype)


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
