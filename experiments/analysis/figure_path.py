"""Training loss and test error along paths between two runs (Figure 15), from connectivity_*.json and .npz.

    barrier = max over t of log10 L(t) less the straight line between the log10 of its ends, in decades

of the chord and of trained curves; both axes are logarithmic, as the ends may differ by orders of magnitude.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from analysis import labels, style
from analysis.checks import Check, number, untold
from analysis.collect import Run
from analysis.diagnoses import Case, Panel, read_arrays, read_json, real

LOOKS = {"chord": ("straight line", "#666666", ":"), "bezier": ("Bézier curve", "#0072B2", "-"),
         "polygonal": ("polygonal chain", "#D55E00", "--")}  # fmt: skip
SAME_BASIN, MUCH = 0.1, 2.0  # barrier in decades below which there is none; ratio of errors that differ much


@dataclass(frozen=True)
class Paths:
    """Two runs and what lies between: t (m,), loss and error (m,) by path, barriers in decades."""

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
    return Paths(run, (run.strategy, "alm"), np.asarray(arrays["t"], float), losses, errors, barriers)


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


def checks(panels: Sequence[Panel[Paths]]) -> list[Check]:
    """Return the claims on Figure 15."""
    ends = "L-BFGS ends at a coarse loss (about 1e-2), ALM at a fine one (about 1e-4)"
    barrier = "no barrier of the training loss between them: both lie in one basin"
    errors = "the test errors of the two differ significantly"
    found = panels[0].first if panels else None
    if found is None:
        return [untold(paper, "the path is missing") for paper in (ends, barrier, errors)]
    loss, error = ([values["chord"][k] for k in (0, -1)] for values in (found.losses, found.errors))
    here = ", ".join(f"{LOOKS[name][0]} {number(value)}" for name, value in found.barriers.items())
    low = min(found.barriers.values())
    return [
        Check(ends, f"loss {number(loss[0])} and {number(loss[1])}", bool(loss[0] >= 10 * loss[1]),
              "a factor of 10 or more"),
        Check(barrier, f"barrier in decades: {here}", bool(low <= SAME_BASIN),
              f"none: at most {SAME_BASIN:g} decades on the best path"),
        Check(errors, f"test error {number(error[0])} and {number(error[1])}",
              bool(max(error) >= MUCH * min(error)), f"a factor of {MUCH:g} or more"),
    ]  # fmt: skip
