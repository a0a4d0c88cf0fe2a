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
from analysis.checks import Check, number, rank_correlation, untold
from analysis.collect import Grid, Run, axis_order
from analysis.diagnoses import Case, Panel, read_json, real
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
    state = read_json(folder / "hessian.json", "hessian")["states"].get("final")
    if state is None:
        raise FileNotFoundError(folder / "hessian.json")
    value = real(state["lambda_max"]) if state["finite"] else float("nan")
    return replace(run, metrics=run.metrics | {"lambda_max": value})


def choose(runs: Sequence[tuple[Run, Path]]) -> list[tuple[Run, Path]]:
    """Return the runs of the two maps: those of landscapes.sh (in maps/) where there are any, else all."""
    chosen = []
    for where in MAPS:
        own = [(run, folder) for run, folder in runs if (run.model, run.system, run.strategy) == where]
        chosen += [one for one in own if "maps" in one[1].parts] or own
    return chosen


def cases_of(runs: Sequence[tuple[Run, Path]], wanted: Sequence[Case]) -> list[Case]:
    """Return the wanted cells and those of other runs: a map shows all that there is."""
    seen = {(case.system, case.strategy, case.physical, case.data) for case in wanted}
    more = []
    for run, _ in runs:
        key = run.system, run.strategy, run.physical_value, run.data_value
        if key not in seen:
            seen.add(key)
            more.append(Case("", run.model, run.system, run.strategy, run.physical_name, run.physical_value,
                             run.data_name, run.data_value, ()))  # fmt: skip
    return [*wanted, *more]


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


def checks(cells: Sequence[Panel[Run]]) -> list[Check]:
    """Return the claims on Figure 11."""
    fno, pinn = arrange(cells)
    sharp = "(a) FNO: lambda_max is higher where the training loss is lower"
    easy = "(a) FNO: lambda_max is higher at the lowest range of K than at the highest"
    flat = f"(b) PINN: lambda_max is low at large rho ({HARD:g} and more), where the training loss is high"
    found = [_correlated(sharp, fno)]
    if fno.grids is None or len(fno.grids[2].physical) < 2:
        found.append(untold(easy, "there are no two ranges with lambda_max"))
    else:
        means = _columns(fno.curvature)
        order = sorted(means, key=axis_order)
        here = ", ".join(f"K {labels.axis_text(name)}: {number(10 ** means[name])}" for name in (order[0], order[-1]))
        found.append(Check(easy, here, means[order[0]] > means[order[-1]], source="published data"))
    return [*found, _flat(flat, pinn)]


def _correlated(paper: str, one: SharpnessMap) -> Check:
    if one.grids is None:
        return untold(paper, "no run has lambda_max")
    rank = rank_correlation(one.grids[0].shown.ravel(), one.curvature.shown.ravel())
    cells = int((one.curvature.count > 0).sum())
    if not np.isfinite(rank):
        return Check(paper, f"{cells} cells", None, "too few cells, or all alike")
    return Check(paper, f"Spearman's rank correlation over {cells} cells: {rank:.2f}", bool(rank < 0))


def _flat(paper: str, one: SharpnessMap) -> Check:
    """Return a check on the two sides of rho = 15: lambda_max lower and loss higher beyond it."""
    if one.grids is None:
        return untold(paper, "no run has lambda_max")
    sides = [[name for name in one.curvature.physical if (name >= HARD) == hard] for hard in (False, True)]
    if not all(sides):
        return untold(paper, f"there are no runs on both sides of rho = {HARD:g}")
    losses = replace(one.grids[0], shown=np.log10(one.grids[0].shown))
    sharp, loss = ([np.mean([means[name] for name in side if name in means] or [np.nan]) for side in sides]
                   for means in (_columns(one.curvature), _columns(losses)))  # fmt: skip
    here = (f"geometric means below and beyond: lambda_max {number(10 ** sharp[0])} and {number(10 ** sharp[1])}, loss "
            f"{number(10 ** loss[0])} and {number(10 ** loss[1])}")  # fmt: skip
    if not np.isfinite([*sharp, *loss]).all():
        return Check(paper, here, None, "one side has no finite value")
    return Check(paper, here, bool(sharp[1] < sharp[0] and loss[1] > loss[0]))


def _columns(grid: Grid) -> dict[Any, float]:
    """Return the means of what is shown over the amounts of data, by physical value, where there is one."""
    columns = {name: grid.shown[:, j][np.isfinite(grid.shown[:, j])] for j, name in enumerate(grid.physical)}
    return {name: float(values.mean()) for name, values in columns.items() if values.size}
