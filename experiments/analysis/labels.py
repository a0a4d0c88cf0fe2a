"""What is written on a regime map: the regimes of its cells, the words, and all of it as a table.

    L > T_train: II (under-trained);  else E > T_test: III (over-trained);  else I (well-trained)

with L the training loss and E the test error. Equality counts as low; a value that is not finite is
above every threshold. The paper describes II as high loss *and* high error and has no name for high
loss with low error, which does occur; the rule above matches its figures, and `Counts` splits II so
that the unnamed quadrant is visible.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from analysis.collect import AxisValue, Grid
from analysis.thresholds import Thresholds

NAMES = {
    "I": "well-trained (loss and error low)",
    "II": "under-trained (loss high)",
    "III": "over-trained (loss low, error high)",
}
# (system or model, swept name) -> axis label; "" stands for any.
AXIS_LABELS = {
    ("convection", "beta"): "convection coefficient β",
    ("reaction", "rho"): "reaction coefficient ρ",
    ("reaction_diffusion", "rho"): "reaction coefficient ρ",
    ("reaction_diffusion", "nu"): "diffusion coefficient ν",
    ("wave", "c"): "wave speed c",
    ("darcy", "r"): r"coefficient contrast r = $a_{\max}/a_{\min}$",
    ("poisson", "k"): "range of diffusion eigenvalues K",
    ("advdiff", "psi"): "range of advection-to-diffusion ratio Ψ",
    ("helmholtz", "o"): "range of the Helmholtz coefficient ω",
    ("pendulum", "inv_b"): "inverse damping 1/b",
    ("pendulum", "n"): r"training samples $T/\Delta t$",
    ("cifar10", "n"): "training images n",
    ("cifar100", "n"): "training images n",
    ("PINN", "n"): r"collocation points $N_f$",
    ("PINN", "n_f"): r"collocation points $N_f$",
    ("PINN", "num_res"): r"collocation points $N_f$",
    ("", "lr"): "learning rate η",
    ("", "n"): "training samples n",
    ("", "n_samples"): "training samples n",
}
STRATEGIES = {"lbfgs": "L-BFGS", "alm": "ALM", "ropinn": "RoPINN", "nncg": "NNCG", "cl": "CL"}
STRATEGIES |= {"adam": "Adam", "adam_lbfgs": "Adam + L-BFGS", "sgd": "SGD", "region_lbfgs": "region L-BFGS"}
STRATEGIES |= {"alm_data": "ALM, hard data", "sphere_adam": "Adam, on the sphere", "adam_nncg": "Adam + NNCG"}
STRATEGIES |= {"nncg_only": "NNCG alone", "trajectory": "plain SGD"}
METRICS = {"train_loss": "training loss", "test_error": "test error"}
# (system, metric) -> how it is measured, where that is not what one would expect.
MEASURES = {
    ("pendulum", "train_loss"): "data term",
    ("poisson", "train_loss"): "relative L2",
    ("advdiff", "train_loss"): "relative L2",
    ("helmholtz", "train_loss"): "relative L2",
    ("darcy", "train_loss"): "5 d + p",
    ("cifar10", "train_loss"): "cross-entropy",
    ("cifar100", "train_loss"): "cross-entropy",
    ("cifar10", "test_error"): "share of wrong labels",
    ("cifar100", "test_error"): "share of wrong labels",
    ("pendulum", "test_error"): "relative L2 of the rollout",
}


@dataclass(frozen=True)
class Counts:
    """Cells by regime; `two` = `two_high_error` + `two_low_error` (the unnamed quadrant)."""

    one: int
    two: int
    three: int
    two_high_error: int
    two_low_error: int
    missing: int


def above(value: float, threshold: float) -> bool:
    """Whether a value counts as high: above the threshold, or not finite."""
    return not math.isfinite(value) or value > threshold


def regime(train_loss: float, test_error: float, thresholds: Thresholds) -> str:
    """Return "I", "II" or "III" for one cell."""
    if above(train_loss, thresholds.train):
        return "II"
    return "III" if above(test_error, thresholds.test) else "I"


def label_cells(train: Grid, test: Grid, thresholds: Thresholds) -> np.ndarray:
    """Return the regimes as text, shape (rows, columns); "" where no run is.

    Raises:
        ValueError: the two grids differ in their axes.
    """
    if (train.physical, train.data) != (test.physical, test.data):
        raise ValueError("the two grids have different axes")
    labels = np.full(train.values.shape, "", dtype="<U3")
    for i, j in np.argwhere((train.count > 0) & (test.count > 0)):
        labels[i, j] = regime(train.values[i, j], test.values[i, j], thresholds)
    return labels


def count_cells(train: Grid, test: Grid, thresholds: Thresholds) -> Counts:
    """Count the cells in each regime, with II split by test error (the strict quadrants)."""
    labels = label_cells(train, test, thresholds)
    high_error = ~np.isfinite(test.values) | (test.values > thresholds.test)
    one, two, three = (int((labels == name).sum()) for name in NAMES)
    strict = int(((labels == "II") & high_error).sum())
    return Counts(one, two, three, strict, two - strict, int((labels == "").sum()))


def axis_label(name: str, *contexts: str) -> str:
    """Return a swept name spelled out for a system or model, or the name itself if unknown."""
    for context in (*contexts, ""):
        if (context, name.lower()) in AXIS_LABELS:
            return AXIS_LABELS[context, name.lower()]
    return name


def metric_label(metric: str, system: str, measure: str = "") -> str:
    """Return a metric in words: "training loss", "test error (relative L2 of the rollout)"."""
    measure = MEASURES.get((system, metric), measure)
    return METRICS.get(metric, metric) + (f" ({measure})" if measure else "")


def axis_text(value: AxisValue) -> str:
    """Return a tick label: 20000, 0.5, 1-2.5."""
    return f"{value:.10g}" if isinstance(value, float) else value


def short(value: float) -> str:
    """Return a number in at most seven characters: 0.434, 12.3, 3.8e-3."""
    if not math.isfinite(value):
        return "none" if math.isnan(value) else "inf"
    if value == 0 or 1e-2 <= abs(value) < 1e4:
        return f"{value:#.3g}".rstrip(".") if abs(value) < 100 else f"{value:.0f}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def seeds_text(grid: Grid) -> str:
    """Return how many seeds a cell holds: "1 seed per cell", "mean of 1 to 3 seeds per cell"."""
    present = sorted({int(n) for n in grid.count.flat if n})
    if present in ([], [1]):
        return f"{len(present)} seed per cell"
    ends = " to ".join(str(n) for n in sorted({present[0], present[-1]}))
    return f"mean of {ends} seeds per cell"


def format_table(train: Grid, test: Grid, limits: Thresholds, width: int = 100) -> str:
    """Return the map as ASCII text of `width` columns: loss, error and regime by cell, counts."""
    regimes = label_cells(train, test, limits)
    counts = count_cells(train, test, limits)
    lines = [
        f"{train.model} {train.system} {train.strategy}; {seeds_text(train)}",
        f"T_train = {limits.train:.3e}, T_test = {limits.test:.3e} ({limits.source})",
    ]
    for grid in (train, test):
        columns = range(len(grid.physical))
        cells = [[_table_cell(grid, i, j) for j in columns] for i in range(len(grid.data))]
        lines += _block(METRICS.get(grid.metric, grid.metric), grid, cells, width)
    lines += _block("regime", train, [[name or "." for name in row] for row in regimes], width)
    if np.ptp(train.count[train.count > 0]) > 0:
        lines += _block("seeds", train, [[str(n) for n in row] for row in train.count], width)
    lines += [
        "",
        f"cells   I {counts.one}   II {counts.two}   III {counts.three}"
        f"   without a finished run {counts.missing}",
        f"of II   {counts.two_high_error} with high test error (the paper's II), "
        f"{counts.two_low_error} with low test error (unnamed)",
    ]
    if (diverged := np.maximum(train.diverged, test.diverged)).any():
        lines.append(f"*       with diverged runs ({diverged.sum()} in all): the mean of the finite values")
    return "\n".join(lines)


def _table_cell(grid: Grid, i: int, j: int) -> str:
    if grid.count[i, j] == 0:
        return "."
    value = "diverged" if np.isnan(grid.shown[i, j]) else f"{grid.shown[i, j]:.2e}"
    return value + "*" * bool(grid.diverged[i, j])


def _block(title: str, grid: Grid, cells: list[list[str]], width: int) -> list[str]:
    """Return one aligned table, most data on top as in the picture, cut into `width` columns."""
    heads = [axis_text(value) for value in grid.physical]
    side = [axis_text(value) for value in grid.data]
    margin = max(len(text) for text in (*side, grid.data_name)) + 1
    cell = max(8, *map(len, heads)) + 1
    per_block = max(1, (width - margin - 1) // (cell + 1))
    lines = []
    for start in range(0, len(heads), per_block):
        part = slice(start, start + per_block)
        lines += ["", f"{title}, {grid.data_name} (rows) by {grid.physical_name} (columns)"]
        for name, row in [*zip(side, cells, strict=True), ("", heads)][::-1]:
            # A star hangs to the right of its number, so that the digits line up.
            texts = (text if text.endswith("*") else f"{text} " for text in row[part])
            line = f"{name:>{margin}} " + "".join(f"{text:>{cell + 1}}" for text in texts)
            lines.append(line.rstrip())
    return lines
