"""The metrics of an optimizer step: kept on the device for each micro-batch, gathered from all processes once."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch import Tensor


class StepMetrics:
    """The scalar metrics of the micro-batches since the last call of [`gather`]."""

    def __init__(self):
        self._names: list[tuple[str, ...]] = []
        self._values: list[Tensor] = []

    def add(self, metrics: dict[str, Tensor]) -> None:
        """Add scalar metrics of one micro-batch; their names must be the same in all processes."""
        self._names.append(tuple(metrics))
        self._values.append(torch.stack([value.detach().float() for value in metrics.values()]))

    def gather(self, accelerator: Accelerator) -> list[list[dict[str, float]]]:
        """
        Return the metrics of each process for each micro-batch, and clear them. All are gathered and transferred at
        once. Every process gets the same numbers, so all processes decide alike.
        """
        if not self._names:
            return []
        rows = accelerator.gather(torch.cat(self._values)[None]).tolist()
        found, start = [], 0
        for names in self._names:
            part = slice(start, start := start + len(names))
            found.append([dict(zip(names, row[part], strict=True)) for row in rows])
        self._names, self._values = [], []
        return found


def mean_over_processes(metrics: list[dict[str, float]]) -> dict[str, float]:
    """The mean of each metric of one micro-batch."""
    means = torch.tensor([list(row.values()) for row in metrics]).mean(dim=0)
    return dict(zip(metrics[0], means.tolist(), strict=True))
