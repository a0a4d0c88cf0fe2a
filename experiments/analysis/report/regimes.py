"""One regime map in the report: picture, thresholds, cells by regime, boundaries, and all numbers."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from analysis import boundaries, collect, labels, maps, positions, thresholds
from analysis.collect import AxisValue, Grid, Run, axis_order
from analysis.positions import Position
from analysis.report import page
from analysis.report.inputs import Results, map_name
from analysis.report.page import Cell, Markup, number
from analysis.thresholds import Thresholds

RULE = (
    "L > T_train is II; else E > T_test is III; else I (L the training loss, E the test error, means over the seeds; "
    "equal counts as low; a cell with a run that left no finite value is above every threshold). The paper's II has a "
    "high test error too; cells with high loss and low error have no name there and are counted apart."
)


COUNTED = ("I", "II", "II, error high", "II, error low (unnamed)", "III", "no run")


@dataclass(frozen=True)
class Map:
    """One regime map: grids on the axes of all expected runs, thresholds, and those common to all strategies."""

    runs: list[Run]
    train: Grid
    test: Grid
    limits: Thresholds
    common: Thresholds | None
    without_result: Counter[tuple[AxisValue, AxisValue]]  # (physical, data) -> expected runs that have not finished

    @property
    def name(self) -> str:
        """The name that files and tables use: "PINN convection lbfgs"."""
        return map_name(self.runs[0])

    @property
    def title(self) -> str:
        """The name in words: "PINN, convection, L-BFGS"."""
        return f"{self.train.model}, {self.train.system.replace('_', '-')}, {self.strategy}"

    @property
    def strategy(self) -> str:
        """The strategy in words."""
        return labels.STRATEGIES.get(self.train.strategy, self.train.strategy)

    @property
    def group(self) -> dict[str, str]:
        """The keywords that choose this map's runs."""
        return {"model": self.train.model, "system": self.train.system, "strategy": self.train.strategy}


def build(results: Results) -> tuple[list[Map], list[tuple[str, str]]]:
    """Return the maps, and (name, reason) of those that cannot be made, such as two runs in one place."""
    made, refused = [], []
    for model, system, strategy in collect.groups(results.runs):
        runs = [run for run in results.runs if (run.model, run.system, run.strategy) == (model, system, strategy)]
        absent = [run for run in results.without_result if run.sweep == map_name(runs[0])]
        axes = {run.physical for run in absent}, {run.data for run in absent}
        try:
            grids = [collect.build_grid(runs, metric, system=system, strategy=strategy) for metric in labels.METRICS]
        except ValueError as error:
            refused.append((map_name(runs[0]), str(error)))
            continue
        train, test = (collect.widen(grid, *axes) for grid in grids)
        cells = Counter((run.physical, run.data) for run in absent)
        made.append(Map(runs, train, test, thresholds.from_percentiles(train, test), None, cells))
    systems = sorted({(one.train.model, one.train.system) for one in made})
    chosen = []
    for system in systems:
        chosen += _with_common([one for one in made if (one.train.model, one.train.system) == system])
    return chosen, refused


def _with_common(made: Sequence[Map]) -> list[Map]:
    """Return the maps of one system with one pair of thresholds for all, where there are several and it exists."""
    try:
        common = thresholds.common([(one.train, one.test) for one in made]) if len(made) > 1 else None
    except ValueError:  # the reference has no finite cell
        common = None
    return [replace(one, common=common) for one in made]


def section(one: Map) -> Markup:
    """Return all about one map."""
    if math.isfinite(one.limits.train) and math.isfinite(one.limits.test):
        drawn = page.tried(_picture, one)
    else:
        drawn = page.paragraph("No threshold and so no map: no cell has a finite mean.", kind="warning")
    return Markup(drawn + _counts(one) + _perturbed(one) + _boundaries(one) + _numbers(one))


def _picture(one: Map) -> Markup:
    train = one.train
    alt = (f"Regime map of {one.title}: training loss (left) and test error (right) over {train.physical_name} and "
           f"{train.data_name}; {counts_text(labels.count_cells(train, one.test, one.limits))}.")  # fmt: skip
    return page.picture(maps.regime_map(train, one.test, one.limits), alt, _caption(one))


def counts_text(counts: labels.Counts) -> str:
    """Return "cells: I 3, II 2, III 1, no finished run 0"."""
    return f"cells: I {counts.one}, II {counts.two}, III {counts.three}, no finished run {counts.missing}"


def _caption(one: Map) -> str:
    system = one.train.system
    metrics = " and ".join(labels.metric_label(metric, system) for metric in labels.METRICS)
    return (f"{metrics[:1].upper()}{metrics[1:]}, means over seeds. Solid: training loss = T_train; dashed: test "
            "error = T_test; thin: its percentile moved by ±20 %. Colours: 5th to 95th percentile of the panel."
            )  # fmt: skip


def _counts(one: Map) -> Markup:
    rows = []
    sources = [one.limits, *([one.common] if one.common else [])]
    if one.train.model in {key[0] for key in thresholds.TABLE5}:
        try:
            sources.append(thresholds.table5(one.train.model, one.train.system, one.train.strategy))
        except ValueError:  # the paper has no such map
            pass
    for limits in sources:
        c = labels.count_cells(one.train, one.test, limits)
        values = c.one, c.two, c.two_high_error, c.two_low_error, c.three, c.missing
        ts = (number(t, f"{t:.4g}") for t in (limits.train, limits.test))
        rows.append([limits.source, *ts, *map(number, values)])
    head = ["thresholds", "T_train", "T_test", *COUNTED]
    return page.table(head, rows, "Cells by regime, at the thresholds of each source.")


def _perturbed(one: Map) -> Markup:
    """Return how many cells change their regime when a threshold moves, in both readings."""
    limits, total = one.limits, int((one.train.count > 0).sum())
    before = labels.label_cells(one.train, one.test, limits)
    curves = (("train", one.train), ("test", one.test))
    levels = {
        (reading, name): boundaries.perturbed_levels(
            grid, getattr(limits, name), reading=reading, q=getattr(limits, f"{name}_percentile")
        )
        for reading in boundaries.READINGS
        for name, grid in curves
    }
    rows = []
    for names in (("train",), ("test",), ("train", "test")):
        for side, sign in enumerate("−+"):
            row: list[str | Cell] = [f"{' and '.join(f'T_{name}' for name in names)} {sign}20 %"]
            for reading in boundaries.READINGS:
                moved = replace(limits, **{name: levels[reading, name][side] for name in names})
                changed = int((labels.label_cells(one.train, one.test, moved) != before).sum())
                row += [", ".join(f"{getattr(moved, name):.4g}" for name in names), number(changed)]
            rows.append(row)
    head = ["moved", "percentile ±20 %: becomes", "cells changed", "value ±20 %: becomes", "cells changed"]
    caption = f"Cells that change their regime when thresholds move by 20 %, of {total}; both readings."
    return page.table(head, rows, caption)


def positions_of(one: Map, metric: str, limits: Thresholds) -> dict[AxisValue, Position]:
    """Return the boundary positions by data amount; {} where the threshold is not finite."""
    level = limits.train if metric == "train_loss" else limits.test
    if not math.isfinite(level):
        return {}
    found = positions.boundary_positions(one.runs, metric, level, **one.group)
    return {position.data_value: position for position in found}


def _boundaries(one: Map) -> Markup:
    columns = {metric: positions_of(one, metric, one.limits) for metric in labels.METRICS}
    rows = []
    for amount in one.train.data:
        row: list[str | Cell] = [axis_cell(amount)]
        for found in columns.values():
            position = found.get(amount)
            counts = (position.crossings, position.seeds) if position else ()
            row += [position_cell(position), interval_text(position), *map(number, counts), *[""] * (2 - len(counts))]
        rows.append(row)
    name = one.train.physical_name
    head = [one.train.data_name]
    for side in ("training", "test"):
        head += [f"{side} boundary, {name}", "90 % interval", "crossings", "seeds"]
    caption = (
        f"Where the seed mean first rises above the threshold along {name}, interpolated in the logarithm, for each "
        "amount of data. Interval: percentile bootstrap over the seeds; none with one seed, too narrow with few (with "
        "3, about 60 % hold the truth). Crossings: changes of side along the row (1 where it is monotone). Above, "
        "below: the boundary is outside the grid."
    )
    return page.table(head, rows, caption, sort=True)


def axis_cell(value: AxisValue) -> Cell:
    """Return a swept value; ranges are sorted by their first number."""
    return number(axis_order(value)[0][0], labels.axis_text(value))


def position_cell(position: Position | None) -> Cell:
    """Return a boundary position, "above" or "below" where it is outside the grid."""
    if position is None or math.isnan(position.position):
        return Cell("no run", kind="none")
    return number(position.position, _position_text(position, position.position))


def _position_text(position: Position, value: float) -> str:
    if math.isinf(value):
        return "above" if value > 0 else "below"
    if position.unit == "index":  # ranges have no place between them
        return f"cell {value + 1:.3g}"
    return f"{value:.4g}"


def interval_text(position: Position | None) -> str:
    """Return the bootstrap interval, "" where there is none."""
    if position is None or math.isnan(position.low):
        return ""
    low, high = (_position_text(position, value) for value in (position.low, position.high))
    return low if low == high else f"{low} to {high}"


def _numbers(one: Map) -> Markup:
    regimes = labels.label_cells(one.train, one.test, one.limits)
    rows = []
    for i, amount in enumerate(one.train.data):
        for j, physical in enumerate(one.train.physical):
            count, absent = int(one.train.count[i, j]), one.without_result[physical, amount]
            seeds = number(count, f"{count} of {count + absent}" if absent else None, kind="high" if absent else "")
            row = [axis_cell(physical), axis_cell(amount)]
            if not regimes[i, j]:
                rows.append([*row, *[Cell("no run", kind="none")] * 3, seeds, number(0)])
                continue
            values = [mean_cell(grid, i, j) for grid in (one.train, one.test)]
            regime = str(regimes[i, j])
            if regime == "II" and not labels.above(one.test.values[i, j], one.limits.test):
                regime = "II, error low"
            diverged = int(max(one.train.diverged[i, j], one.test.diverged[i, j]))
            rows.append([*row, *values, regime, seeds, number(diverged, kind="high" if diverged else "")])
    names = one.train.physical_name, one.train.data_name
    words = [f"{name}: {_plain(labels.axis_label(name, one.train.system, one.train.model))}" for name in names]
    words += [labels.metric_label(metric, one.train.system) for metric in labels.METRICS]
    head = [*names, "training loss", "test error", "regime", "seeds", "diverged"]
    caption = (
        f"Means over the seeds, and regimes at the percentile thresholds of this map. {'; '.join(words)}. inf: a seed "
        "left no finite value (in brackets the mean of those that did). A click on a heading sorts."
    )
    return page.fold(f"Numbers of {len(rows)} cells", page.table(head, rows, caption, sort=True, side=False))


def mean_cell(grid: Grid, i: int, j: int) -> Cell:
    """Return a seed mean as text; inf says what the finite seeds give."""
    value, shown = float(grid.values[i, j]), float(grid.shown[i, j])
    text = f"{value:.3e}" if math.isfinite(value) else "inf" + ("" if math.isnan(shown) else f" ({shown:.3e})")
    return number(value, text, kind="" if math.isfinite(value) else "high")


def _plain(text: str) -> str:
    """Return an axis label without mathematical markup: "$N_f$" is "N_f"."""
    return re.sub(r"[${}]|\\(?=m)", "", text.replace(r"\Delta ", "Δ"))
