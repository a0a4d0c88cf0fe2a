"""Training and test points, on the grids of the published code.

A grid of num_x times num_t points, ends included (257 x 101). Candidates for collocation are its interior points,
x[1..num_x-2] and t[1..num_t-1] (25,500, t slow and x fast); N_f of them are drawn without replacement, from the data
seed alone, so that the sets of one seed are nested in N_f. Initial points are all x at t = 0, boundary points all t at
both ends; these are always all used. The test grid takes every second x and all t: 129 x 101, as interior, initial and
two boundary pieces, 13,031 points in all (two corners count twice, as published).
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Grid:
    """A space-time grid on x_range times [0, 1]."""

    x_range: tuple[float, float]
    num_x: int = 257
    num_t: int = 101

    @property
    def x(self) -> np.ndarray:
        """(num_x,) nodes, both ends included."""
        return np.linspace(*self.x_range, self.num_x)

    @property
    def t(self) -> np.ndarray:
        """(num_t,) times, both ends included."""
        return np.linspace(0.0, 1.0, self.num_t)

    @property
    def candidates(self) -> np.ndarray:
        """Interior points, ((num_x - 2) (num_t - 1), 2), t slow and x fast."""
        x, t = np.meshgrid(self.x[1:-1], self.t[1:])
        return np.stack([x.ravel(), t.ravel()], 1)

    @property
    def initial(self) -> np.ndarray:
        """(num_x, 2) points at t = 0."""
        return np.stack([self.x, np.zeros(self.num_x)], 1)

    def boundary(self, end: int) -> np.ndarray:
        """(num_t, 2) points at the left (0) or right (1) end."""
        return np.stack([np.full(self.num_t, self.x_range[end]), self.t], 1)

    def coarse(self) -> "Grid":
        """The test grid: every second x, all t."""
        return Grid(self.x_range, (self.num_x - 1) // 2 + 1, self.num_t)

    def all_points(self, interior: np.ndarray | None = None) -> np.ndarray:
        """Interior (default all candidates), initial, right and left points, stacked in the published order."""
        interior = self.candidates if interior is None else interior
        return np.concatenate([interior, self.initial, self.boundary(1), self.boundary(0)])


def collocation_indices(grid: Grid, n: int, seed: int) -> np.ndarray:
    """Indices (n,) into `grid.candidates`, drawn without replacement by numpy's legacy generator, as published.

    Raises:
        ValueError: when n is not between 1 and the number of candidates.
    """
    count = (grid.num_x - 2) * (grid.num_t - 1)
    if not 1 <= n <= count:
        raise ValueError(f"the number of collocation points must be from 1 to {count}, got {n}")
    return np.random.RandomState(seed).choice(count, n, replace=False)


def relative_errors(found: np.ndarray, exact: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Relative L1 and L2 errors of found (R, n) against exact (R, n): sum|e| / sum|u| and |e|_2 / |u|_2."""
    error = found - exact
    l1 = np.abs(error).sum(-1) / np.abs(exact).sum(-1)
    return l1, np.sqrt((error**2).sum(-1) / (exact**2).sum(-1))
