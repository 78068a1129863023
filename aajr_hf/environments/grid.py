"""The grid of `hide_and_seek`: walls, moves, lines of sight and distances."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import cached_property

import numpy as np

Cell = tuple[int, int]
MOVES: dict[str, Cell] = {"stay": (0, 0), "north": (0, -1), "east": (1, 0), "south": (0, 1), "west": (-1, 0)}


@dataclass(frozen=True)
class Grid:
    """A square grid of `size` times `size` cells. Some cells are walls; all other cells are connected."""

    size: int
    walls: frozenset[Cell]

    @staticmethod
    def sample(rng: np.random.Generator, size: int, walls: int) -> Grid:
        """Sample a random grid. Cells that walls separate from the largest connected part become walls, too."""
        cells = [(int(i) % size, int(i) // size) for i in rng.permutation(size * size)]
        grid = Grid(size, frozenset(cells[:walls]))
        left, parts = cells[walls:], []
        while left:
            parts.append(grid.distances(left[0]))
            left = [cell for cell in left if cell not in parts[-1]]
        return Grid(size, frozenset(cells) - frozenset(max(parts, key=len)))

    @cached_property
    def cells(self) -> list[Cell]:
        """The cells that are not walls."""
        every = ((x, y) for y in range(self.size) for x in range(self.size))
        return [cell for cell in every if cell not in self.walls]

    def is_free(self, cell: Cell) -> bool:
        return 0 <= cell[0] < self.size and 0 <= cell[1] < self.size and cell not in self.walls

    def after(self, cell: Cell, move: str) -> Cell | None:
        """Return the cell that a move leads to; None if a wall or the edge is in the way."""
        dx, dy = MOVES[move]
        target = cell[0] + dx, cell[1] + dy
        return target if self.is_free(target) else None

    def distances(self, origin: Cell) -> dict[Cell, int]:
        """Return the number of moves from `origin` to every reachable cell; the result is cached."""
        if origin not in self._distances:
            self._distances[origin] = self._search(origin)
        return self._distances[origin]

    @cached_property
    def _distances(self) -> dict[Cell, dict[Cell, int]]:
        return {}

    def _search(self, origin: Cell) -> dict[Cell, int]:
        found, queue = {origin: 0}, deque([origin])
        while queue:
            cell = queue.popleft()
            for move in MOVES:
                target = self.after(cell, move)
                if target is not None and target not in found:
                    found[target] = found[cell] + 1
                    queue.append(target)
        return found

    def sees(self, one: Cell, other: Cell, sight: int) -> bool:
        """Whether two cells are at most `sight` rows and columns apart and no wall is on the line between them."""
        # Sorting makes sight symmetric: both agents trace the same line.
        one, other = sorted((one, other))
        dx, dy = other[0] - one[0], other[1] - one[1]
        far = max(abs(dx), abs(dy))
        if far > sight:
            return False
        return not any(
            (one[0] + _rounded(dx * i, far), one[1] + _rounded(dy * i, far)) in self.walls for i in range(1, far)
        )


def _rounded(numerator: int, denominator: int) -> int:
    """Return the quotient rounded to the nearest integer, with halves rounded up."""
    return (2 * numerator + denominator) // (2 * denominator)
