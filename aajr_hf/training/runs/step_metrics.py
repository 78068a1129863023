"""The metrics of an optimizer step: kept on the device for each micro-batch, gathered from all processes once."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch import Tensor


class StepMetrics:
    """The scalars of the micro-batches since the last gathering."""

    def __init__(self):
        self._names: list[tuple[str, ...]] = []
        self._values: list[Tensor] = []

    def add(self, metrics: dict[str, Tensor]) -> None:
        """Scalars of one micro-batch, whose names are the same on all processes."""
        self._names.append(tuple(metrics))
        self._values.append(torch.stack([value.detach().float() for value in metrics.values()]))

    def gather(self, accelerator: Accelerator) -> list[list[dict[str, float]]]:
        """
        For each micro-batch, the metrics of each process, and begin anew. One gathering and one transfer: every process sees the
        same numbers, and so decides alike.
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
