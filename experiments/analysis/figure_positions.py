"""Where the regime boundaries of several strategies lie: position along the physical axis against the data amount.

    rows = [Positions("PINN", "convection", limits, {"train_loss": {"lbfgs": [...]}, "test_error": {...}})]
    draw(rows).savefig("figure_3_positions.pdf")

A row a model, training boundary at the left, test boundary at the right, all strategies at one common pair of
thresholds. Bars are bootstrap intervals over seeds; a hollow dot is the first of several crossings. A boundary beyond
the values that were run is a triangle past the outermost of them, in the strip outside the grid where all were run:
above, the strategy is low at the last value; below, it is high throughout.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import labels, panels, style
from analysis.collect import AxisValue, Run, axis_order
from analysis.figure_maps import RegimeMap, room, wrap
from analysis.figure_specs import SYSTEM_TITLES
from analysis.panels import PRINT
from analysis.positions import Position, boundary_positions
from analysis.thresholds import Thresholds

LEFT, RIGHT, TOP, GAP, ROW, BETWEEN, KEY = 0.6, 0.08, 0.2, 0.2, 1.45, 0.52, 0.62  # inches
STRIP = 0.09  # of an axis: the strip outside the grid for boundaries that lie beyond
TITLES = {"train_loss": "training boundary", "test_error": "test boundary"}


@dataclass(frozen=True)
class Positions:
    """The boundaries of one model and system, metric -> strategy -> positions; {} without a finite cell."""

    model: str
    system: str
    limits: Thresholds
    physical: list[AxisValue]
    physical_name: str
    data_name: str
    found: dict[str, dict[str, list[Position]]]
    # strategy -> data amount -> the columns of `physical` that were run, from the first to the last
    ran: dict[str, dict[AxisValue, list[int]]]


def find(maps: Sequence[RegimeMap], runs: Sequence[Run]) -> Positions:
    """Return the positions of the maps of one system, which share their thresholds.

    Raises:
        ValueError: the maps are of several systems, or differ in their thresholds.
    """
    first = maps[0]
    physical = sorted({value for one in maps for value in one.train.physical}, key=axis_order)
    if len({(one.panel.model, one.panel.system, repr(one.limits)) for one in maps}) > 1:
        raise ValueError("boundaries are compared for one system at common thresholds")
    where = {"model": first.panel.model, "system": first.panel.system}
    found: dict[str, dict[str, list[Position]]] = {metric: {} for metric in labels.METRICS}
    ran = {}
    for one in maps:
        columns = np.array([physical.index(value) for value in one.train.physical], int)
        rows = zip(one.train.data, one.train.count > 0)
        ran[one.panel.strategy] = {amount: columns[row].tolist() for amount, row in rows if row.any()}
        if not one.empty and math.isfinite(one.limits.train):
            for metric, level in zip(labels.METRICS, (one.limits.train, one.limits.test)):
                name = one.panel.strategy
                own = boundary_positions(runs, metric, level, **where, strategy=name)
                there = columns[one.train.count.any(axis=0)].tolist()
                found[metric][name] = [_on_columns(p, there) for p in own]
    shown = next((one for one in maps if not one.empty), first).train
    return Positions(**where, limits=first.limits, physical=physical, physical_name=shown.physical_name,
                     data_name=shown.data_name, found=found, ran=ran)  # fmt: skip


def _on_columns(one: Position, columns: Sequence[int]) -> Position:
    """Count an index in the columns of the figure, of which the strategy may have run only `columns`."""
    if one.unit != "index":
        return one
    moved = {
        name: value if math.isinf(value) else float(np.interp(value, range(len(columns)), columns))
        for name in ("position", "low", "high")
        if not math.isnan(value := getattr(one, name))
    }
    return replace(one, **moved)


def draw(rows: Sequence[Positions]) -> Figure:
    """Draw a row a model: training boundary at the left, test boundary at the right."""
    size = style.WIDTH, TOP + len(rows) * ROW + (len(rows) - 1) * BETWEEN + KEY
    width = (size[0] - LEFT - RIGHT - GAP) / 2
    figure = Figure(figsize=size)
    letters = iter("abcdefgh")
    for k, one in enumerate(rows):
        y = size[1] - TOP - k * (ROW + BETWEEN) - ROW
        for column, metric in enumerate(labels.METRICS):
            x = LEFT + column * (width + GAP)
            axes = figure.add_axes((x / size[0], y / size[1], width / size[0], ROW / size[1]))
            letter = next(letters)
            level = one.limits.train if metric == "train_loss" else one.limits.test
            title = f"({letter}) {one.model}, {TITLES[metric]}"
            if one.found[metric]:
                _draw_lines(axes, one, one.found[metric])
                name = "train" if metric == "train_loss" else "test"
                axes.set_title(f"{title}: $T_{{{name}}}$ = {labels.short(level)}", loc="left")
            else:
                text = f"{one.model}, {SYSTEM_TITLES[one.system]}: {TITLES[metric]}\nno finished run"
                panels.draw_nothing(axes, None, text, PRINT)
                axes.set_title(title, loc="left")
            context = one.system, one.model
            axes.set_xlabel(labels.axis_label(one.data_name, *context))
            axes.tick_params(labelleft=column == 0)
            if column == 0:
                axes.set_ylabel(wrap(labels.axis_label(one.physical_name, *context), room(ROW)))
    _draw_key(figure, rows)
    return figure


def _draw_lines(axes: Axes, one: Positions, strategies: dict[str, list[Position]]) -> None:
    """Draw a line a strategy over the data amounts by index, strategies side by side."""
    data = sorted({p.data_value for found in strategies.values() for p in found}, key=axis_order)
    numeric = all(p.unit == "value" for found in strategies.values() for p in found)
    ticks = one.physical if numeric else range(len(one.physical))
    low, high = float(ticks[0]), float(ticks[-1])
    strip = STRIP * ((high - low) or 1.0)

    def place(value: float, row: Sequence[int]) -> float:
        return min(max(value, float(ticks[row[0]]) - strip), float(ticks[row[-1]]) + strip)

    for k, (name, found) in enumerate(strategies.items()):
        color = style.color(name)
        x = np.array([data.index(p.data_value) for p in found]) + 0.09 * (k - (len(strategies) - 1) / 2)
        ran = [one.ran[name][p.data_value] for p in found]
        y = np.array([place(p.position, row) for p, row in zip(found, ran)])
        axes.plot(x, y, color=color, linestyle=style.LINES.get(name, "-"), linewidth=0.9, zorder=2)
        for at, height, p, row in zip(x, y, found, ran):
            marker = {"above": "^", "below": "v"}.get(p.censored, "o")
            inside = "white" if p.crossings > 1 else color
            axes.plot(at, height, marker, color=color, markerfacecolor=inside, markersize=3, zorder=3)
            if not math.isnan(p.low):
                axes.plot([at, at], [place(p.low, row), place(p.high, row)], color=color, linewidth=0.7, zorder=2)
    for edge, beyond in ((low, -1), (high, 1)):
        axes.axhspan(edge + 0.25 * beyond * strip, edge + 1.6 * beyond * strip, color="0.93", linewidth=0, zorder=0)
    axes.set(xlim=(-0.5, len(data) - 0.5), ylim=(low - 1.6 * strip, high + 1.6 * strip))
    axes.set_xticks(range(len(data)), [labels.axis_text(value) for value in data])
    chosen: list[float] = []  # as many as fit, from the last one back
    for value in reversed(ticks):
        if not chosen or chosen[-1] - value >= 0.1 * (high - low):
            chosen.append(value)
    names = dict(zip(ticks, map(labels.axis_text, one.physical)))
    axes.set_yticks(chosen, [names[value] for value in chosen])
    axes.grid(axis="y", linewidth=0.3, color="0.8")


def _draw_key(figure: Figure, rows: Sequence[Positions]) -> None:
    names = dict.fromkeys(name for one in rows for found in one.found.values() for name in found)
    handles: list[Artist] = [
        Line2D([], [], color=style.color(name), linestyle=style.LINES.get(name, "-"), linewidth=0.9, marker="o",
               markersize=3, label=labels.STRATEGIES.get(name, name))
        for name in names
    ]
    handles += [Line2D([], [], linestyle="", label="")] * (len(handles) % 2)
    handles += [
        Line2D([], [], linestyle="", marker=marker, color="0.3", markersize=3, label=text)
        for marker, text in (("^", "low at the last value run"), ("v", "high throughout"))
    ]
    hollow = {"color": "0.3", "markerfacecolor": "white", "markersize": 3}
    handles.append(Line2D([], [], linestyle="", marker="o", label="the first of several crossings", **hollow))
    handles += [Line2D([], [], linestyle="", label="")] * (len(handles) % 2)
    figure.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 0.13 / figure.get_figheight()),
                  ncols=len(handles) // 2, frameon=False, borderaxespad=0, borderpad=0, labelspacing=0.2,
                  columnspacing=1.2, handlelength=2.8)  # fmt: skip
    found = [p for one in rows for by_name in one.found.values() for ps in by_name.values() for p in ps]
    if found:
        sources = dict.fromkeys(one.limits.source for one in rows if math.isfinite(one.limits.train))
        text = (f"Bars: nominal {100 * found[0].confidence:g} % bootstrap over seeds, too narrow with few. "
                f"Thresholds: {'; '.join(sources)}.")
        figure.text(0.5, 0.03 / figure.get_figheight(), text, ha="center", va="bottom", fontsize=style.SMALLEST)
