"""One panel of a regime map: cells, boundaries, regime numerals and the scale of its colours.

    train, test = (collect.build_grid(runs, metric, model=..., system=..., strategy=...) for metric in labels.METRICS)
    curves = panels.boundary_curves(train, test, limits)
    panels.draw_panel(axes, curves[0], curves, thin, labels.label_cells(train, test, limits), panels.PRINT)

Axes are categorical: cell (i, j) covers [j - 1/2, j + 1/2] x [i - 1/2, i + 1/2], most data on top. Colours follow the
paper, D.4: Eq. 22 with the 5th and 95th percentile of the panel, clamped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from scipy import ndimage

from analysis import boundaries, labels, style
from analysis.collect import Grid
from analysis.style import MISSING, Style, regime_colormap
from analysis.thresholds import Thresholds

ANNOTATE = 8  # cells of a picture on the screen carry their values up to this many rows and columns
NUMERAL: Style = {"weight": "bold", "family": "DejaVu Serif"}  # serifs tell I from a bar


@dataclass(frozen=True)
class Look:
    """Sizes in points: boundaries, their +-20 % curves, gaps between cells, numerals, values, tick labels."""

    thick: float
    thin: float
    gap: float
    numeral: float
    value: float
    tick: float

    def line(self, curve: Curve, *, thin: bool = False) -> Style:
        """Return the style of a boundary, or of the curves at its threshold -+ 20 %."""
        return curve.style | {"linewidth": self.thin if thin else self.thick}


SCREEN = Look(thick=2.2, thin=1.1, gap=0.6, numeral=11, value=8, tick=10)
PRINT = Look(thick=1.2, thin=0.5, gap=0.25, numeral=7, value=style.SMALLEST, tick=style.SMALLEST)


class Curve(NamedTuple):
    """One boundary: its name, the grid it is a level set of, the threshold, and its looks."""

    name: str
    grid: Grid
    level: float
    percentile: float | None
    style: Style


def boundary_curves(train: Grid, test: Grid, limits: Thresholds) -> tuple[Curve, Curve]:
    """Return the training and the test boundary of a map."""
    return (
        Curve("train", train, limits.train, limits.train_percentile, style.TRAIN),
        Curve("test", test, limits.test, limits.test_percentile, style.TEST),
    )


def perturbed(curves: Sequence[Curve], reading: str | None = None) -> tuple[str, list[tuple[float, float]]]:
    """Return what +-20 % moves ("percentile" or "value") and each curve's thresholds (minus, plus).

    Without a reading: the percentile if the thresholds have one.

    Raises:
        ValueError: the percentile is asked for and there is none.
    """
    reading = reading or ("value" if any(c.percentile is None for c in curves) else "percentile")
    return reading, [boundaries.perturbed_levels(c.grid, c.level, reading=reading, q=c.percentile) for c in curves]


def color_limits(values: np.ndarray) -> tuple[float, float]:
    """Return (v_min, v_max) of Eq. 22: 5th and 95th percentile of a panel's finite values."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 0.0, 1.0
    low, high = np.percentile(finite, (5, 95))
    return float(low), float(high)


def cell_colors(grid: Grid) -> np.ndarray:
    """Return RGBA, shape (rows, columns, 4), clamped outside the limits; transparent if missing.

    A cell without any finite seed lies above every limit and takes the last colour.
    """
    low, high = color_limits(grid.shown)
    shown = np.where(np.isnan(grid.shown), np.inf, grid.shown)
    colors = regime_colormap()(np.clip((shown - low) / ((high - low) or 1.0), 0.0, 1.0))
    colors[grid.count == 0] = 0.0
    return colors


def draw_panel(
    axes: Axes, own: Curve, curves: Sequence[Curve], thin: Sequence[float], regimes: np.ndarray, look: Look,
    *, log: bool = True,
) -> None:  # fmt: skip
    """Draw one metric of a map: cells, all `curves`, its own at the levels `thin`, and the regimes.

    On the screen every cell says its regime (and its value, in a small map); in print each connected region says it
    once.

    Args:
        axes: empty axes.
        own: the boundary whose grid is shown.
        curves: the boundaries drawn thick, on the same axes as `own`.
        thin: further levels of `own`, drawn thin.
        regimes: "I", "II", "III" or "", shape (rows, columns).
        look: SCREEN or PRINT.
        log: interpolate boundaries in the logarithm (see `boundaries.level_set`).
    """
    draw_cells(axes, cell_colors(own.grid), own.grid.count > 0, own.grid, look)
    for level in thin:
        draw_boundary(axes, own.grid, level, look.line(own, thin=True), log)
    for curve in curves:
        draw_boundary(axes, curve.grid, curve.level, look.line(curve), log)
    if look is SCREEN:
        _write_cells(axes, own.grid, regimes, look)
    else:
        write_regions(axes, cell_colors(own.grid), regimes, look)
        mark_diverged(axes, cell_colors(own.grid), own.grid.diverged > 0)


def draw_cells(axes: Axes, colors: np.ndarray, there: np.ndarray, grid: Grid, look: Look) -> None:
    """Fill the cells with RGBA `colors` (rows, columns, 4), hatch those not `there`, label the axes as the grid's."""
    rows, columns = colors.shape[:2]
    axes.imshow(colors, origin="lower", aspect="auto", interpolation="nearest")
    for i, j in np.argwhere(~there):
        axes.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, **MISSING))
    line = {"colors": "white", "linewidths": look.gap, "zorder": 2}
    axes.vlines(np.arange(0.5, columns - 1), -0.5, rows - 0.5, **line)
    axes.hlines(np.arange(0.5, rows - 1), -0.5, columns - 0.5, **line)
    axes.set(xlim=(-0.5, columns - 0.5), ylim=(-0.5, rows - 0.5))
    label_axes(axes, grid, look)


def label_axes(axes: Axes, grid: Grid, look: Look) -> None:
    """Write the swept values at the cells: all of them on the screen, as many as fit in print."""
    names = [labels.axis_text(value) for value in grid.physical]
    side = [labels.axis_text(value) for value in grid.data]
    if look is SCREEN:
        axes.set_xticks(range(len(names)), names, rotation=30 if max(map(len, names)) > 7 else 0)
        axes.set_yticks(range(len(side)), side)
    else:
        width, height = _points(axes)
        longest = max(map(len, names)) + 0.8
        every = math.ceil(0.62 * look.tick * longest * len(names) / width)
        # From the last one back: the hardest value and the largest amount of data are always named.
        chosen = range(len(names) - 1, -1, -every)
        axes.set_xticks(chosen, [names[j] for j in chosen])
        every = math.ceil(1.1 * look.tick * len(side) / height)
        chosen = range(len(side) - 1, -1, -every)
        axes.set_yticks(chosen, [side[i] for i in chosen])
    axes.tick_params(length=0, labelsize=look.tick)


def draw_boundary(axes: Axes, grid: Grid, level: float, line: Style, log: bool = True) -> None:
    """Draw every component of {grid = level}, with a white halo."""
    halo = withStroke(linewidth=1.8 * line["linewidth"], foreground="white")
    for points in boundaries.level_set(grid.values, level, log=log):
        axes.plot(points[:, 0], points[:, 1], **line, path_effects=[halo], zorder=3)


def draw_nothing(axes: Axes, grid: Grid | None, text: str, look: Look) -> None:
    """Draw a hatched frame that says `text`, with the axes of `grid` where they are known."""
    rows, columns = grid.values.shape if grid is not None else (1, 1)
    axes.add_patch(Rectangle((-0.5, -0.5), columns, rows, **MISSING))
    axes.set(xlim=(-0.5, columns - 0.5), ylim=(-0.5, rows - 0.5))
    axes.set(xticks=(), yticks=())
    if grid is not None:
        label_axes(axes, grid, look)
    box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", fontsize=look.value, bbox=box)


def write_regions(axes: Axes, colors: np.ndarray, regimes: np.ndarray, look: Look) -> None:
    """Write each connected region's numeral once, in its innermost cell, where there is room for it.

    Cells that share an edge are connected; innermost is farthest from the region's border, and then closest to its
    centre.
    """
    width, height = _points(axes)
    cell_width, cell_height = width / regimes.shape[1], height / regimes.shape[0]
    for name in labels.NAMES:
        regions, count = ndimage.label(regimes == name)
        for k in range(1, count + 1):
            mask = regions == k
            i, j = innermost(mask, (cell_height, cell_width))
            left, right = j, j
            while left > 0 and mask[i, left - 1]:
                left -= 1
            while right + 1 < mask.shape[1] and mask[i, right + 1]:
                right += 1
            fits = (right - left + 1) * cell_width >= (0.2 + 0.42 * len(name)) * look.numeral
            if mask.sum() == 1:  # its boundary runs through the cell
                fits = min(cell_width, cell_height) >= 1.5 * look.numeral
            if fits:
                _write(axes, colors[i, j], name, (j, i), (0, 0), fontsize=look.numeral, **NUMERAL)


def write_values(axes: Axes, colors: np.ndarray, texts: np.ndarray, look: Look) -> None:
    """Write texts (rows, columns) into those cells in which they fit."""
    width, height = _points(axes)
    rows, columns = texts.shape
    for i, j in np.argwhere(texts != ""):
        if 0.62 * look.value * len(texts[i, j]) <= width / columns and look.value <= height / rows:
            _write(axes, colors[i, j], texts[i, j], (j, i), (0, 0), fontsize=look.value)


def innermost(mask: np.ndarray, cell: tuple[float, float] = (1.0, 1.0)) -> tuple[int, int]:
    """Return the (row, column) of a region's innermost cell, for cells of size (height, width).

    Raises:
        ValueError: the region is empty.
    """
    cells = np.argwhere(mask)
    if not len(cells):
        raise ValueError("an empty region has no innermost cell")
    depth = ndimage.distance_transform_edt(np.pad(mask, 1), sampling=cell)[1:-1, 1:-1][mask]
    away = (((cells - cells.mean(axis=0)) * cell) ** 2).sum(axis=1)
    i, j = cells[np.lexsort((away.round(9), -depth.round(9)))[0]]
    return int(i), int(j)


def mark_diverged(axes: Axes, colors: np.ndarray, diverged: np.ndarray) -> None:
    """Put a small cross into the upper right corner of cells with diverged runs."""
    for i, j in np.argwhere(diverged):
        axes.plot(j + 0.3, i + 0.3, "x", color=_ink(colors[i, j]), markersize=2, markeredgewidth=0.6, zorder=4)


def draw_scale(axes: Axes, low: float, high: float, levels: Sequence[tuple[float, Style]] = ()) -> Axes:
    """Draw a printed panel's colour bar in the line above it, its two ends written beside it; return its axes.

    `levels` are marked on the bar where they lie on it: (value, line style).
    """
    height = _points(axes)[1]
    bar = axes.inset_axes((0.33, 1 + 3.5 / height, 0.34, 4.0 / height))
    bar.imshow(np.linspace(0, 1, 256)[None], cmap=regime_colormap(), aspect="auto", extent=(0, 1, 0, 1))
    bar.set(xticks=(), yticks=(), xlim=(0, 1))
    ends = {"va": "center", "fontsize": style.SMALLEST, "transform": bar.transAxes}
    bar.text(-0.06, 0.5, labels.short(low), ha="right", **ends)
    bar.text(1.06, 0.5, labels.short(high), ha="left", **ends)
    for value, line in levels:
        if low <= value <= high and high > low:
            bar.axvline((value - low) / (high - low), **line | {"linestyle": "-"})
    return bar


def draw_colorbar(figure: Figure, axes: Axes, curve: Curve) -> None:
    """Draw a screen panel's colour bar at its right, with ticks, its threshold marked where it lies on the bar."""
    low, high = color_limits(curve.grid.shown)
    if high <= low:  # a constant panel: every cell has the lowest colour
        high = low + (abs(low) or 1.0) * 1e-3
    scale = ScalarMappable(Normalize(low, high, clip=True), regime_colormap())
    bar = figure.colorbar(scale, ax=axes, extend="both", fraction=0.05, pad=0.02)
    name = labels.METRICS.get(curve.grid.metric, curve.grid.metric)
    bar.set_label(f"{name} (5th to 95th percentile)", fontsize=10)
    bar.ax.tick_params(labelsize=9)
    bar.formatter.set_powerlimits((-4, 5))
    if low <= curve.level <= high:
        bar.ax.axhline(curve.level, **SCREEN.line(curve))


def _write_cells(axes: Axes, grid: Grid, regimes: np.ndarray, look: Look) -> None:
    """Write regime, value and diverged seeds into the cells, with a halo of the cell's colour."""
    colors, annotate = cell_colors(grid), max(regimes.shape) <= ANNOTATE
    for i, j in np.argwhere(regimes != ""):
        size, up = (look.numeral, 8) if annotate else (9, 0)
        _write(axes, colors[i, j], regimes[i, j], (j, i), (0, up), fontsize=size, **NUMERAL)
        if annotate:
            value = "diverged" if np.isnan(grid.shown[i, j]) else labels.short(grid.shown[i, j])
            _write(axes, colors[i, j], value, (j, i), (0, -9), fontsize=look.value)
        if grid.diverged[i, j]:
            mark = f"×{grid.diverged[i, j]}" if annotate else "×"
            corner = (j + 0.5, i + 0.5)
            _write(axes, colors[i, j], mark, corner, (-9, -7), fontsize=look.value, weight="bold")


def _write(
    axes: Axes, color: np.ndarray, text: str, at: tuple[float, float], up: tuple[float, float], **font: object
) -> None:
    halo = [withStroke(linewidth=0.32 * float(font["fontsize"]), foreground=color)]
    axes.annotate(text, at, up, textcoords="offset points", ha="center", va="center", color=_ink(color),
                  path_effects=halo, zorder=5, **font)  # fmt: skip


def _ink(color: np.ndarray) -> str:
    return "white" if color[:3] @ (0.299, 0.587, 0.114) < 0.5 else "black"


def _points(axes: Axes) -> tuple[float, float]:
    """Return width and height of the axes in points."""
    box = axes.get_window_extent()
    return tuple(72 * size / axes.figure.dpi for size in (box.width, box.height))
