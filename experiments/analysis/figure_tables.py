"""The numbers of the figures as CSV: a row a cell, and a row a vertex of a boundary.

    write(cells(maps), Path("figure_2.csv"))
    write(vertices(maps), Path("figure_2_boundaries.csv"))
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from analysis import boundaries, collect, labels, panels
from analysis.collect import AxisValue
from analysis.figure_improvement import Pair
from analysis.figure_maps import RegimeMap
from analysis.improvement import csv_rows

Row = dict[str, object]


def write(rows: Sequence[Row], path: Path) -> None:
    """Write rows with the same keys, atomically; no file without rows."""
    if rows:
        with collect.atomic(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


def cells(maps: Iterable[RegimeMap]) -> list[Row]:
    """Return one row a cell, metric and panel; `mean` is inf where a seed has no finite value, nan where no run is."""
    rows = []
    for one in maps:
        regimes = labels.label_cells(one.train, one.test, one.limits)
        for grid in (one.train, one.test):
            for i, data in enumerate(grid.data):
                for j, physical in enumerate(grid.physical):
                    rows.append(_of(one) | {
                        "metric": grid.metric,
                        "physical_name": grid.physical_name, "physical_value": labels.axis_text(physical),
                        "data_name": grid.data_name, "data_value": labels.axis_text(data),
                        "mean": grid.values[i, j].item(), "mean_of_finite": grid.shown[i, j].item(),
                        "seeds": grid.count[i, j].item(), "diverged": grid.diverged[i, j].item(),
                        "expected_seeds": one.expected.seeds(physical, data), "regime": regimes[i, j].item(),
                    } | _thresholds(one))  # fmt: skip
    return rows


def vertices(maps: Iterable[RegimeMap], perturbation: str | None = None) -> list[Row]:
    """Return one row a vertex of the drawn boundaries: those at T and, thin in the figures, those at T -+ 20 %.

    Indices count cells from 0 (see `boundaries.level_set`); values are interpolated between them, and empty beyond the
    outermost cells and on axes of ranges.

    Args:
        maps: the panels.
        perturbation: as `figure_maps.draw`.
    """
    rows = []
    for one in maps:
        curves = panels.boundary_curves(one.train, one.test, one.limits)
        if one.empty:
            continue
        reading, moved = panels.perturbed(curves, perturbation if one.limits.train_percentile is not None else "value")
        for curve, (minus, plus) in zip(curves, moved):
            for shift, level in (("", curve.level), ("-20 %", minus), ("+20 %", plus)):
                described = _of(one) | {
                    "boundary": curve.name, "shift": shift, "shifted": reading if shift else "", "level": level,
                    "percentile": _percentile(curve.percentile, reading, shift),
                }  # fmt: skip
                for component, line in enumerate(boundaries.level_set(curve.grid.values, level)):
                    for vertex, (x, y) in enumerate(line.tolist()):
                        rows.append(described | {
                            "component": component, "vertex": vertex, "x_index": x, "y_index": y,
                            "physical_value": _between(curve.grid.physical, x),
                            "data_value": _between(curve.grid.data, y),
                        })  # fmt: skip
    return rows


def improvements(pairs: Iterable[Pair]) -> list[Row]:
    """Return both readings of the relative improvement, a row a cell, with the regime of the base's map."""
    rows = []
    for pair in pairs:
        base = pair.base
        regimes = labels.label_cells(base.train, base.test, base.limits)
        names = {
            (labels.axis_text(data), labels.axis_text(physical)): regimes[i, j].item()
            for i, data in enumerate(base.train.data)
            for j, physical in enumerate(base.train.physical)
        }
        for one in pair.improvements.values():
            for row in csv_rows(one):
                regime = names[row["data_value"], row["physical_value"]]
                rows.append(row | {"regime_of_base_map": regime} | _thresholds(base))
    return rows


def _of(one: RegimeMap) -> Row:
    panel = one.panel
    return {"panel": panel.letter, "model": panel.model, "system": panel.system, "strategy": panel.strategy}


def _thresholds(one: RegimeMap) -> Row:
    return {"T_train": one.limits.train, "T_test": one.limits.test, "thresholds": one.limits.source}


def _percentile(q: float | None, reading: str, shift: str) -> float | str:
    """Return the percentile that a level is; empty where it is not one."""
    if q is None or (shift and reading == "value"):
        return ""
    return min(100.0, round(q * {"": 1.0, "-20 %": 0.8, "+20 %": 1.2}[shift], 10))


def _between(axis: Sequence[AxisValue], index: float) -> float | str:
    """Return the swept value at a fractional index; empty outside the outermost cells, and between texts."""
    if not 0 <= index <= len(axis) - 1:
        return ""
    left, right = axis[math.floor(index)], axis[math.ceil(index)]
    if isinstance(left, str) or isinstance(right, str):
        return left if left == right else ""
    return float(np.interp(index % 1, (0, 1), (left, right)))
