"""Training loss and test error along paths between two runs (Figure 15), from connectivity_*.json and .npz.

    rise = max over t of log10 L(t) less that of the higher end, in decades

of the chord and of trained curves: none, no barrier. Over the straight line between the logarithms of its ends
(barrier_log10) even a loss that only falls has a barrier. Both axes are logarithmic, as the ends differ by orders of
magnitude.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from analysis import labels, measures, style
from analysis.checks import Check, Claim, number, untold
from analysis.collect import Run
from analysis.diagnoses import Case, Panel, read_arrays, read_json, real

LOOKS = {"chord": ("straight line", "#666666", ":"), "bezier": ("Bézier curve", "#0072B2", "-"),
         "polygonal": ("polygonal chain", "#D55E00", "--")}  # fmt: skip
SAME_BASIN = 0.1  # decades
APART, MUCH = 10.0, 2.0  # ratios of losses and of errors that differ


@dataclass(frozen=True)
class Paths:
    """Two runs and what lies between: t (m,), loss and error (m,) by path; barrier_log10 in decades."""

    run: Run
    ends: tuple[str, str]  # strategies
    t: np.ndarray
    losses: dict[str, np.ndarray]
    errors: dict[str, np.ndarray]
    barriers: dict[str, float]


def read(run: Run, folder: Path) -> Paths:
    """Return what `diagnose.py connectivity` left between the run and one of ALM; raises as `diagnoses.read` has it."""
    files = sorted(folder.glob("connectivity_alm-*.json"))
    if not files:
        raise FileNotFoundError(folder / "connectivity_alm-*.json")
    content = read_json(files[0], "connectivity")
    arrays = read_arrays(files[0].with_suffix(".npz"), "t", "chord_loss", "chord_error")
    names = [name for name in LOOKS if f"{name}_loss" in arrays and f"{name}_error" in arrays]
    losses, errors = ({name: np.asarray(arrays[f"{name}_{what}"], float) for name in names}
                      for what in ("loss", "error"))  # fmt: skip
    barriers = {name: real(content["paths"][name]["barrier_log10"]) for name in names}
    t = np.asarray(arrays["t"], float)
    if t.ndim != 1 or len(t) < 2 or any(one.shape != t.shape for one in (*losses.values(), *errors.values())):
        raise ValueError(f"{files[0].stem}.npz: t and the values on the paths are not of one length, two at least")
    return Paths(run, (run.strategy, "alm"), t, losses, errors, barriers)


def first_ends(_: object, cases: Sequence[Case]) -> list[Case]:
    """Return the cells of L-BFGS, in whose folders the paths to those of ALM are."""
    return [replace(case, letter="a") for case in cases if case.strategy == "lbfgs"]


def draw(panels: Sequence[Panel[Paths]]) -> Figure:
    """Draw training loss beside test error."""
    figure = Figure(figsize=(style.WIDTH, 2.5), layout="constrained")
    found = panels[0].first
    names = [labels.STRATEGIES.get(name, name) for name in found.ends]
    for axes, letter, values, word in zip(figure.subplots(1, 2), "ab", (found.losses, found.errors),
                                          ("training loss", "test error")):  # fmt: skip
        for name, (words, color, line) in LOOKS.items():
            if name in values:
                axes.plot(found.t, np.where(np.isfinite(values[name]), values[name], np.nan), color=color,
                          linestyle=line, label=words)  # fmt: skip
        axes.set(yscale="log", xlim=(0, 1), ylabel=word, xlabel=f"t, from {names[0]} (0) to {names[1]} (1)")
        axes.set_title(f"({letter}) {word.capitalize()}", loc="left")
    handles, words = axes.get_legend_handles_labels()
    figure.legend(handles, words, loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle(panels[0].case.title)
    return figure


def table(panels: Sequence[Panel[Paths]]) -> list[dict[str, Any]]:
    """Return a row a point of each path."""
    return [
        {"run": panel.first.run.path, "path": name, "t": panel.first.t[k], "train_loss": panel.first.losses[name][k],
         "test_error": panel.first.errors[name][k]}
        for panel in panels if panel.first for name in panel.first.losses for k in range(len(panel.first.t))
    ]  # fmt: skip


ENDS = Claim("L-BFGS ends at a coarse loss (about 1e-2), ALM at a fine one (about 1e-4)",
             "each within half a decade", absolute=True)  # fmt: skip
BARRIER = Claim("no barrier of the training loss between them: both lie in one basin",
                f"on the best path the loss rises above that of the higher end by {SAME_BASIN:g} decades at most; the "
                f"ends differ by a factor of {APART:g} or more")  # fmt: skip
ERRORS = Claim("the test errors of the two differ significantly", f"that of the coarse end is {MUCH:g} times as large")


def checks(panels: Sequence[Panel[Paths]]) -> list[Check]:
    """Return the claims on Figure 15."""
    found = panels[0].first if panels else None
    if found is None:
        return untold([ENDS, BARRIER, ERRORS], "the path is missing")
    loss, error = ([values["chord"][k] for k in (0, -1)] for values in (found.losses, found.errors))
    near = all(abs(measures.decades(here) - there) <= 0.5 for here, there in zip(loss, (-2, -4)))
    here = f"loss {number(loss[0])} and {number(loss[1])}"
    checks = [Check(ENDS, here, near or (False if loss[0] <= loss[1] else None), "the runs are not the paper's")]
    rises = {name: rise(values) for name, values in found.losses.items()}
    here = ", ".join(f"{LOOKS[name][0]} {value:.2f}, over the straight line of the logs {found.barriers[name]:.2f}"
                     for name, value in rises.items())  # fmt: skip
    holds = min(rises.values()) <= SAME_BASIN if loss[0] >= APART * loss[1] else None
    checks.append(Check(BARRIER, f"decades above the higher end: {here}", holds, "the ends hardly differ"))
    here = f"test error {number(error[0])} and {number(error[1])}"
    return [*checks, Check(ERRORS, here, bool(error[0] >= MUCH * error[1]))]


def rise(loss: np.ndarray) -> float:
    """Return by how many decades a path of losses (m,) rises above its higher end; 0 where it never does."""
    z = measures.decades(loss)
    return float(z.max() - max(z[0], z[-1]))
