"""The guard: what a peer reads instead of the keys and values of a cache."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from transformers import PreTrainedModel

from .caches import States, write

# The least scale of a code's noise, so that no divergence is infinite.
LEAST_SCALE = 0.01


class CacheGuard(nn.Module):
    """
    Makes a token's keys and values anew, out of a short code with noise:

        (mean, s) = W2 GELU(W1 x),    scale = softplus(s) + LEAST_SCALE
        code = mean + scale * noise,    all K' and V' of the token = W4 GELU(W3 code)

    where x is the token's keys and values of all layers, each after a layer norm, and the noise is standard normal and drawn
    anew in each call. Whoever reads the cache sees the codes at most, so it cannot tell two messages apart by more than
    the [`divergence`] of their codes (data processing).

    In LCGuard (arXiv 2605.22786), K' is K plus a change. But whatever stays of K without noise can be read.

    Args:
        widths: Width of keys and of values in each layer: heads times the width of a head.
        bottleneck: Width of a code. The layers between have four times this width.

    Raises:
        ValueError: for a bottleneck below 1.
    """

    def __init__(self, widths: list[tuple[int, int]], bottleneck: int = 32):
        super().__init__()
        if bottleneck < 1:
            raise ValueError(f"`bottleneck` must be at least 1; got {bottleneck}.")
        self.widths, self.bottleneck = [tuple(pair) for pair in widths], bottleneck
        self._flat = [width for pair in widths for width in pair]
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in self._flat)
        hidden = 4 * bottleneck
        self.encoder = nn.Sequential(nn.Linear(sum(self._flat), hidden), nn.GELU(), nn.Linear(hidden, 2 * bottleneck))
        self.decoder = nn.Sequential(nn.Linear(bottleneck, hidden), nn.GELU(), nn.Linear(hidden, sum(self._flat)))

    def codes(self, states: States) -> Normal:
        """Return the distribution of the codes, (B, P, bottleneck)."""
        flat = [one.transpose(1, 2).flatten(2).to(self.norms[0].weight.dtype) for pair in states for one in pair]
        seen = torch.cat([norm(one) for norm, one in zip(self.norms, flat, strict=True)], dim=2)
        mean, scale = self.encoder(seen).chunk(2, dim=2)
        return Normal(mean, nn.functional.softplus(scale) + LEAST_SCALE)

    def forward(self, states: States) -> States:
        """Return the keys and values that a peer gets, in the shapes and types of those given."""
        made = self.decoder(self.codes(states).rsample()).split(self._flat, dim=2)
        before = [one for pair in states for one in pair]
        after = [
            new.unflatten(2, (old.shape[1], -1)).transpose(1, 2).to(old.dtype)
            for old, new in zip(before, made, strict=True)
        ]
        return list(zip(after[::2], after[1::2], strict=True))

    def divergence(self, states: States, others: States, mask: Tensor) -> Tensor:
        """
        Return how well the codes of messages can be told from those of other messages of the same lengths: the
        Kullback-Leibler divergence, in nats, summed over the tokens of a message.

        Args:
            states, others: Keys and values of the B messages and of the others.
            mask: (B, P), 1 at the tokens of both.

        Returns:
            (B,) in float64, at least 0.
        """
        # In float64: where the codes are nearly the same, differences of float32 would be noise, also below zero.
        codes = (self.codes(each) for each in (states, others))
        apart = kl_divergence(*(Normal(each.mean.double(), each.stddev.double()) for each in codes)).sum(dim=2)
        return (apart * mask).sum(dim=1).clamp(min=0.0)

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
