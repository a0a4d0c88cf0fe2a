"""Training loss and lambda_max of the Hessian along training (Figures 7 and 12), from history.csv of run folders.

Of the lines with lambda_max (--hessian_every log) the logarithms of both are averaged over seeds; between the lines of
a seed they are interpolated, linear in the logarithm of the iteration. What sharpens (green) and what is stable (pink)
is told apart by this rule, as the paper has none:

    s = 5-point median of log lambda_max (the first point as it is),  P = median of s over the last fifth of its points
    t_s = first point with s >= log(0.9 e^P) after which s stays above log(0.7 e^P); the last point if there is none
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from analysis import style
from analysis.checks import CLOSE, Check, Claim, all_of, beyond_noise, number, standard_error, untold
from analysis.collect import Run
from analysis.diagnoses import Panel, missing_in, read_history

LOSS, CURVATURE = "#0072B2", "#c8003c"
SHARPENING, STABLE = "#d9f2d9", "#fbe3ea"
FEWEST = 5  # points from which anything can be told, and of the median
RISE, NO_RISE = 2.0, 1.1  # factors: from here on a rise; up to here none


@dataclass(frozen=True)
class Course:
    """Loss and lambda_max of one run: iterations (m,), natural logarithms (m,) of the two, all finite."""

    run: Run
    iterations: np.ndarray
    loss: np.ndarray
    curvature: np.ndarray


@dataclass(frozen=True)
class Aligned:
    """The runs of a panel at common iterations (m,): natural logarithms (seeds, m) of loss and lambda_max."""

    iterations: np.ndarray
    loss: np.ndarray
    curvature: np.ndarray

    @property
    def split(self) -> int | None:
        """The index of t_s in the mean over the seeds, None where there are too few points."""
        return split(self.curvature.mean(0))


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
    iterations, order = np.unique(columns[:, 0], return_index=True)
    if len(iterations) < 2:
        raise ValueError("history.csv: lambda_max and train_loss are positive in fewer than two lines")
    return Course(run, iterations, *np.log(columns[order, 1:]).T)


def align(courses: Sequence[Course]) -> Aligned:
    """Return the runs of a panel, one at least, at the iterations of any of them that lie within all.

    Between the points of a run its logarithms are interpolated, linear in log(iteration + 1).
    """
    first, last = max(one.iterations[0] for one in courses), min(one.iterations[-1] for one in courses)
    iterations = np.unique(np.concatenate([one.iterations for one in courses]))
    iterations = iterations[(iterations >= first) & (iterations <= last)]
    loss, curvature = (
        np.array([np.interp(np.log(iterations + 1), np.log(one.iterations + 1), getattr(one, name)) for one in courses])
        for name in ("loss", "curvature")
    )  # fmt: skip
    return Aligned(iterations, loss, curvature)


def spread(values: np.ndarray) -> np.ndarray:
    """Return the standard deviation (m,) over seeds of values (seeds, m); 0 for one."""
    return values.std(0, ddof=1) if len(values) > 1 else np.zeros(values.shape[1])


def split(curvature: np.ndarray) -> int | None:
    """Return the index of t_s for natural logarithms (m,) of lambda_max; None for fewer than five."""
    if len(curvature) < FEWEST:
        return None
    half = FEWEST // 2
    padded = np.concatenate([np.repeat(curvature[0], half), curvature])  # so that the first point stays where it is
    smooth = np.array([np.median(padded[k : k + 2 * half + 1]) for k in range(len(curvature))])
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
    handles = [Line2D([], [], color=LOSS, label="training loss (mean and sd of logs)"),
               Line2D([], [], color=CURVATURE, linestyle="--", label=r"$\lambda_{max}$ of the Hessian"),
               Patch(color=SHARPENING, label="sharpening"), Patch(color=STABLE, label="stable")]  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
    return figure


def _seeds(panel: Panel[Course]) -> str:
    return f", {len(panel.found)} seeds" if len(panel.found) > 1 else ", one seed"


def _draw_course(axes: Axes, courses: Sequence[Course]) -> None:
    shared, right = align(courses), axes.twinx()
    x, at = shared.iterations + 1, shared.split
    for side, color, line, values in ((axes, LOSS, "-", shared.loss), (right, CURVATURE, "--", shared.curvature)):
        side.set_yscale("log")
        middle, sd = values.mean(0), spread(values)
        side.fill_between(x, np.exp(middle - sd), np.exp(middle + sd), color=color, alpha=0.2, linewidth=0)
        side.plot(x, np.exp(middle), color=color, linestyle=line, marker="." if at is None else None)
        side.tick_params(axis="y", which="both", colors=color)
    axes.set(xscale="log", xlabel="iteration + 1", ylabel="training loss")
    if at is not None:
        axes.axvspan(x[0], x[at], color=SHARPENING, zorder=-2, linewidth=0)
        axes.axvspan(x[at], x[-1], color=STABLE, zorder=-2, linewidth=0)
        axes.axvline(x[at], color="black", linestyle="--", linewidth=0.7)
        axes.set_xlim(x[0], x[-1])
    right.set_ylabel(r"$\lambda_{max}$")


def table(panels: Sequence[Panel[Course]]) -> list[dict[str, Any]]:
    """Return a row a point that is drawn; means and standard deviations of natural logarithms."""
    rows = []
    for panel in panels:
        if not panel.found:
            continue
        shared = align(panel.found)
        columns = {f"log_{name}{end}": compute(values)
                   for name, values in (("loss", shared.loss), ("lambda_max", shared.curvature))
                   for end, compute in (("", lambda one: one.mean(0)), ("_sd", spread))}  # fmt: skip
        at = shared.split
        rows += [
            {"panel": panel.case.letter, "physical": panel.case.physical, "data": panel.case.data,
             "seeds": len(panel.found), "iteration": int(iteration)}
            | {name: values[k] for name, values in columns.items()}
            | {"phase": "" if at is None else "sharpening" if k < at else "stable"}
            for k, iteration in enumerate(shared.iterations)
        ]  # fmt: skip
    return rows


# ---- what the paper says -----------------------------------------------------------------------------------------

RISES = Claim("lambda_max rises sharply while the training loss falls, in all seeds",
              f"in each, lambda_max grows from the start to its peak by a factor of {RISE:g} or more, and the loss "
              f"falls by as much; {NO_RISE:g} or less refutes it")  # fmt: skip
TOGETHER = Claim("the loss falls fastest while lambda_max rises",
                 "lambda_max grows around the fastest fall of the mean log loss per iteration, by two "
                 f"standard errors over the seeds (one seed: a factor of {NO_RISE:g})")  # fmt: skip
FLAT = Claim("then both are stable", "after the sharpening both stay within half a decade")
GROWS = Claim("curvature increases in all settings, while the training loss falls",
              f"lambda_max grows from the start to its peak by a factor of {RISE:g} or more, the mean over the seeds, "
              f"and the loss falls by as much; {NO_RISE:g} or less refutes it")  # fmt: skip
NOISE = f"beyond two standard errors over the seeds (one seed: a factor of {RISE:g})"
STRONGER = Claim("it increases more at the larger beta", f"ratio of the growths above 1, {NOISE}")
INITIAL = Claim("lambda_max before training is larger at the larger beta", f"ratio above 1, {NOISE}", "expected")


def long_enough(panel: Panel[Course]) -> Panel[Course]:
    """Return the panel with the runs that have enough points to tell anything."""
    return replace(panel, found=tuple(one for one in panel.found if len(one.iterations) >= FEWEST))


def growth(course: Course) -> float:
    """Return log(peak / start) of lambda_max."""
    return float(course.curvature.max() - course.curvature[0])


def grew(log_ratio: float) -> bool | None:
    """Return whether something grew to twice or more; None where it grew by less, but by more than a tenth."""
    return True if log_ratio >= math.log(RISE) else False if log_ratio <= math.log(NO_RISE) else None


def checks_dynamics(panels: Sequence[Panel[Course]]) -> list[Check]:
    """Return the claims on Figure 7, which has one panel."""
    panel = long_enough(panels[0])
    gone, courses = _gone([panel]), panel.found
    if not courses:
        return untold([RISES, TOGETHER, FLAT], gone or "no run has lambda_max in its history")
    growths, falls = [growth(one) for one in courses], [float(one.loss[0] - one.loss[-1]) for one in courses]
    here = ("peak / start of lambda_max: " + ", ".join(number(math.exp(value)) for value in growths)
            + "; end / start of the loss: " + ", ".join(number(math.exp(-value)) for value in falls))  # fmt: skip
    found = [Check(RISES, here, all_of(map(grew, growths + falls), gone), gone or CLOSE)]
    shared = align(courses)
    if shared.split is None:
        return [*found, *untold([TOGETHER, FLAT], f"the seeds share fewer than {FEWEST} points")]
    x, (loss, curvature) = shared.iterations, (shared.loss.mean(0), shared.curvature.mean(0))
    speed = np.gradient(loss, x)
    fastest = int(np.argmin(speed))
    before, after = max(fastest - 1, 0), min(fastest + 1, len(x) - 1)
    changes = shared.curvature[:, after] - shared.curvature[:, before]
    here = (f"fastest fall at iteration {x[fastest]:g}; from {x[before]:g} to {x[after]:g} lambda_max "
            f"changes by a factor of {number(math.exp(changes.mean()))}")  # fmt: skip
    rising = beyond_noise(float(changes.mean()), standard_error(changes), math.log(NO_RISE))
    found.append(Check(TOGETHER, here, all_of([rising, bool(speed[fastest] < -1e-9)], gone), gone or CLOSE))
    spans = [math.exp(np.ptp(values[shared.split :])) for values in (curvature, loss)]
    here = (f"sharpening ends at iteration {x[shared.split]:g}, then lambda_max varies by a factor of "
            f"{number(spans[0])}, the loss by {number(spans[1])}")  # fmt: skip
    if shared.split >= len(x) - 2:
        return [*found, Check(FLAT, here, None, "training ends with the sharpening")]
    return [*found, Check(FLAT, here, all_of([max(spans) <= 10**0.5], gone), gone)]


def checks_regimes(panels: Sequence[Panel[Course]]) -> list[Check]:
    """Return the claims on Figure 12."""
    panels = [long_enough(panel) for panel in panels]
    gone, there = _gone(panels), [panel for panel in panels if panel.found]
    if not there:
        return untold([GROWS, STRONGER, INITIAL], gone or "no run has lambda_max in its history")
    here = ", ".join(f"{panel.case.name}: x {number(math.exp(np.mean([growth(one) for one in panel.found])))}"
                     for panel in there)  # fmt: skip
    parts = [grew(float(np.mean([value(one) for one in panel.found]))) for panel in there
             for value in (growth, lambda one: one.loss[0] - one.loss[-1])]  # fmt: skip
    found = [Check(GROWS, f"to the peak: {here}", all_of(parts, gone), gone or CLOSE)]
    pairs = [(low, high) for low in there for high in there
             if low.case.data == high.case.data and low.case.physical < high.case.physical]  # fmt: skip
    found.append(_compare(STRONGER, pairs, growth, gone))
    return [*found, _compare(INITIAL, pairs, lambda one: one.curvature[0], gone)]


def _gone(panels: Sequence[Panel[Course]]) -> str:
    said = missing_in(panels)
    return f"{said}, or have fewer than {FEWEST} points with lambda_max" if said else ""


def _compare(
    claim: Claim, pairs: Sequence[tuple[Panel[Course], Panel[Course]]], value: Callable[[Course], float], gone: str
) -> Check:
    """Return a check that the mean over the seeds of a logarithm is larger in the second panel of each pair."""
    parts, words = [], []
    for panels in pairs:
        low, high = ([float(value(one)) for one in panel.found] for panel in panels)
        gap, error = fmean(high) - fmean(low), math.hypot(standard_error(high), standard_error(low))
        parts.append(beyond_noise(gap, error, math.log(RISE)))
        first, second = (panel.case for panel in panels)
        words.append(f"n = {first.data:g}, {first.physical:g} to {second.physical:g}: x {number(math.exp(gap))}")
    return Check(claim, ", ".join(words), all_of(parts, gone), gone or (CLOSE if pairs else "no two betas of one n"))
