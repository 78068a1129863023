"""Ascents that start from perturbations found on other models, beyond points where the agent's own gradients stop."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .ascent import ascend
from .losses import LOSSES
from .search import Search


@dataclass(frozen=True)
class FromOthers:
    """
    An attack that starts ascents from perturbations found on other models.

    Attributes:
        name: Name of the attack.
        loss: Loss of the ascents, one of `LOSSES`.
        starts: Number of starts for each example: the perturbations of other models with the highest loss.
    """

    name: str
    loss: str
    starts: int = 2
    from_others = True
    every_example = False

    def __call__(self, search: Search) -> None:
        for start in self._starts(search)[: self.starts]:
            ascend(search, self.loss, start)

    @torch.no_grad()
    def _starts(self, search: Search) -> list[Tensor]:
        """Return the handed perturbations, (B, L, d) each, sorted for every example by loss, the highest first."""
        if not search.handed:
            return []
        batch = search.target.batch
        losses = torch.stack([LOSSES[self.loss](search.target.policy(delta), batch) for delta in search.handed])
        order = losses.argsort(dim=0, descending=True)
        handed = torch.stack(search.handed)
        return [handed[best, search.all_rows] for best in order]
