"""Figures of several regime maps: the training loss of each map above its test error, at the width of a page.

    maps = [prepare(panel, runs, expected, "percentile") for panel in spec.panels]
    draw(spec, maps).savefig("figure_2.pdf")

A panel without a finished run keeps its place, hatched; missing cells of the expected grid are hatched as well.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from analysis import collect, labels, panels, style, thresholds
from analysis.collect import Grid, Run, widen
from analysis.expected import Expected, found_runs
from analysis.figure_specs import AXES, FigureSpec, Panel
from analysis.panels import PRINT
from analysis.thresholds import Thresholds

# Inches: margins, what stands above a panel (its scale, and its title over the upper of two), and below: tick labels,
# then the lines of the axis label; last, rows of the key and lines of the notes.
LEFT, RIGHT, TOP, TITLE, SCALE, BELOW, LINE, KEY_ROW, NOTE = 0.8, 0.1, 0.02, 0.14, 0.17, 0.2, 0.115, 0.125, 0.1
GAP, GAP_TICKS, GAP_LABEL = 0.08, 0.32, 0.56  # between columns: bare, with tick labels, with an axis label too
WIDEST, NARROWEST = 1.9, 1.0  # of a panel

UNSEEN = str.maketrans("", "", r"\${}_^")  # of a formula
Choice = str | Thresholds  # percentile, common, table5, or two numbers


@dataclass(frozen=True)
class RegimeMap:
    """A panel's two grids on the expected axes, and its thresholds; NaN thresholds where no cell is finite."""

    panel: Panel
    expected: Expected
    train: Grid
    test: Grid
    limits: Thresholds

    @property
    def empty(self) -> bool:
        """Whether there is no run at all."""
        return not self.train.count.any()


def prepare(panel: Panel, runs: Sequence[Run], expected: Expected, choice: Choice) -> RegimeMap:
    """Return the two grids of a panel, on the union of the axes found and expected, and its thresholds.

    With "common", and "common table5", the thresholds are those of `thresholds.common` over all strategies that `runs`
    have of the panel's model and system, shown in the figure or not, so that every figure has the same ones.

    Raises:
        ValueError: two runs claim one cell and seed, the runs are not of one sweep, or Table 5 has no such row.
    """
    own = found_runs(panel, runs)
    if own:
        train, test = _grids(own, panel.strategy)
    else:
        names = (expected.physical_name, expected.data_name) if expected.keys else AXES[panel.system]
        train, test = (_empty_grid(panel, metric, *names) for metric in labels.METRICS)
    train, test = (widen(grid, expected.physical, expected.data) for grid in (train, test))
    return RegimeMap(panel, expected, train, test, _limits(panel, runs, train, test, choice))


def draw(spec: FigureSpec, maps: Sequence[RegimeMap], *, perturbation: str | None = None) -> Figure:
    """Draw the panels of a figure, `spec.columns` of them side by side.

    Args:
        spec: the figure.
        maps: one for each of its panels.
        perturbation: what +-20 % moves, where the thresholds have a percentile ("percentile" or "value").
    """
    bands = [maps[k : k + spec.columns] for k in range(0, len(maps), spec.columns)]
    gaps = [0.0] + [max(_gap(band[k - 1], band[k]) for band in bands if k < len(band)) for k in range(1, spec.columns)]
    width = min(WIDEST, (style.WIDTH - LEFT - RIGHT - sum(gaps)) / spec.columns)
    if spec.columns > 5:  # more than the paper has: wider than the page
        width = max(width, NARROWEST)
    height = 0.78 * width
    below = BELOW + LINE * max(_x_label(one, width).count("\n") + 1 for one in maps)
    band_height = TITLE + 2 * SCALE + 2 * height + below
    wide = LEFT + RIGHT + sum(gaps) + spec.columns * width
    handles, ncols, notes = _key(maps, perturbation, wide)
    key = KEY_ROW * (len(handles) // ncols) + NOTE * (notes.count("\n") + 1) + 0.06
    size = wide, TOP + len(bands) * band_height + key
    figure = Figure(figsize=size)

    def frame(x: float, y: float) -> Axes:
        return figure.add_axes((x / size[0], y / size[1], width / size[0], height / size[1]))

    for b, band in enumerate(bands):
        top = size[1] - TOP - b * band_height - TITLE - SCALE - height
        bottom = top - SCALE - height
        x = LEFT
        for k, one in enumerate(band):
            x += gaps[k]
            pair = frame(x, top), frame(x, bottom)
            _draw_map(pair, one, width, perturbation, alone=k == 0 or _gap(band[k - 1], one) > GAP)
            title = one.panel.title if len(one.panel.title) < room(width) else one.panel.title.rpartition(", ")[2]
            pair[0].text(0, 1 + (SCALE - 0.01) / height, f"({one.panel.letter}) {title}",
                         transform=pair[0].transAxes, va="bottom")  # fmt: skip
            if k == 0 or _gap(band[k - 1], one) == GAP_LABEL:
                for axes in pair:
                    axes.set_ylabel(wrap(_label(one.train, one.train.data_name), 15))
            x += width
        for y, metric in ((top, "train_loss"), (bottom, "test_error")):
            name = labels.METRICS[metric]
            figure.text(0.09 / size[0], (y + height / 2) / size[1], name[:1].upper() + name[1:], rotation=90,
                        ha="center", va="center", weight="bold")  # fmt: skip
    figure.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, key / size[1]), ncols=ncols, frameon=False,
                  handlelength=2.2, labelspacing=0.25, columnspacing=1.5, borderaxespad=0, borderpad=0)  # fmt: skip
    figure.text(0.5, 0.04 / size[1], notes, ha="center", va="bottom", fontsize=style.SMALLEST)
    return figure


def _draw_map(
    pair: tuple[Axes, Axes], one: RegimeMap, width: float, perturbation: str | None, alone: bool
) -> None:
    """Draw training loss above test error, or two hatched frames; `alone`: with tick labels at the left."""
    if one.empty:
        grid = one.train if one.expected.keys else None
        for axes, metric in zip(pair, labels.METRICS):
            lines = wrap(f"{one.panel.name}:", room(width) - 2), labels.METRICS[metric], "no finished run"
            panels.draw_nothing(axes, grid, "\n".join(lines), PRINT)
    else:
        curves = panels.boundary_curves(one.train, one.test, one.limits)
        _, moved = panels.perturbed(curves, perturbation if one.limits.train_percentile is not None else "value")
        regimes = labels.label_cells(one.train, one.test, one.limits)
        for axes, own, thin in zip(pair, curves, moved):
            panels.draw_panel(axes, own, curves, thin, regimes, PRINT)
            panels.draw_scale(axes, *panels.color_limits(own.grid.shown), [(own.level, PRINT.line(own))])
    pair[0].tick_params(labelbottom=False)
    for axes in pair:
        axes.tick_params(labelleft=alone)
    pair[1].set_xlabel(_x_label(one, width))


def _key(maps: Sequence[RegimeMap], perturbation: str | None, width: float) -> tuple[list[Artist], int, str]:
    """Return what lines, numerals and hatches mean, in whole columns; how many fit into a width; and the notes."""
    shown = [one for one in maps if not one.empty]
    by_value = perturbation == "value" or any(one.limits.train_percentile is None for one in shown)
    handles: list[Artist] = [
        Line2D([], [], **style.TRAIN, linewidth=PRINT.thick, label="training boundary, loss = $T_{train}$"),
        Line2D([], [], **style.TEST, linewidth=PRINT.thick, label="test boundary, error = $T_{test}$"),
        Line2D([], [], color="black", linewidth=PRINT.thin,
               label=f"the panel's own, {'threshold' if by_value else 'percentile'} ±20 %"),
    ]  # fmt: skip
    handles += [Line2D([], [], linestyle="", label=f"{name}: {meaning}") for name, meaning in labels.NAMES.items()]
    if any(one.empty or (one.train.count == 0).any() for one in maps):
        handles.append(Patch(**style.MISSING, label="no finished run"))
    if any(one.train.diverged.any() or one.test.diverged.any() for one in shown):
        cross = {"marker": "x", "markersize": 2.5, "markeredgewidth": 0.7}
        handles.append(Line2D([], [], linestyle="", color="black", label="a run of the cell diverged", **cross))
    columns = 3 if width > 5.5 else 2 if width > 4.2 else 1
    handles += [Line2D([], [], linestyle="", label="")] * (-len(handles) % columns)
    notes = ["Colours: from the 5th to the 95th percentile of a panel"]
    sources = sorted({_source(one.limits) for one in shown})
    if shown:
        notes.append(f"Thresholds: {'; '.join(sources) if len(sources) < 3 else 'of each system, see the table'}")
    notes += [f"{model}: {measure}" for model, measure in _measures(shown).items()]
    return handles, columns, wrap(". ".join(notes) + ".", int(20 * width))


def _measures(maps: Sequence[RegimeMap]) -> dict[str, str]:
    """Return models -> how loss and error are measured, where that is not what one would expect."""
    found: dict[str, list[str]] = {}
    for one in maps:
        of_system = {metric: text for (system, metric), text in labels.MEASURES.items() if system == one.panel.system}
        text = ", ".join(f"{labels.METRICS[metric].split()[-1]} is the {text}" for metric, text in of_system.items())
        if text and one.panel.model not in found.setdefault(text, []):
            found[text].append(one.panel.model)
    return {" and ".join(models): text for text, models in found.items()}


def _grids(runs: Sequence[Run], strategy: str) -> tuple[Grid, Grid]:
    first = runs[0]
    train, test = (
        collect.build_grid(runs, metric, model=first.model, system=first.system, strategy=strategy)
        for metric in labels.METRICS
    )
    return train, test


def _empty_grid(panel: Panel, metric: str, physical_name: str, data_name: str) -> Grid:
    none = np.zeros((0, 0))
    return Grid(panel.model, panel.system, panel.strategy, metric, physical_name, data_name, [], [],
                none, none, none.astype(int), none.astype(int))  # fmt: skip


def _limits(panel: Panel, runs: Sequence[Run], train: Grid, test: Grid, choice: Choice) -> Thresholds:
    if isinstance(choice, Thresholds):
        return choice
    if choice == "table5":
        return thresholds.table5(panel.model, panel.system, panel.strategy)
    if choice == "percentile":
        return thresholds.from_percentiles(train, test)
    rivals = [run for run in runs if (run.model, run.system) == (panel.model, panel.system)]
    source = "table5" if "table5" in choice else "percentile"
    maps = [_grids(rivals, strategy) for strategy in sorted({run.strategy for run in rivals})]
    maps = [pair for pair in maps if all(np.isfinite(grid.values).any() for grid in pair)]
    if source == "table5":
        maps = [pair for pair in maps if (panel.model, panel.system, pair[0].strategy) in thresholds.TABLE5]
    if not maps:
        return Thresholds(math.nan, math.nan, "no strategy to take them from")
    return thresholds.common(maps, source=source)


def _source(limits: Thresholds) -> str:
    """Return where thresholds come from, without the name of a strategy that differs from panel to panel."""
    return limits.source.replace("this map", "each map")


def _gap(left: RegimeMap, right: RegimeMap) -> float:
    """Return the room between two panels: less where the right one repeats the left one's axis."""
    if _label(left.train, left.train.data_name) != _label(right.train, right.train.data_name):
        return GAP_LABEL
    return GAP if left.train.data == right.train.data else GAP_TICKS


def _label(grid: Grid, name: str) -> str:
    return labels.axis_label(name, grid.system, grid.model)


def _x_label(one: RegimeMap, width: float) -> str:
    return wrap(_label(one.train, one.train.physical_name), room(width))


def room(width: float) -> int:
    """Return how many characters of an axis label fit into so many inches."""
    return int(72 * width / (0.54 * style.PRINT["axes.labelsize"]))


def wrap(text: str, width: int) -> str:
    """Break a text into lines of about `width` characters, at blanks and hyphens; formulas between $ stay whole."""
    lines: list[str] = []
    for word in re.findall(r"(?:\$[^$]*\$|[^\s$-]|(?<=\b[A-Z])-)+-?\s*", text):  # L-BFGS is one word
        line = (lines[-1] if lines else "") + word
        if lines and len(re.sub(r"\\[A-Z][a-z]+ ?", "x", line).translate(UNSEEN).rstrip()) <= width:
            lines[-1] = line
        else:
            lines.append(word)
    return "\n".join(line.rstrip() for line in lines)
