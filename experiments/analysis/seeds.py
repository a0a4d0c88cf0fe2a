"""One metric of the runs of one system by cell, seed and strategy, for comparisons that pair seeds.

    table = seed_table(runs, "test_error", model="PINN", system="convection", strategies=["lbfgs", "nncg"])
    table.values["nncg"][i, j, k]   # data amount i, physical value j, seed k

The rules are those of `collect.Grid`: a diverged run counts, a value that is not finite is worse than
every number, and a missing run is missing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.collect import AxisValue, Run, axis_order, build_grid


@dataclass(frozen=True)
class SeedTable:
    """Values of one metric; arrays by strategy, of shape (len(data), len(physical), len(seeds)).

    Strategies share the axes: a cell or seed that only one of them has is missing in the others.
    """

    model: str
    system: str
    metric: str
    physical_name: str
    data_name: str
    physical: list[AxisValue]
    data: list[AxisValue]
    seeds: list[int]
    values: dict[str, np.ndarray]  # inf where the value is not finite, NaN where no run measured it
    diverged: dict[str, np.ndarray]  # whether the run was recorded as diverged or its value is not finite


def seed_table(
    runs: Iterable[Run], metric: str, *, model: str, system: str, strategies: Sequence[str]
) -> SeedTable:
    """Arrange one metric of several strategies by cell and seed.

    Raises:
        ValueError: a strategy has no run, two runs claim the same cell and seed (as `build_grid`),
            or the strategies sweep differently named axes.
    """
    runs = list(runs)
    grids = [build_grid(runs, metric, model=model, system=system, strategy=name) for name in strategies]
    for axis in ("physical_name", "data_name"):
        names = sorted({getattr(grid, axis) for grid in grids})
        if len(names) > 1:
            raise ValueError(f"strategies of {model} {system} differ in {axis}: {', '.join(names)}")
    physical = sorted({value for grid in grids for value in grid.physical}, key=axis_order)
    data = sorted({value for grid in grids for value in grid.data}, key=axis_order)
    chosen = [run for run in runs if (run.model, run.system) == (model, system) and run.strategy in strategies]
    seeds = sorted({run.seed for run in chosen})
    shape = len(data), len(physical), len(seeds)
    values = {name: np.full(shape, np.nan) for name in strategies}
    diverged = {name: np.zeros(shape, bool) for name in strategies}
    for run in chosen:
        value = run.value(metric)
        if value is None:
            continue
        place = data.index(run.data_value), physical.index(run.physical_value), seeds.index(run.seed)
        finite = math.isfinite(value)
        values[run.strategy][place] = value if finite else math.inf
        diverged[run.strategy][place] = run.status == "diverged" or not finite
    first = grids[0]
    return SeedTable(
        model, system, metric, first.physical_name, first.data_name, physical, data, seeds, values, diverged
    )


def align(rows: Sequence[Sequence[str]], left: int = 0) -> list[str]:
    """Return the rows of a text table as lines; the first `left` columns are flush left, the rest right."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    sides = "<" * left + ">" * (len(widths) - left)
    return ["  ".join(f"{text:{s}{n}}" for text, s, n in zip(row, sides, widths)).rstrip() for row in rows]
