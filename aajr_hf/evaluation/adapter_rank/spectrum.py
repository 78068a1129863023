"""Singular spectra of matrices that are never stored as a whole, and the energy that their directions carry."""

from __future__ import annotations

import torch
from torch import Tensor

# Up to this size, spectra are exact: a Gram matrix of 2048 x 2048 takes 32 MiB and one second.
EXACT_SIZE = 2048
SKETCH_SIZE = 256


class RowSpectrum:
    """
    The singular spectrum of a matrix whose rows arrive in batches. The memory does not depend on the number of rows.
    Up to a width of [`EXACT_SIZE`], the Gram matrix is stored. Beyond it, the product of the Gram matrix and
    `SKETCH_SIZE` random columns is stored, and the Nystroem method gives the largest singular values (Tropp et al.,
    arXiv 1706.05736).
    """

    def __init__(self, width: int):
        self.width = width
        self.rows = 0
        self.energy = 0.0
        self._test: Tensor | None = None
        if width > EXACT_SIZE:
            generator = torch.Generator().manual_seed(0)
            random = torch.randn(width, SKETCH_SIZE, generator=generator, dtype=torch.float64)
            self._test = torch.linalg.qr(random).Q
        self._sum = torch.zeros(width, width if self._test is None else SKETCH_SIZE, dtype=torch.float64)

    def add(self, rows: Tensor) -> None:
        """Add rows (n, width)."""
        rows = rows.detach().double().cpu()
        self.rows += len(rows)
        self.energy += float(rows.square().sum())
        self._sum += rows.T @ (rows if self._test is None else rows @ self._test)

    def singular_values(self) -> Tensor:
        """Return the singular values in descending order; from a sketch, only the largest ones."""
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
    """
    Return the singular values in descending order. If both sides of the matrix exceed [`EXACT_SIZE`], return only the
    largest `SKETCH_SIZE`, from a randomised SVD.
    """
    matrix = matrix.detach().double()
    if min(matrix.shape) <= EXACT_SIZE:
        return torch.linalg.svdvals(matrix).cpu()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return torch.svd_lowrank(matrix, q=SKETCH_SIZE, niter=4)[1].cpu()


def coverage(singular_values: Tensor, energy: float | None = None) -> Tensor:
    """
    Return the share of the energy that the first r directions carry, for r = 1, 2, ... The total is `energy` or, if
    None, the sum of the squared singular values. If the total is zero, the shares are zero.
    """
    squares = singular_values.double().square()
    total = float(squares.sum()) if energy is None else energy
    return squares.cumsum(0) / total if total > 0 else torch.zeros_like(squares)


def directions_for(shares: Tensor, share: float) -> int | None:
    """Return the number of directions that carry this share; None if all known ones do not."""
    # The tolerance keeps rounding from adding one direction.
    enough = (shares >= share - 1e-9).nonzero()
    return int(enough[0]) + 1 if len(enough) else None


def stable_rank(singular_values: Tensor) -> float:
    """`||M||_F^2 / ||M||_2^2`: at most the rank, and insensitive to small singular values. Zero for a zero matrix."""
    squares = singular_values.double().square()
    return float(squares.sum() / squares.max()) if len(squares) and float(squares.max()) > 0 else 0.0
