"""Maps of log10 lambda_max beside those of the training loss (Figure 11), with the boundaries of the regimes.

lambda_max is that of the final weights: metrics.lambda_max of metrics.json (--hessian_every), else the final state of
hessian.json. A cell is the logarithm of the mean over its seeds. Runs without it are left out of both maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from analysis import collect, labels, panels, style, thresholds
from analysis.checks import CLOSE, Check, Claim, above, all_of, number, rank_correlation
from analysis.collect import Grid, Run, axis_order
from analysis.diagnoses import Case, Panel, cell_of, missing_in, network_of, read_json, real
from analysis.figure_specs import SYSTEM_TITLES
from analysis.panels import PRINT
from analysis.thresholds import Thresholds

MAPS = (("FNO", "poisson", "adam"), ("PINN", "reaction_diffusion", "lbfgs"))
LEFT, RIGHT, TOP, GAP, HEIGHT, BETWEEN, BELOW, KEY = 0.62, 0.08, 0.34, 0.62, 1.3, 0.24, 0.36, 0.32  # inches
HARD = 15.0  # rho from which the paper sees low lambda_max at high loss


@dataclass(frozen=True)
class SharpnessMap:
    """One system: seed means on common axes, the thresholds of its regimes; None where no run has lambda_max."""

    model: str
    system: str
    grids: tuple[Grid, Grid, Grid] | None  # training loss, test error, lambda_max
    limits: Thresholds | None

    @property
    def curvature(self) -> Grid:
        """The map of log10 of the mean lambda_max; cells where the mean is not positive are empty."""
        grid = self.grids[2]
        with np.errstate(invalid="ignore", divide="ignore"):
            values = np.where(grid.shown > 0, np.log10(grid.shown), np.nan)
        return replace(grid, values=values, shown=values, count=grid.count * np.isfinite(values))


def read(run: Run, folder: Path) -> Run:
    """Return the run with metrics.lambda_max; raises as `diagnoses.read` has it."""
    if isinstance(run.metrics.get("lambda_max"), float):
        return run
    states = read_json(folder / "hessian.json", "hessian")["states"]
    if "final" not in states:
        raise FileNotFoundError(folder / "hessian.json")
    state = states["final"]
    value = real(state["lambda_max"]) if state["finite"] else float("nan")
    return replace(run, metrics=run.metrics | {"lambda_max": value})


def choose(runs: Sequence[tuple[Run, Path]]) -> list[tuple[Run, Path]]:
    """Return the runs of the two maps; of several of a cell and seed that of landscapes.sh (in maps/) comes first."""
    chosen = []
    for where in MAPS:
        own = [(run, folder) for run, folder in runs if (run.model, run.system, run.strategy) == where]
        chosen += sorted(own, key=lambda one: "maps" not in one[1].parts)
    return chosen


def cases_of(runs: Sequence[tuple[Run, Path]], wanted: Sequence[Case]) -> list[Case]:
    """Return the wanted cells and those of other runs of the same models: a map shows all that there is."""
    network = next((case.network for case in wanted if case.network), "")
    own = {cell_of(run): None for run, folder in runs if network_of(folder) in ("", network)}
    seen = {case.cell for case in wanted}
    return [*wanted, *(Case("", *cell, (), network * (cell[0] == "FNO")) for cell in own if cell not in seen)]


def arrange(cells: Sequence[Panel[Run]]) -> list[SharpnessMap]:
    """Return the two maps.

    Raises:
        ValueError: as `collect.build_grid`.
    """
    runs = [run for panel in cells for run in panel.found]
    found = []
    for model, system, strategy in MAPS:
        own = [run for run in runs if (run.model, run.system, run.strategy) == (model, system, strategy)]
        if not own:
            found.append(SharpnessMap(model, system, None, None))
            continue
        where = {"model": model, "system": system, "strategy": strategy}
        here = [panel.case for panel in cells if panel.case.system == system]  # the missing ones, too
        axes = [case.physical for case in here], [case.data for case in here]
        grids = tuple(collect.widen(collect.build_grid(own, name, **where), *axes)
                      for name in (*labels.METRICS, "metrics.lambda_max"))  # fmt: skip
        found.append(SharpnessMap(model, system, grids, thresholds.from_percentiles(*grids[:2])))
    return found


def draw(cells: Sequence[Panel[Run]]) -> Figure:
    """Draw lambda_max above the training loss, a column a system."""
    maps = arrange(cells)
    size = style.WIDTH, TOP + 2 * HEIGHT + BETWEEN + BELOW + KEY
    width = (size[0] - LEFT - RIGHT - GAP) / 2
    figure = Figure(figsize=size)
    for column, (letter, one) in enumerate(zip("ab", maps)):
        pair = []
        for row in range(2):
            y = size[1] - TOP - HEIGHT - row * (HEIGHT + BETWEEN)
            box = LEFT + column * (width + GAP), y, width, HEIGHT
            pair.append(figure.add_axes([part / size[k % 2] for k, part in enumerate(box)]))
        pair[0].text(0, 1 + 0.18 / HEIGHT, f"({letter}) {one.model}, {SYSTEM_TITLES[one.system]}",
                     transform=pair[0].transAxes)  # fmt: skip
        if one.grids is None:
            for axes in pair:
                panels.draw_nothing(axes, None, "no finished run\nwith lambda_max", PRINT)
            continue
        shown = (one.curvature, r"$\log_{10}\lambda_{max}$"), (one.grids[0], "training loss")
        for axes, (grid, word) in zip(pair, shown):
            _draw_map(axes, grid, one)
            context = one.system, one.model
            axes.set_ylabel(labels.axis_label(grid.data_name, *context))
            axes.text(0, 1.02, word, transform=axes.transAxes, fontsize=style.SMALLEST)
        pair[0].tick_params(labelbottom=False)
        pair[1].set_xlabel(labels.axis_label(one.grids[0].physical_name, *context))
    handles = [Line2D([], [], **style.TRAIN, label="training boundary"),
               Line2D([], [], **style.TEST, label="test boundary"), Patch(**style.MISSING, label="no run")]  # fmt: skip
    figure.legend(handles=handles, loc="lower center", ncols=3, frameon=False, bbox_to_anchor=(0.5, 0.13 / size[1]),
                  borderpad=0, borderaxespad=0)  # fmt: skip
    figure.text(0.5, 0.03 / size[1], "Logarithm of the mean over seeds. Colours: 5th to 95th percentile of a panel, "
                "yellow is low. Thresholds: percentiles 65 and 75 of each map.", ha="center", fontsize=style.SMALLEST)
    return figure


def _draw_map(axes: Axes, grid: Grid, one: SharpnessMap) -> None:
    panels.draw_cells(axes, panels.cell_colors(grid), grid.count > 0, grid, PRINT)
    for curve in panels.boundary_curves(*one.grids[:2], one.limits):
        panels.draw_boundary(axes, curve.grid, curve.level, PRINT.line(curve))
    panels.draw_scale(axes, *panels.color_limits(grid.shown))


def table(cells: Sequence[Panel[Run]]) -> list[dict[str, Any]]:
    """Return a row a cell."""
    rows = []
    for one in arrange(cells):
        if one.grids is None:
            continue
        train, test, curvature = one.grids
        rows += [
            {"model": one.model, "system": one.system, "physical": labels.axis_text(physical),
             "data": labels.axis_text(data), "seeds": int(curvature.count[i, j]), "train_loss": train.values[i, j],
             "test_error": test.values[i, j], "lambda_max": curvature.values[i, j],
             "log10_lambda_max": one.curvature.shown[i, j]}
            for i, data in enumerate(train.data) for j, physical in enumerate(train.physical)
        ]  # fmt: skip
    return rows


# ---- what the paper says -----------------------------------------------------------------------------------------

OPPOSED = Claim("(a) FNO: lambda_max is higher where the training loss is lower",
                "Spearman's rank correlation over the cells is negative, p at most 0.05")  # fmt: skip
LOWEST_RANGE = Claim("(a) FNO: lambda_max is higher at the lowest range of K than at the highest",
                     "geometric mean over n, by 10 % or more", "published data")  # fmt: skip
LOW_BEYOND = Claim(f"(b) PINN: lambda_max is low at large rho ({HARD:g} and more), where the training loss is high",
                   "medians of the cells on either side: lambda_max smaller and loss larger, by 10 %")  # fmt: skip


def checks(cells: Sequence[Panel[Run]]) -> list[Check]:
    """Return the claims on Figure 11."""
    fno, pinn = arrange(cells)
    gone = [missing_in([panel for panel in cells if panel.case.model == model]) for model, _, _ in MAPS]
    return [_opposed(fno, gone[0]), _lowest_range(fno, gone[0]), _low_beyond(pinn, gone[1])]


def _opposed(one: SharpnessMap, gone: str) -> Check:
    if one.grids is None:
        return Check(OPPOSED, "", None, "no run has lambda_max")
    rank, p = rank_correlation(one.grids[0].values.ravel(), one.curvature.shown.ravel())
    known = int((one.curvature.count > 0).sum())
    if not np.isfinite(rank):
        return Check(OPPOSED, f"{known} cells", None, "too few cells, or all alike")
    here = f"{rank:.2f} over {known} cells, p = {number(p)}"
    return Check(OPPOSED, here, all_of([bool(rank < 0) if p <= 0.05 else None], gone), gone or CLOSE)


def _lowest_range(one: SharpnessMap, gone: str) -> Check:
    if one.grids is None:
        return Check(LOWEST_RANGE, "", None, "no run has lambda_max")
    means = {name: 10 ** float(values[np.isfinite(values)].mean())
             for name, values in zip(one.curvature.physical, one.curvature.shown.T) if np.isfinite(values).any()}
    if len(means) < 2:
        return Check(LOWEST_RANGE, "", None, "there are no two ranges with lambda_max")
    lowest, highest = (sorted(means, key=axis_order)[k] for k in (0, -1))
    here = ", ".join(f"K {labels.axis_text(name)}: {number(means[name])}" for name in (lowest, highest))
    return Check(LOWEST_RANGE, here, all_of([above(means[lowest], means[highest], 1.1)], gone), gone or CLOSE)


def _low_beyond(one: SharpnessMap, gone: str) -> Check:
    """Return a check on the two sides of rho = 15; a loss that is not finite is high."""
    if one.grids is None:
        return Check(LOW_BEYOND, "", None, "no run has lambda_max")
    loss, curvature = one.grids[0].values, one.grids[2].shown
    beyond = np.array([name >= HARD for name in one.curvature.physical])
    medians = []
    for values in (curvature, loss):
        sides = [values[:, side][~np.isnan(values[:, side])] for side in (~beyond, beyond)]
        if not all(side.size for side in sides):
            return Check(LOW_BEYOND, "", None, f"there are no runs with lambda_max on both sides of rho = {HARD:g}")
        medians.append([float(np.median(side)) for side in sides])
    sharp, high = medians
    here = (f"medians below and beyond: lambda_max {number(sharp[0])} and {number(sharp[1])}, loss {number(high[0])} "
            f"and {number(high[1])}")  # fmt: skip
    holds = all_of([above(sharp[0], sharp[1], 1.1), above(high[1], high[0], 1.1)], gone)
    return Check(LOW_BEYOND, here, holds, gone or CLOSE)
