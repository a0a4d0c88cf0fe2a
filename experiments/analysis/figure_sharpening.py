"""Training loss and lambda_max of the Hessian along training (Figures 7 and 12), from history.csv of run folders.

Of the lines with lambda_max (--hessian_every log) the logarithms of both are averaged over seeds at the iterations that
all seeds have. What sharpens (green) and what is stable (pink) is told apart by this rule, as the paper has none:

    s = 5-point median of log lambda_max,  P = median of s over the last fifth of its points
    t_s = first point with s >= log(0.9 e^P) after which s stays above log(0.7 e^P); the last point if there is none
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from analysis import style
from analysis.checks import Check, number, untold
from analysis.collect import Run
from analysis.diagnoses import Panel, read_history

LOSS, CURVATURE = "#0072B2", "#c8003c"
SHARPENING, STABLE = "#d9f2d9", "#fbe3ea"


@dataclass(frozen=True)
class Course:
    """Loss and lambda_max of one run: iterations (m,), natural logarithms (m,) of the two, all finite."""

    run: Run
    iterations: np.ndarray
    loss: np.ndarray
    curvature: np.ndarray


@dataclass(frozen=True)
class Mean:
    """Means and standard deviations over seeds of the logarithms at the iterations that all seeds have; `split`."""

    seeds: int
    iterations: np.ndarray
    loss: np.ndarray
    loss_sd: np.ndarray
    curvature: np.ndarray
    curvature_sd: np.ndarray
    split: int  # index of t_s


def read(run: Run, folder: Path) -> Course:
    """Return the lines of history.csv with lambda_max.

    Raises:
        FileNotFoundError: there are none: curvature was not recorded.
        OSError: history.csv cannot be read.
        ValueError: a number cannot be read.
    """
    lines = [row for row in read_history(folder / "history.csv") if row.get("lambda_max")]
    if not lines:
        raise FileNotFoundError(folder / "history.csv")
    columns = np.array([[float(row[name]) for name in ("iteration", "train_loss", "lambda_max")] for row in lines])
    columns = columns[np.isfinite(columns).all(1) & (columns[:, 1:] > 0).all(1)]  # the others have no logarithm
    if len(columns) < 3:
        raise ValueError("history.csv: lambda_max and train_loss are positive in fewer than three lines")
    iterations, order = np.unique(columns[:, 0], return_index=True)
    return Course(run, iterations, *np.log(columns[order, 1:]).T)


def average(courses: Sequence[Course]) -> Mean:
    """Return the mean over the runs of a panel, one at least, at the iterations that all of them have."""
    common = courses[0].iterations
    for course in courses[1:]:
        common = np.intersect1d(common, course.iterations)
    values = [
        np.array([getattr(course, name)[np.isin(course.iterations, common)] for course in courses])
        for name in ("loss", "curvature")
    ]  # fmt: skip
    sds = [one.std(0, ddof=1) if len(courses) > 1 else np.zeros(len(common)) for one in values]
    means = [one.mean(0) for one in values]
    return Mean(len(courses), common, means[0], sds[0], means[1], sds[1], split(means[1]))


def split(curvature: np.ndarray) -> int:
    """Return the index of t_s for natural logarithms (m,) of lambda_max."""
    half = 2
    smooth = np.array([np.median(curvature[max(0, k - half) : k + half + 1]) for k in range(len(curvature))])
    plateau = np.median(smooth[-max(1, len(smooth) // 5) :])
    stays = np.minimum.accumulate(smooth[::-1])[::-1] > plateau + math.log(0.7)
    found = np.flatnonzero((smooth >= plateau + math.log(0.9)) & stays)
    return int(found[0]) if len(found) else len(curvature) - 1


def draw(panels: Sequence[Panel[Course]]) -> Figure:
    """Draw loss (left axis) and lambda_max (right axis) of each panel, two side by side."""
    columns = min(2, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(style.WIDTH if columns > 1 else 4.2, 1.75 * rows + 0.5), layout="constrained")
    for axes, panel in zip(figure.subplots(rows, columns, squeeze=False).flat, panels):
        axes.set_title(f"({panel.case.letter}) {panel.case.title}{_seeds(panel)}", loc="left")
        if panel.found:
            _draw_course(axes, panel.found)
        else:
            axes.set(xticks=(), yticks=())
            axes.text(0.5, 0.5, "no finished run with lambda_max in history.csv", transform=axes.transAxes, ha="center",
                      va="center")  # fmt: skip
    handles = [Line2D([], [], color=LOSS, label="training loss"),
               Line2D([], [], color=CURVATURE, linestyle="--", label=r"$\lambda_{max}$ of the Hessian"),
               Patch(color=SHARPENING, label="sharpening"), Patch(color=STABLE, label="stable")]  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
    return figure


def _seeds(panel: Panel[Course]) -> str:
    return f": mean and sd of logs over {len(panel.found)} seeds" if len(panel.found) > 1 else ": one seed"


def _draw_course(axes: Axes, courses: Sequence[Course]) -> None:
    mean, right = average(courses), axes.twinx()
    x = mean.iterations + 1
    for side, color, line, name in ((axes, LOSS, "-", "loss"), (right, CURVATURE, "--", "curvature")):
        side.set_yscale("log")
        middle, sd = getattr(mean, name), getattr(mean, f"{name}_sd")
        side.fill_between(x, np.exp(middle - sd), np.exp(middle + sd), color=color, alpha=0.2, linewidth=0)
        side.plot(x, np.exp(middle), color=color, linestyle=line)
        side.tick_params(axis="y", which="both", colors=color)
    axes.axvspan(x[0], x[mean.split], color=SHARPENING, zorder=-2, linewidth=0)
    axes.axvspan(x[mean.split], x[-1], color=STABLE, zorder=-2, linewidth=0)
    axes.axvline(x[mean.split], color="black", linestyle="--", linewidth=0.7)
    axes.set(xscale="log", xlim=(x[0], x[-1]), xlabel="iteration + 1", ylabel="training loss")
    right.set_ylabel(r"$\lambda_{max}$")


def table(panels: Sequence[Panel[Course]]) -> list[dict[str, Any]]:
    """Return a row a point that is drawn; means and standard deviations of natural logarithms."""
    rows = []
    for panel in panels:
        if not panel.found:
            continue
        mean = average(panel.found)
        rows += [
            {"panel": panel.case.letter, "physical": panel.case.physical, "data": panel.case.data, "seeds": mean.seeds,
             "iteration": int(mean.iterations[k]), "log_loss": mean.loss[k], "log_loss_sd": mean.loss_sd[k],
             "log_lambda_max": mean.curvature[k], "log_lambda_max_sd": mean.curvature_sd[k],
             "phase": "sharpening" if k < mean.split else "stable"}
            for k in range(len(mean.iterations))
        ]  # fmt: skip
    return rows


# ---- what the paper says -----------------------------------------------------------------------------------------


def checks_dynamics(panels: Sequence[Panel[Course]]) -> list[Check]:
    """Return the claims on Figure 7, which has one panel."""
    rises = "lambda_max rises sharply while the training loss falls, in all seeds"
    together = "the loss falls fastest while lambda_max rises"
    flat = "then both are stable"
    courses = panels[0].found
    if not courses:
        return [untold(paper, "no run has lambda_max in its history") for paper in (rises, together, flat)]
    ratios = [math.exp(one.curvature[-1] - one.curvature[0]) for one in courses]
    falls = [math.exp(one.loss[-1] - one.loss[0]) for one in courses]
    here = f"end / start: lambda_max {', '.join(map(number, ratios))}; loss {', '.join(map(number, falls))}"
    rose = all(ratio > 1 for ratio in ratios) and all(fall < 1 for fall in falls)
    one_seed = "one seed only" if len(courses) == 1 else ""
    found = [Check(rises, here, None if rose and one_seed else rose, one_seed * rose)]
    mean = average(courses)
    speed = np.gradient(mean.loss, np.log10(mean.iterations + 1))
    fastest = int(np.argmin(speed))
    here = (f"fastest fall per decade at iteration {mean.iterations[fastest]:g}, sharpening ends at "
            f"{mean.iterations[mean.split]:g}")  # fmt: skip
    found.append(Check(together, here, bool(speed[fastest] < 0 and fastest <= mean.split)))
    after = slice(mean.split, None)
    spans = [math.exp(np.ptp(values[after])) for values in (mean.curvature, mean.loss)]
    here = f"after that lambda_max varies by a factor of {number(spans[0])}, the loss by {number(spans[1])}"
    if mean.split >= len(mean.iterations) - 2:
        return [*found, Check(flat, here, None, "training ends with the sharpening")]
    return [*found, Check(flat, here, max(spans) <= 10**0.5, "stable: within half a decade")]


def peak(panel: Panel[Course]) -> float:
    """Return how much lambda_max grows from the start to its peak, the geometric mean over seeds."""
    return math.exp(np.mean([one.curvature.max() - one.curvature[0] for one in panel.found]))


def checks_regimes(panels: Sequence[Panel[Course]]) -> list[Check]:
    """Return the claims on Figure 12."""
    grows = "curvature increases in all settings, while the training loss falls"
    stronger = "it increases more at the larger beta"
    initial = "lambda_max before training is larger at the larger beta"
    there = [panel for panel in panels if panel.found]
    if not there:
        return [untold(paper, "no run has lambda_max in its history") for paper in (grows, stronger, initial)]
    here = ", ".join(f"{panel.case.name}: x {number(peak(panel))} to the peak" for panel in there)
    fell = all(one.loss[-1] < one.loss[0] for panel in there for one in panel.found)
    holds = fell and all(peak(panel) > 2 for panel in there)
    missing = f"{len(panels) - len(there)} of {len(panels)} panels are missing" if len(there) < len(panels) else ""
    found = [Check(grows, here, None if missing and holds else holds, missing * holds or "increase: to twice or more")]
    pairs = [(low, high) for low in there for high in there
             if low.case.data == high.case.data and low.case.physical < high.case.physical]  # fmt: skip
    if not pairs:
        return [*found, *(untold(paper, "no amount of data has two betas") for paper in (stronger, initial))]
    ratios = [(pair, peak(pair[1]) / peak(pair[0])) for pair in pairs]
    here = ", ".join(f"{_pair(pair)}: {number(ratio)} times as much" for pair, ratio in ratios)
    found.append(Check(stronger, here, *_all_above(ratios)))
    starts = [(pair, math.exp(_start(pair[1]) - _start(pair[0]))) for pair in pairs]
    here = ", ".join(f"{_pair(pair)}: {number(ratio)} times as large" for pair, ratio in starts)
    return [*found, Check(initial, here, *_all_above(starts), source="expected")]


def _start(panel: Panel[Course]) -> float:
    return float(np.mean([one.curvature[0] for one in panel.found]))


def _pair(pair: tuple[Panel[Course], Panel[Course]]) -> str:
    low, high = (panel.case for panel in pair)
    return f"n = {low.data:g}, {low.physical:g} to {high.physical:g}"


def _all_above(ratios: Sequence[tuple[tuple[Panel[Course], Panel[Course]], float]]) -> tuple[bool | None, str]:
    """Return whether all ratios are above one; not to be told if they are, of one seed alone."""
    holds = all(ratio > 1 for _, ratio in ratios)
    single = any(len(panel.found) == 1 for pair, _ in ratios for panel in pair)
    return (None, "one seed only") if holds and single else (holds, "")
