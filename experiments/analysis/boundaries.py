"""Regime boundaries: level sets of a grid at a threshold, and how far +-20 % moves them.

The raw grid is contoured, unsmoothed (paper D.3), and every connected component is kept.
Coordinates are cell indices, x = column and y = row, because the axes of a regime map are
categorical: cell (i, j) covers [j - 1/2, j + 1/2] x [i - 1/2, i + 1/2], its value in the middle.
"""

from __future__ import annotations

import math

import numpy as np
from contourpy import LineType, contour_generator

from analysis.collect import Grid
from analysis.thresholds import percentile

READINGS = ("percentile", "value")


def level_set(
    values: np.ndarray, level: float, *, log: bool = True, extend: bool = True
) -> list[np.ndarray]:
    """Return the curves {value = level}, one array (points, 2) of (x, y) a connected component.

    Every cell centre is on the side that its value says: a value equal to the level counts as low.

    Args:
        values: shape (rows, columns). NaN is a missing cell; curves end beside it. inf (a diverged
            cell) is high: it stands one data range (level included) above the largest value.
        level: the threshold; no curve if it is not finite.
        log: interpolate between neighbours in log(value). A loss falls by decades from one cell to
            the next; linear interpolation then draws the boundary through the middle of the
            better cell, as if half of it had failed. Which cells lie on which side is the same
            either way. Linear where a value or the level is not positive.
        extend: let the outermost cells reach half a cell further with their own value, to the
            frame of the map. Without it, curves end at the outermost cell centres, and a single
            row or column has none.
    """
    values = np.asarray(values, float)
    if not math.isfinite(level) or not np.isfinite(values).any():
        return []
    finite = values[np.isfinite(values)]
    if log and level > 0 and finite.min() > 0:
        with np.errstate(invalid="ignore"):
            values, finite, level = np.log(values), np.log(finite), math.log(level)
    low, high = min(finite.min(), level), max(finite.max(), level)
    values = np.where(np.isposinf(values), high + ((high - low) or 1.0), values)
    y, x = (np.arange(n, dtype=float) for n in values.shape)
    if extend:
        values = np.pad(values, 1, mode="edge")
        y, x = (np.r_[-0.5, axis, len(axis) - 0.5] for axis in (y, x))
    elif min(values.shape) < 2:
        return []
    masked = np.ma.masked_invalid(values)
    contours = contour_generator(x, y, masked, corner_mask=True, line_type=LineType.Separate)
    return [line for line in contours.lines(level) if np.ptp(line, axis=0).max() > 0]


def perturbed_levels(
    grid: Grid, level: float, *, reading: str, q: float | None = None, fraction: float = 0.2
) -> tuple[float, float]:
    """Return the thresholds (minus fraction, plus fraction).

    The paper perturbs "the percentile thresholds by +-20 %", which reads in two ways:
    `percentile` moves q itself (65 -> 52 and 78; at most 100), `value` moves the threshold's value.

    Raises:
        ValueError: unknown reading, or `percentile` for a threshold that has none.
    """
    if reading == "value":
        return level * (1 - fraction), level * (1 + fraction)
    if reading != "percentile":
        raise ValueError(f"reading {reading!r} is not one of {', '.join(READINGS)}")
    if q is None:
        raise ValueError("a threshold given as a number has no percentile to perturb")
    return percentile(grid, q * (1 - fraction)), percentile(grid, min(100.0, q * (1 + fraction)))
