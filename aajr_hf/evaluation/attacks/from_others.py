"""Ascents that start from what was found on other models: past where an agent's own gradients stop."""

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
    Attributes:
        loss: Of the ascents, one of `LOSSES`.
        starts: How many perturbations of other models each example starts from: those at which its loss is highest.
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
        """The handed perturbations, (B, L, d) each: of every example the one with the highest loss first."""
        if not search.handed:
            return []
        batch = search.target.batch
        losses = torch.stack([LOSSES[self.loss](search.target.policy(delta), batch) for delta in search.handed])
        order = losses.argsort(dim=0, descending=True)
        handed = torch.stack(search.handed)
        return [handed[best, search.all_rows] for best in order]
