"""What is measured of losses and spectra: decades, minima of a surface, the smoothed density of eigenvalues.

    phi(x) = mean over probes of sum_k w_k N(x; theta_k, s),    s = 5e-5 max(1, range of the nodes)
"""

from __future__ import annotations

import itertools
import math

import numpy as np
from scipy.ndimage import gaussian_filter1d

LOWEST = 1e-12  # loss
VARIANCE = 5e-5  # of the kernel of a density, over the range of the nodes


def decades(loss: np.ndarray) -> np.ndarray:
    """Return log10 of losses, at least -12; inf where a loss is not finite."""
    finite = np.isfinite(loss)
    return np.where(finite, np.log10(np.clip(np.where(finite, loss, 1.0), LOWEST, None)), np.inf)


def count_minima(loss: np.ndarray, depth: float) -> int:
    """Return how many minima a surface has that lie `depth` decades or more below the saddle to a lower point.

    Saddles are those of paths over the eight neighbours. A valley across the grid passes between its points, whose
    losses then go up and down along it; so on a path a point that is lowest in its row or column counts as the lowest
    point of the parabola through it and its two neighbours there, but no lower than the lowest point of all: two minima
    are one if the grid is too coarse to tell. Minima at the border are not counted.

    Args:
        loss: (g, h) positive and finite.
        depth: decades.
    """
    z, path = decades(loss).ravel(), decades(np.maximum(_between(loss), loss.min())).ravel()
    rows, columns = loss.shape
    border = np.ones(loss.shape, bool)
    border[1:-1, 1:-1] = False
    border = border.ravel()
    basin = np.full(z.size, -1)  # the point that a point leads to, itself at the bottom; not flooded yet: -1
    lowest = np.arange(z.size)  # of a basin, by its bottom

    def bottom(point: int) -> int:
        while basin[point] != point:
            basin[point] = point = basin[basin[point]]
        return point

    found = 0
    for point in np.argsort(path, kind="stable"):  # floods from below; basins that meet become one
        basin[point] = point
        i, j = divmod(int(point), columns)
        around = (range(max(0, at - 1), min(size, at + 2)) for at, size in ((i, rows), (j, columns)))
        for k, m in itertools.product(*around):
            if basin[k * columns + m] < 0:
                continue
            one, other = bottom(point), bottom(k * columns + m)
            if one == other:
                continue
            if (z[lowest[one]], border[lowest[one]]) < (z[lowest[other]], border[lowest[other]]):
                one, other = other, one
            found += bool(path[point] - z[lowest[one]] >= depth and not border[lowest[one]])
            basin[one] = other
    return found + int(not border[lowest[bottom(0)]])


def _between(loss: np.ndarray) -> np.ndarray:
    """Return the losses with each point lowest in its row or column replaced by the lowest of the parabola there."""
    found = loss.copy()
    for values, target in ((loss, found), (loss.T, found.T)):
        before, here, after = values[:-2], values[1:-1], values[2:]
        bend = before - 2 * here + after
        with np.errstate(invalid="ignore", divide="ignore"):
            vertex = here - (after - before) ** 2 / (8 * bend)
        lower = (here <= before) & (here <= after) & (bend > 0)
        target[1:-1] = np.minimum(target[1:-1], np.where(lower, vertex, here))
    return found


def density(nodes: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a uniform grid and the smoothed density on it, whose integral is 1.

    Args:
        nodes: (probes, m).
        weights: (probes, m), with the sum 1 for each probe.
    """
    used = nodes[weights > 0]
    low, high = float(used.min()), float(used.max())
    width = math.sqrt(VARIANCE * max(1.0, high - low))
    step = max(width / 8, (high - low) / 1e6)
    low, high = low - 8 * width, high + 8 * width
    grid = low + step * np.arange(math.ceil((high - low) / step) + 2)
    place = (nodes - low) / step
    left = np.clip(place.astype(int), 0, len(grid) - 2)
    found = np.zeros(len(grid))  # each node is shared by its two neighbours on the grid
    np.add.at(found, left, weights * (1 - (place - left)))
    np.add.at(found, left + 1, weights * (place - left))
    found = gaussian_filter1d(found, width / step, mode="constant", truncate=8)
    return grid, found / (found.sum() * step)
