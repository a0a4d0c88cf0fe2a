"""Spectral densities of the Hessian before and after training (Figures 6 and 16), from hessian.json and hessian.npz.

    phi(x) = mean over probes of sum_k w_k N(x; theta_k, s),    s = 5e-5 max(1, range of the nodes)

with the Ritz values theta_k and weights w_k of each probe. As in the paper x is symlog with linear threshold 1 and y
logarithmic from 1e-10. A peak at zero narrower than sqrt(s) cannot be seen in such a curve, so that what is said about
zero rests on the weighted masses of the nodes.
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
from scipy.ndimage import binary_dilation, gaussian_filter1d

from analysis import style
from analysis.checks import Check, number, untold
from analysis.collect import Run
from analysis.diagnoses import Panel, read_arrays, read_json, real

VARIANCE = 5e-5  # of the kernel, over the range of the nodes
LOWEST = 1e-10  # density shown
LOOKS = {"initial": ("before training", "#1f77b4", "-"), "final": ("after training", "#ff7f0e", (0, (4, 1.5)))}
NEAR = 1e-3  # of lambda_max: what is called near zero


@dataclass(frozen=True)
class State:
    """The Hessian's spectrum at one state: nodes and weights (probes, m), and what hessian.json says of it."""

    nodes: np.ndarray
    weights: np.ndarray
    highest: float
    lowest: float
    loss: float
    eps: float  # of mass: |x| <= eps
    within: float
    below: float

    def near_zero(self) -> float:
        """Return the share of the spectrum within 1e-3 of the largest absolute eigenvalue of zero."""
        reach = NEAR * max(abs(self.highest), abs(self.lowest))
        return float((self.weights * (np.abs(self.nodes) <= reach)).sum(-1).mean())


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
    eps, within, below = (real(told["mass"][key]) for key in ("threshold", "within", "below"))
    return State(nodes, weights, real(told["lambda_max"]), real(told["lambda_min"]), real(told["train_loss"]), eps,
                 within, below)  # fmt: skip


def curve(nodes: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a uniform grid and the smoothed density on it, whose integral is 1.

    Args:
        nodes: (probes, m).
        weights: (probes, m), with the sum 1 for each probe.
    """
    used = nodes[weights > 0]
    low, high = float(used.min()), float(used.max())
    width = math.sqrt(VARIANCE * max(1.0, high - low))
    step = max(width / 8, (high - low) / 1e6)
    low, high = low - 8 * width, high + 8 * width
    grid = low + step * np.arange(math.ceil((high - low) / step) + 2)
    place = (nodes - low) / step
    left = np.clip(place.astype(int), 0, len(grid) - 2)
    density = np.zeros(len(grid))  # each node is shared by its two neighbours on the grid
    np.add.at(density, left, weights * (1 - (place - left)))
    np.add.at(density, left + 1, weights * (place - left))
    density = gaussian_filter1d(density, width / step, mode="constant", truncate=8)
    return grid, density / (density.sum() * step)


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
        grid, density = curve(state.nodes, state.weights)
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
         "mass_eps": state.eps, "mass_within_eps": state.within, "mass_below_eps": state.below}
        for panel in panels if panel.first for name, state in panel.first.states.items()
    ]  # fmt: skip


# ---- what the paper says -----------------------------------------------------------------------------------------


def trained(panels: Sequence[Panel[Spectra]], model: str) -> dict[str, State]:
    """Return the trained states of the panels of a model that are there, by name of the panel."""
    return {
        panel.case.name: panel.first.states["final"] for panel in panels
        if panel.case.model.startswith(model) and panel.first and "final" in panel.first.states
    }  # fmt: skip


def largest(states: dict[str, State]) -> str:
    """Return the largest eigenvalues in words."""
    return ", ".join(f"{name}: {number(state.highest)}" for name, state in states.items())


def near(states: dict[str, State]) -> str:
    """Return the shares near zero in words."""
    return ", ".join(f"{name}: {state.near_zero():.1%} (within eps {number(state.eps)}: {state.within:.1%})"
                     for name, state in states.items())  # fmt: skip


def checks_case_studies(panels: Sequence[Panel[Spectra]]) -> list[Check]:
    """Return the claims on Figure 6."""
    pinn, resnet = trained(panels, "PINN"), trained(panels, "ResNet")
    outliers = "PINNs have outlier eigenvalues above 1e3, or even 1e4, after training"
    ten = "the largest eigenvalue of the ResNet is around 10 after training"
    zero = "eigenvalues near zero peak for the ResNet and not for PINNs, after training"
    found = []
    if pinn:
        sizes = [state.highest for state in pinn.values()]
        holds = min(sizes) > 1e3 and max(sizes) > 1e4
        partly = len(pinn) < sum(panel.case.model == "PINN" for panel in panels)
        why = "one run is missing or diverged" if partly and min(sizes) > 1e3 else ""
        found.append(Check(outliers, largest(pinn), None if why else holds, why))
    else:
        found.append(untold(outliers, "the PINN runs are missing"))
    if resnet:
        (state,) = resnet.values()
        found.append(Check(ten, largest(resnet), 10 / 3 <= state.highest <= 30, "within a factor of 3"))
    else:
        found.append(untold(ten, "the ResNet run is missing"))
    return [*found, _zero(zero, pinn, resnet)]


def checks_regimes(panels: Sequence[Panel[Spectra]]) -> list[Check]:
    """Return the claims on Figure 16."""
    pinn, resnet = trained(panels, "PINN"), trained(panels, "ResNet")
    return [_zero("density falls sharply from zero outward for the ResNet, while PINNs have many non-zero eigenvalues "
                  "and no significantly higher density at zero", pinn, resnet)]  # fmt: skip


def _zero(paper: str, pinn: dict[str, State], resnet: dict[str, State]) -> Check:
    """Return a check on the shares near zero: that of the ResNet is half or more, that of every PINN is less."""
    if not (pinn and resnet):
        return Check(paper, near(pinn | resnet), None, f"the {'ResNet' if pinn else 'PINN'} run is missing")
    high = min(state.near_zero() for state in resnet.values())
    return Check(paper, near(pinn | resnet), high >= 0.5 and all(state.near_zero() < 0.5 for state in pinn.values()),
                 f"a peak is half of the spectrum or more within {NEAR:g} of the largest |eigenvalue| of zero")
