"""A decoder that reads private words out of caches, to measure what a guard leaves."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .caches import States

_HEADS = 4


class ReconstructionAdversary(nn.Module):
    """
    A small transformer over the keys and values of all layers. It names the value of each private word of a sender,
    given the caches that the sender sends over one or several links.

    Args:
        widths: As in [`CacheGuard`].
        values: Number of values of each of m private words. There is one more value, for all others.
        width: Its own width, a multiple of 4.
        layers: Its own layers.
    """

    def __init__(self, widths: list[tuple[int, int]], values: list[int], *, width: int = 64, layers: int = 1):
        super().__init__()
        flat = [one for pair in widths for one in pair]
        self.norms = nn.ModuleList(nn.LayerNorm(one) for one in flat)
        self.inputs = nn.ModuleList(nn.Linear(one, width) for one in flat)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, _HEADS, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(layers)
        )
        self.queries = nn.Parameter(torch.randn(len(values), width) / width**0.5)
        self.heads = nn.ModuleList(nn.Linear(width, number + 1) for number in values)

    def forward(self, states: States, mask: Tensor, links: int = 1) -> list[Tensor]:
        """
        Args:
            states: Keys and values of B * links caches; those of one sender are adjacent.
            mask: (B * links, P), 1 at the tokens of messages.
            links: Number of caches of each sender.

        Returns:
            For each private word, logits (B, values).
        """
        flat = [one.transpose(1, 2).flatten(2).to(self.queries.dtype) for pair in states for one in pair]
        hidden = _sinusoids(mask.shape[1], self.queries.shape[1]).to(self.queries)
        for norm, into, one in zip(self.norms, self.inputs, flat, strict=True):
            hidden = hidden + into(norm(one))
        padding = mask == 0
        for layer in self.layers:
            hidden = layer(hidden, src_key_padding_mask=padding)
        scores = (hidden @ self.queries.T).masked_fill(padding[..., None], -torch.inf)
        read = scores.softmax(dim=1).transpose(1, 2) @ hidden
        read = read.unflatten(0, (-1, links)).mean(dim=1)
        return [head(read[:, word]) for word, head in enumerate(self.heads)]

    def losses(self, states: States, mask: Tensor, secrets: Tensor, links: int = 1) -> Tensor:
        """Return the mean cross entropy of each private word, (m,), in nats; `secrets` (B, m) are the right values."""
        found = self(states, mask, links)
        return torch.stack([nn.functional.cross_entropy(logits, secrets[:, i]) for i, logits in enumerate(found)])


def _sinusoids(length: int, width: int) -> Tensor:
    rates = 10000 ** -(torch.arange(0, width, 2) / width)
    angles = torch.arange(length)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)
