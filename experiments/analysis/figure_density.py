"""Spectral densities of the Hessian before and after training (Figures 6 and 16), from hessian.json and hessian.npz.

The curve is `measures.density` of the Ritz values and weights of all probes. As in the paper x is symlog with
linear threshold 1 and y logarithmic from 1e-10. A peak at zero narrower than the kernel cannot be seen in such a curve,
so what is said about zero rests on the weighted masses of the nodes.
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
from matplotlib.ticker import NullLocator
from scipy.ndimage import binary_dilation

from analysis import measures, style
from analysis.checks import Check, Claim, all_of, number, untold
from analysis.collect import Run
from analysis.diagnoses import Panel, read_arrays, read_json, real

LOWEST = 1e-10  # density shown
LOOKS = {"initial": ("before training", "#1f77b4", "-"), "final": ("after training", "#ff7f0e", (0, (4, 1.5)))}
NEAR, COMMON = 1e-3, 1e-2  # what is called near zero: of the largest |eigenvalue|; of all runs alike
WIDE = 0.05  # bounds of a share that are told


@dataclass(frozen=True)
class State:
    """The Hessian's spectrum at one state: nodes and weights (probes, m), and what hessian.json says of it."""

    nodes: np.ndarray
    weights: np.ndarray
    highest: float
    lowest: float
    loss: float
    threshold: float  # what diagnose.py took for zero
    within: float  # share of |x| <= threshold
    bounds: tuple[float, float]  # between which it lies
    below: float  # share of x < -threshold

    def share(self, reach: float) -> float:
        """Return the share of the spectrum within a distance of zero."""
        return float((self.weights * (np.abs(self.nodes) <= reach)).sum(-1).mean())

    def near_zero(self) -> float:
        """Return the share of the spectrum within 1e-3 of the largest absolute eigenvalue of zero."""
        return self.share(NEAR * max(abs(self.highest), abs(self.lowest)))


@dataclass(frozen=True)
class Spectra:
    """A run and its spectra by state; a state whose Hessian is not finite is absent."""

    run: Run
    states: dict[str, State]


def read(run: Run, folder: Path) -> Spectra:
    """Return what `diagnose.py hessian` left; raises as `diagnoses.read` has it."""
    content = read_json(folder / "hessian.json", "hessian")
    arrays = read_arrays(folder / "hessian.npz")
    states = {}
    for name, told in content["states"].items():
        if told["finite"]:
            states[name] = _state(name, told, arrays)
    return Spectra(run, states)


def _state(name: str, told: dict[str, Any], arrays: dict[str, np.ndarray]) -> State:
    if f"{name}_nodes" in arrays:
        nodes, weights = arrays[f"{name}_nodes"], arrays[f"{name}_weights"]
    elif f"{name}_eigenvalues" in arrays:
        nodes = arrays[f"{name}_eigenvalues"][None]
        weights = np.full(nodes.shape, 1 / nodes.size)
    else:
        raise ValueError(f"hessian.npz: neither {name}_nodes nor {name}_eigenvalues")
    if nodes.shape != weights.shape or nodes.ndim != 2:
        raise ValueError(f"hessian.npz: {name}_nodes and {name}_weights are not of one shape (probes, m)")
    seen = np.nan_to_num(weights) > 0  # shorter probes may be filled up
    nodes, weights = np.where(seen, nodes, 0.0), np.where(seen, weights, 0.0)
    if not seen.any():
        raise ValueError(f"hessian.npz: {name}_weights are nowhere positive")
    highest, lowest, loss = (real(told[key]) for key in ("lambda_max", "lambda_min", "loss"))
    if not math.isfinite(highest + lowest + loss):
        raise ValueError(f"hessian.json: lambda_max, lambda_min or loss of the {name} state is not finite")
    mass = told["mass"]
    threshold, within, below = (real(mass[key]) for key in ("threshold", "within", "below"))
    least, most = (real(value) for value in mass.get("within_bounds", (within, within)))
    return State(nodes, weights, highest, lowest, loss, threshold, within, (least, most), below)


def draw_density(axes: Axes, spectra: Spectra | None) -> None:
    """Draw the densities of a run before and after training, or say that there is none."""
    if spectra is None:
        axes.set(xticks=(), yticks=())
        axes.text(0.5, 0.5, "no finished run\nwith hessian.json", transform=axes.transAxes, ha="center", va="center")
        return
    axes.set_xscale("symlog", linthresh=1)
    axes.set_yscale("log")
    ends, top, lines = [], LOWEST, []
    for name, (words, color, line) in LOOKS.items():
        if name not in spectra.states:
            lines.append(f"{words}: not finite")
            continue
        state = spectra.states[name]
        grid, density = measures.density(state.nodes, state.weights)
        shown = density >= LOWEST
        drawn = binary_dilation(shown)  # each peak down to the lowest density
        axes.plot(grid[drawn], np.clip(density[drawn], LOWEST, None), color=color, linestyle=line, linewidth=0.9)
        ends += [grid[shown][0], grid[shown][-1]]
        top = max(top, density.max())
        lines.append(rf"{words.split()[0]}: $\lambda_{{max}}$ {number(state.highest)}, near 0 {state.near_zero():.0%}")
    axes.text(0.98, 0.97, "\n".join(lines), transform=axes.transAxes, ha="right", va="top", fontsize=style.SMALLEST)
    low, high = (min(ends), max(ends)) if ends else (-1.0, 1.0)
    axes.set(xlim=(min(-0.5, 1.5 * low), 2 * max(high, 1)), ylim=(LOWEST, 1e4 * top))  # room for the text
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
    powers = range(0, 1 + int(math.log10(max(high, 1))), 1 + int(math.log10(max(high, 10))) // 4)
    axes.set_xticks([-(10.0**k) for k in range(int(math.log10(max(-low, 1))), -1, -2) if low < -1] + [0.0]
                    + [10.0**k for k in powers])  # fmt: skip


def draw(panels: Sequence[Panel[Spectra]]) -> Figure:
    """Draw the densities of all panels, three side by side."""
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(style.WIDTH, 1.75 * rows + 0.3), layout="constrained")
    frames = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, panel in zip(frames, panels):
        draw_density(axes, panel.first)
        axes.set_title(f"({panel.case.letter}) {panel.case.title}", loc="left")
        axes.set_xlabel("eigenvalue of the Hessian")
        axes.set_ylabel("density")
    for axes in frames[len(panels) :]:
        axes.remove()
    add_key(figure)
    return figure


def add_key(figure: Figure) -> None:
    """Add what the two lines are below all panels."""
    handles = [Line2D([], [], color=color, linestyle=line, label=words) for words, color, line in LOOKS.values()]
    handles.append(Line2D([], [], linestyle="", label=f"near 0: share within {NEAR:g} of the largest |eigenvalue|"))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)


def table(panels: Sequence[Panel[Spectra]]) -> list[dict[str, Any]]:
    """Return a row a state of each run that is drawn."""
    return [
        {"panel": panel.case.letter, "run": panel.first.run.path, "state": name, "train_loss": state.loss,
         "lambda_max": state.highest, "lambda_min": state.lowest, "near_zero": state.near_zero(),
         "near_zero_common": state.share(COMMON), "eps": state.threshold, "within_eps": state.within,
         "below_eps": state.below}
        for panel in panels if panel.first for name, state in panel.first.states.items()
    ]  # fmt: skip


# ---- what the paper says -----------------------------------------------------------------------------------------

PEAK = f"a peak: half of the spectrum or more within {NEAR:g} of the largest |eigenvalue| of zero; no PINN has one"
OUTLIERS = Claim("PINNs have outlier eigenvalues above 1e3, or even 1e4, after training",
                 "lambda_max of each PINN is above 1e3, that of one above 1e4", absolute=True)  # fmt: skip
TEN = Claim("the largest eigenvalue of the ResNet is around 10 after training", "lambda_max within a factor of 3",
            absolute=True)  # fmt: skip
ZERO = Claim(f"eigenvalues near zero (within {NEAR:g} of the largest) peak for the ResNet and not for PINNs, after "
             "training", PEAK)  # fmt: skip
OUTWARD = Claim("density falls sharply from zero outward for the ResNet, while PINNs have many non-zero eigenvalues "
                f"and no significantly higher density at zero (within {NEAR:g} of the largest)", PEAK)  # fmt: skip


def trained(panels: Sequence[Panel[Spectra]], model: str) -> dict[str, State]:
    """Return the trained states of the panels of a model that are there, by name of the panel."""
    return {
        panel.case.name: panel.first.states["final"] for panel in panels
        if panel.case.model.startswith(model) and panel.first and "final" in panel.first.states
    }  # fmt: skip


def missing(panels: Sequence[Panel[Spectra]], model: str) -> str:
    """Return how many panels of a model have no trained state, in words; "" where all have."""
    wanted = sum(panel.case.model.startswith(model) for panel in panels)
    gone = wanted - len(trained(panels, model))
    return f"{gone} of {wanted} {model} runs are missing or diverged" if gone or not wanted else ""


def largest(states: dict[str, State]) -> str:
    """Return the largest eigenvalues in words."""
    return ", ".join(f"{name}: {number(state.highest)}" for name, state in states.items())


def near(states: dict[str, State]) -> str:
    """Return the shares near zero in words: for a reach that goes with lambda_max, a common one, that of the run."""
    words = []
    for name, state in states.items():
        least, most = state.bounds
        bounds = f", between {least:.1%} and {most:.1%}" if most - least > WIDE else ""
        words.append(f"{name}: {state.near_zero():.1%} (within {COMMON:g}: {state.share(COMMON):.1%}; within eps "
                     f"{number(state.threshold)}: {state.within:.1%}{bounds})")  # fmt: skip
    return ", ".join(words)


def checks_case_studies(panels: Sequence[Panel[Spectra]]) -> list[Check]:
    """Return the claims on Figure 6."""
    pinn, resnet = trained(panels, "PINN"), trained(panels, "ResNet")
    found = []
    if pinn:
        gone, sizes = missing(panels, "PINN"), [state.highest for state in pinn.values()]
        holds = all_of([min(sizes) > 1e3, max(sizes) > 1e4 or (None if gone else False)], gone)
        found.append(Check(OUTLIERS, largest(pinn), holds, gone))
    else:
        found += untold([OUTLIERS], missing(panels, "PINN"))
    if resnet:
        found.append(Check(TEN, largest(resnet), all(10 / 3 <= state.highest <= 30 for state in resnet.values())))
    else:
        found += untold([TEN], missing(panels, "ResNet"))
    return [*found, _zero(ZERO, panels)]


def checks_regimes(panels: Sequence[Panel[Spectra]]) -> list[Check]:
    """Return the claims on Figure 16."""
    return [_zero(OUTWARD, panels)]


def _zero(claim: Claim, panels: Sequence[Panel[Spectra]]) -> Check:
    """Return a check on the shares near zero: that of the ResNet is half or more, that of every PINN is less."""
    pinn, resnet = trained(panels, "PINN"), trained(panels, "ResNet")
    gone = ", ".join(filter(None, (missing(panels, "PINN"), missing(panels, "ResNet"))))
    parts = [state.near_zero() < 0.5 for state in pinn.values()]
    parts += [state.near_zero() >= 0.5 for state in resnet.values()]
    return Check(claim, near(pinn | resnet), all_of(parts, gone), gone)
