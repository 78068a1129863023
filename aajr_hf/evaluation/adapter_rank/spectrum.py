"""Singular spectra of matrices that are never held whole: how many directions carry how much of the energy."""

from __future__ import annotations

import torch
from torch import Tensor

# Up to this size a spectrum is exact: a Gram matrix of 2048 x 2048 takes 32 MiB and a second.
EXACT_SIZE = 2048
SKETCH_SIZE = 256


class RowSpectrum:
    """
    The singular spectrum of a matrix whose rows, of a given width, arrive in batches. What is kept does not grow with their
    number: the Gram matrix up to a width of [`EXACT_SIZE`], beyond it its product with `SKETCH_SIZE` random columns, from
    which the largest singular values follow by the Nystroem method (Tropp et al., arXiv 1706.05736).
    """

    def __init__(self, width: int, seed: int = 0):
        self.width = width
        self.rows = 0
        self.energy = 0.0
        self._test: Tensor | None = None
        if width > EXACT_SIZE:
            generator = torch.Generator().manual_seed(seed)
            random = torch.randn(width, SKETCH_SIZE, generator=generator, dtype=torch.float64)
            self._test = torch.linalg.qr(random).Q
        self._sum = torch.zeros(width, width if self._test is None else SKETCH_SIZE, dtype=torch.float64)

    def add(self, rows: Tensor) -> None:
        """Rows (n, width)."""
        rows = rows.detach().double().cpu()
        self.rows += len(rows)
        self.energy += float(rows.square().sum())
        self._sum += rows.T @ (rows if self._test is None else rows @ self._test)

    def singular_values(self) -> Tensor:
        """Descending; from a sketch, the largest ones alone."""
        if self.energy == 0:
            values = torch.zeros(self._sum.shape[1], dtype=torch.float64)
        elif self._test is None:
            values = torch.linalg.eigvalsh(self._sum)
        else:
            core = self._test.T @ self._sum
            shift = torch.finfo(torch.float64).eps * self.energy
            # G is near Y (T'Y)^-1 Y' with Y = G T; the shift keeps the Cholesky factor of T'Y real.
            factor = torch.linalg.cholesky((core + core.T) / 2 + shift * torch.eye(len(core), dtype=torch.float64))
            half = torch.linalg.solve_triangular(factor, self._sum.T, upper=False)
            values = torch.linalg.svdvals(half).flip(0).square()
        return values.flip(0).clamp_min(0).sqrt()[: min(self.rows, self.width)]


def matrix_singular_values(matrix: Tensor) -> Tensor:
    """Descending; of a matrix beyond [`EXACT_SIZE`] on both sides, the largest `SKETCH_SIZE` by a randomised SVD."""
    matrix = matrix.detach().double()
    if min(matrix.shape) <= EXACT_SIZE:
        return torch.linalg.svdvals(matrix).cpu()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return torch.svd_lowrank(matrix, q=SKETCH_SIZE, niter=4)[1].cpu()


def coverage(singular_values: Tensor, energy: float | None = None) -> Tensor:
    """
    The share of the energy that the first r directions carry, for r = 1, 2, ...; of the sum of squares unless the whole
    `energy` is known to be larger. Zero where there is none.
    """
    squares = singular_values.double().square()
    total = float(squares.sum()) if energy is None else energy
    return squares.cumsum(0) / total if total > 0 else torch.zeros_like(squares)


def directions_for(shares: Tensor, share: float) -> int | None:
    """How many directions carry this share; None where those that are known do not."""
    # Rounding must not ask for one more.
    enough = (shares >= share - 1e-9).nonzero()
    return int(enough[0]) + 1 if len(enough) else None


def stable_rank(singular_values: Tensor) -> float:
    """`||M||_F^2 / ||M||_2^2`: at most the rank, and insensitive to small singular values. Zero for a zero matrix."""
    squares = singular_values.double().square()
    return float(squares.sum() / squares.max()) if len(squares) and float(squares.max()) > 0 else 0.0
