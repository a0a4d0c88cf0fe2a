"""Figure 4: relative improvement of one strategy over another (Eq. 23), training loss and test error side by side.

    pairs = [prepare_pair((base, method), runs, expected, "percentile", "lbfgs")]
    draw(pairs, "ratio_of_means").savefig("figure_4.pdf")

Blue is better, red is worse, white is no change; colours end at +-100 %, and cells beyond carry a triangle. Cells
without a number are hatched: no pair of runs, or a base that gives no ratio. The boundaries are those of the base's
regime map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from analysis import labels, panels, style
from analysis.collect import Run, spread, widen
from analysis.expected import Expected, found_runs
from analysis.figure_maps import Choice, RegimeMap, prepare, room, wrap
from analysis.figure_specs import Panel
from analysis.improvement import READINGS, SWITCH, Improvement, clipped, relative_improvement
from analysis.panels import PRINT

LIMIT = 100.0  # per cent, where colours end
LEFT, RIGHT, TOP, GAP, ROW, BETWEEN, KEY = 0.62, 0.08, 0.2, 0.14, 1.5, 0.54, 0.86  # inches


@dataclass(frozen=True)
class Pair:
    """Two strategies of one system: the base's regime map, and the improvements by metric ({} without a run)."""

    base: RegimeMap
    method: Panel
    improvements: dict[str, Improvement]


def prepare_pair(
    panels_of: tuple[Panel, Panel], runs: Sequence[Run], expected: tuple[Expected, Expected], choice: Choice, base: str
) -> Pair:
    """Return the improvements of the second panel's strategy over the first's, on the axes of both.

    Args:
        panels_of: base and method.
        runs: all runs.
        expected: what there should be of the two.
        choice: the base map's thresholds.
        base: "lbfgs" to compare with the runs of the base strategy, "switch" with the method's own at the switch.

    Raises:
        ValueError: as `figure_maps.prepare` and `improvement.relative_improvement`.
    """
    first, second = (prepare(panel, runs, known, choice) for panel, known in zip(panels_of, expected))
    train, test = (widen(grid, second.train.physical, second.train.data) for grid in (first.train, first.test))
    shown = RegimeMap(first.panel, first.expected, train, test, first.limits)
    method = panels_of[1]
    needed = [method] if base == SWITCH else panels_of
    found = {}
    if all(found_runs(panel, runs) for panel in needed):
        where = {"model": method.model, "system": method.system, "method": method.strategy}
        name = base if base == SWITCH else panels_of[0].strategy
        found = {metric: relative_improvement(runs, metric, base=name, **where) for metric in labels.METRICS}
    return Pair(shown, method, found)


def draw(pairs: Sequence[Pair], reading: str) -> Figure:
    """Draw a row a system: training loss at the left, test error at the right.

    Args:
        pairs: the systems.
        reading: "ratio_of_means" or "mean_of_ratios".
    """
    size = style.WIDTH, TOP + len(pairs) * ROW + (len(pairs) - 1) * BETWEEN + KEY
    width = (size[0] - LEFT - RIGHT - GAP) / 2
    figure = Figure(figsize=size)
    letters = iter("abcdefgh")
    for row, pair in enumerate(pairs):
        y = size[1] - TOP - row * (ROW + BETWEEN) - ROW
        for column, metric in enumerate(labels.METRICS):
            x = LEFT + column * (width + GAP)
            axes = figure.add_axes((x / size[0], y / size[1], width / size[0], ROW / size[1]))
            _draw_cells(axes, pair, metric, reading)
            name = labels.METRICS[metric].title()
            axes.set_title(f"({next(letters)}) {pair.base.panel.title}, {name}", loc="left")
            train = pair.base.train
            context = train.system, train.model
            axes.set_xlabel(wrap(labels.axis_label(train.physical_name, *context), room(width)))
            axes.tick_params(labelleft=column == 0)
            if column == 0:
                axes.set_ylabel(labels.axis_label(train.data_name, *context))
    _draw_key(figure, pairs, reading)
    return figure


def _draw_cells(axes: Axes, pair: Pair, metric: str, reading: str) -> None:
    base = pair.base
    grid = base.train if metric == "train_loss" else base.test
    if metric not in pair.improvements:
        of = pair.method.name.rpartition(", ")
        text = f"{of[0]}:\n{of[2]} over {labels.STRATEGIES[base.panel.strategy]}, {labels.METRICS[metric]}\n"
        panels.draw_nothing(axes, grid if grid.values.size else None, text + "no pair of finished runs", PRINT)
        return
    one = pair.improvements[metric]
    values = spread(values_of(one, reading), (one.data, one.physical), (grid.data, grid.physical), np.nan)
    (shown, beyond), masked = clipped(values, LIMIT), np.isnan(values)
    colors = style.improvement_colormap()((np.where(masked, 0.0, shown) + LIMIT) / (2 * LIMIT))
    colors[masked] = 0.0
    panels.draw_cells(axes, colors, ~masked, grid, PRINT)
    panels.write_values(axes, colors, np.where(masked | beyond, "", np.char.mod("%.0f", np.round(shown) + 0.0)), PRINT)
    for i, j in np.argwhere(beyond):
        marker = "^" if values[i, j] > 0 else "v"
        axes.plot(j, i, marker, color="white", markeredgecolor="black", markersize=3.5, markeredgewidth=0.5, zorder=4)
    for curve in panels.boundary_curves(base.train, base.test, base.limits):
        panels.draw_boundary(axes, curve.grid, curve.level, PRINT.line(curve))


def values_of(one: Improvement, reading: str) -> np.ndarray:
    """Return the values of a reading, in %.

    Raises:
        ValueError: unknown reading.
    """
    if reading not in READINGS:
        raise ValueError(f"reading {reading!r} is not one of {', '.join(READINGS)}")
    return getattr(one, reading)


def _draw_key(figure: Figure, pairs: Sequence[Pair], reading: str) -> None:
    height = figure.get_figheight()
    bar = figure.add_axes((0.3, 0.36 / height, 0.4, 0.07 / height))
    scale = ScalarMappable(Normalize(-LIMIT, LIMIT), style.improvement_colormap())
    figure.colorbar(scale, cax=bar, orientation="horizontal", ticks=(-100, -50, 0, 50, 100))
    found = [one for pair in pairs for one in pair.improvements.values()]
    base = "its own L-BFGS stage" if found and found[0].base == SWITCH else _base_name(pairs)
    method = labels.STRATEGIES[pairs[0].method.strategy]
    bar.set_xlabel(f"relative improvement of {method} over {base} in % ({READINGS[reading]}; positive: better)")
    bar.xaxis.set_label_position("top")
    handles: list[Artist] = [
        Line2D([], [], **style.TRAIN, linewidth=PRINT.thick, label=f"training boundary of {_base_name(pairs)}"),
        Line2D([], [], **style.TEST, linewidth=PRINT.thick, label=f"test boundary of {_base_name(pairs)}"),
        Line2D([], [], linestyle="", marker="v", color="white", markeredgecolor="black", markersize=3.5,
               markeredgewidth=0.5, label="beyond ±100 %"),
        Patch(**style.MISSING, label="no pair of runs, or no ratio"),
    ]  # fmt: skip
    figure.legend(handles=handles, loc="lower center", ncols=4, frameon=False, columnspacing=1.2, handlelength=2,
                  borderaxespad=0.2, borderpad=0)  # fmt: skip


def _base_name(pairs: Sequence[Pair]) -> str:
    return labels.STRATEGIES[pairs[0].base.panel.strategy]
