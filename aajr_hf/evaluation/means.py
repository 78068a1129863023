"""Means over examples that arrive in batches."""

from __future__ import annotations

from typing import Any

from torch import Tensor


class Means:
    """Means over examples, collected batch by batch. Several names give a path into nested dictionaries."""

    def __init__(self):
        self._sums: dict[tuple[str, ...], float] = {}
        self._counts: dict[tuple[str, ...], int] = {}

    def add(self, values: Tensor, *names: str) -> None:
        self._add(names, float(values.double().sum()), values.numel())

    def include(self, other: Means) -> None:
        """Add the values that another object has collected."""
        for names, total in other._sums.items():
            self._add(names, total, other._counts[names])

    def _add(self, names: tuple[str, ...], total: float, count: int) -> None:
        self._sums[names] = self._sums.get(names, 0.0) + total
        self._counts[names] = self._counts.get(names, 0) + count

    def result(self) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for names, total in self._sums.items():
            inner = result
            for name in names[:-1]:
                inner = inner.setdefault(name, {})
            inner[names[-1]] = total / self._counts[names]
        return result
