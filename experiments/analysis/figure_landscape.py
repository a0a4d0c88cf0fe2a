"""Loss surfaces along two directions (Figures 5 and 13) from landscape.npz of run folders, and what their shape is.

    z(a, b) = log10 L(theta + a d1 + b d2)

drawn as in the paper: red is high, colours end at the 5th and 95th percentile, seen from 30 degrees above. Three
numbers stand for the words of the paper, all of the square that is drawn:

    depth    z at the border (median) less z at the centre, in decades
    floor    share of the square where the loss is at most ten times that of the centre: small, a narrow valley
    minima   inside, 0.3 decades or more below the saddle to a lower point: one, a basin; more, rugged
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis import figure_density, measures, style
from analysis.checks import CLOSE, Check, Claim, above, all_of, number, untold
from analysis.collect import Run
from analysis.diagnoses import Panel, missing_in, read_arrays, read_json
from analysis.figure_density import Spectra

DEPTH = 0.3  # decades, of a minimum that counts


@dataclass(frozen=True)
class Surface:
    """A run and its losses (g, g) at (a_i, b_j); inf where they are not finite."""

    run: Run
    a: np.ndarray
    b: np.ndarray
    loss: np.ndarray
    directions: str

    @property
    def z(self) -> np.ndarray:
        """log10 of the losses, the highest finite one where a loss is not finite."""
        z = measures.decades(self.loss)
        return np.minimum(z, z[np.isfinite(z)].max())

    @property
    def depth(self) -> float:
        """Decades from the centre up to the border, its median."""
        z = self.z
        border = np.concatenate([z[0], z[-1], z[1:-1, 0], z[1:-1, -1]])
        return float(np.median(border) - z[len(self.a) // 2, len(self.b) // 2])

    @property
    def floor(self) -> float:
        """Share of the square where the loss is at most ten times that of the centre."""
        z = self.z
        return float((z <= z[len(self.a) // 2, len(self.b) // 2] + 1).mean())

    @cached_property
    def minima(self) -> int:
        """Minima inside the square, see `measures.count_minima`."""
        return measures.count_minima(10**self.z, DEPTH)

    @property
    def shape(self) -> str:
        """Depth and floor in words."""
        return f"depth {self.depth:.1f}, floor {self.floor:.1%}"


def read(run: Run, folder: Path) -> Surface:
    """Return what `diagnose.py landscape` left; raises as `diagnoses.read` has it."""
    content = read_json(folder / "landscape.json", "landscape")
    arrays = read_arrays(folder / "landscape.npz", "a", "b", "loss")
    a, b, loss = (np.asarray(arrays[name], float) for name in ("a", "b", "loss"))
    if loss.shape != (len(a), len(b)) or min(loss.shape) < 3 or not np.isfinite(loss).any():
        raise ValueError(f"landscape.npz: loss is not of shape (a, b), 3 x 3 at least, or nowhere finite: {loss.shape}")
    told = content.get("arguments", {})
    return Surface(run, a, b, loss, f"{told.get('directions', '?')}, {told.get('normalise', '?')}-normalised")


def draw_surface(figure: Figure, place: Any, panel: Panel[Surface]) -> Axes:
    """Draw one surface in a place of a grid, or say that there is none."""
    title = f"({panel.case.letter}) {panel.case.title}"
    surface = panel.first
    if surface is None:
        axes = figure.add_subplot(place)
        axes.set(xticks=(), yticks=())
        axes.text(0.5, 0.5, "no finished run\nwith landscape.json", transform=axes.transAxes, ha="center", va="center")
        axes.set_title(title, loc="left")
        return axes
    axes, z = figure.add_subplot(place, projection="3d"), surface.z
    low, high = np.percentile(z, (5, 95))
    a, b = np.meshgrid(surface.a, surface.b, indexing="ij")
    axes.plot_surface(a, b, z, cmap="RdYlBu_r", vmin=low, vmax=high if high > low else low + 1, rcount=100, ccount=100,
                      linewidth=0, antialiased=True, rasterized=True)  # fmt: skip
    axes.view_init(elev=30, azim=135)
    axes.set_box_aspect(None, zoom=0.9)
    axes.set(xlabel="a", ylabel="b", zlabel=r"$\log_{10}$ loss")
    axes.tick_params(pad=-3)
    for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
        axis.labelpad = -7
        axis.set_major_locator(MaxNLocator(4))
    where = "inf at the top" if not np.isfinite(surface.loss).all() else ""
    words = f"depth {surface.depth:.1f}, floor {surface.floor:.0%}, minima {surface.minima}"
    axes.set_title(f"{title}\n{words}{', ' * bool(where)}{where}", loc="left")
    return axes


def draw(panels: Sequence[Panel[Surface]]) -> Figure:
    """Draw all surfaces, three side by side."""
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(style.WIDTH, 2.3 * rows), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12)
    grid = figure.add_gridspec(rows, columns)
    for k, panel in enumerate(panels):
        draw_surface(figure, grid[divmod(k, columns)], panel)
    return figure


def table(panels: Sequence[Panel[Surface]]) -> list[dict[str, Any]]:
    """Return a row a surface."""
    return [
        {"panel": panel.case.letter, "run": panel.first.run.path, "directions": panel.first.directions,
         "radius": panel.first.a[-1], "grid": len(panel.first.a),
         "loss": panel.first.loss[len(panel.first.a) // 2, len(panel.first.b) // 2], "depth": panel.first.depth,
         "floor": panel.first.floor, "minima": panel.first.minima,
         "not_finite": int((~np.isfinite(panel.first.loss)).sum())}
        for panel in panels if panel.first
    ]  # fmt: skip


# ---- what the paper says -----------------------------------------------------------------------------------------

DEEP = Claim("landscapes of PINN and FNO are deep, narrow valleys; that of the ResNet is a wide basin",
             "border over centre is larger than the ResNet's, the floor smaller, by 10 % or more in each")  # fmt: skip
RUGGED = Claim("landscapes of PINN and FNO are rugged", f"each has two minima or more, {DEPTH:g} decades deep")
SMOOTH = Claim("the landscape of the ResNet is a smooth basin", f"exactly one minimum, {DEPTH:g} decades deep")


def checks(panels: Sequence[Panel[Surface]]) -> list[Check]:
    """Return the claims on Figure 5, each SciML model against the ResNet."""
    scientific, resnets = ([panel for panel in panels if panel.case.model.startswith("ResNet") == is_resnet]
                           for is_resnet in (False, True))  # fmt: skip
    others = {panel.case.name: panel.first for panel in scientific if panel.first}
    resnet = next((panel.first for panel in resnets if panel.first), None)
    found = []
    if resnet and others:
        gone = missing_in(panels)
        here = ", ".join(f"{name}: {one.shape}" for name, one in others.items()) + f"; ResNet: {resnet.shape}"
        parts = [part for one in others.values() for part in (above(10**one.depth, 10**resnet.depth, 1.1),
                                                              above(resnet.floor, one.floor, 1.1))]  # fmt: skip
        found.append(Check(DEEP, here, all_of(parts, gone), gone or CLOSE))
    else:
        found += untold([DEEP], missing_in(resnets if others else scientific))
    gone = missing_in(scientific)
    here = ", ".join(f"{name}: {one.minima}" for name, one in others.items())
    found.append(Check(RUGGED, here, all_of([one.minima > 1 for one in others.values()], gone), gone))
    if resnet is None:
        return [*found, *untold([SMOOTH], missing_in(resnets))]
    return [*found, Check(SMOOTH, f"minima: {resnet.minima}", resnet.minima == 1)]


# ---- Figure 13 ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Both:
    """A run with its surface and its spectra."""

    run: Run
    surface: Surface
    spectra: Spectra


def read_both(run: Run, folder: Path) -> Both:
    """Return what both tools left; raises as `diagnoses.read` has it."""
    return Both(run, read(run, folder), figure_density.read(run, folder))


def surfaces(panels: Sequence[Panel[Both]]) -> list[Panel[Surface]]:
    """Return the panels with the surfaces alone."""
    return [Panel(panel.case, tuple(one.surface for one in panel.found)) for panel in panels]


def spectra(panels: Sequence[Panel[Both]]) -> list[Panel[Spectra]]:
    """Return the panels with the spectra alone."""
    return [Panel(panel.case, tuple(one.spectra for one in panel.found)) for panel in panels]


def draw_both(panels: Sequence[Panel[Both]]) -> Figure:
    """Draw the surfaces above the spectral densities."""
    figure = Figure(figsize=(style.WIDTH, 4.6), layout="constrained")
    grid = figure.add_gridspec(2, len(panels), height_ratios=(1.3, 1))
    for k, (surface, spectrum) in enumerate(zip(surfaces(panels), spectra(panels))):
        draw_surface(figure, grid[0, k], surface)
        axes = figure.add_subplot(grid[1, k])
        figure_density.draw_density(axes, spectrum.first)
        axes.set(xlabel="eigenvalue of the Hessian", ylabel="density")
    figure_density.add_key(figure)
    return figure


def table_both(panels: Sequence[Panel[Both]]) -> list[dict[str, Any]]:
    """Return a row a run: its shape, and its spectrum after training."""
    shapes = {row["panel"]: row for row in table(surfaces(panels))}
    after = {row["panel"]: row for row in figure_density.table(spectra(panels)) if row["state"] == "final"}
    return [row | {key: value for key, value in after.get(name, {}).items() if key != "state"}
            for name, row in shapes.items()]  # fmt: skip


SHARPER = Claim("the easy problem ends in the sharper minimum, and at the lower training loss",
                "lambda_max larger and loss smaller, both by 10 % or more")  # fmt: skip


def checks_both(panels: Sequence[Panel[Both]]) -> list[Check]:
    """Return the claims on Figure 13, whose panels are of an easy and a hard problem, in this order."""
    if any(panel.first is None or "final" not in panel.first.spectra.states for panel in panels):
        return untold([SHARPER], "a run is missing or diverged")
    easy, hard = (panel.first.spectra.states["final"] for panel in panels)
    names = [panel.case.name for panel in panels]
    here = ", ".join(f"{name}: lambda_max {number(state.highest)}, loss {number(state.loss)}"
                     for name, state in zip(names, (easy, hard)))  # fmt: skip
    return [Check(SHARPER, here, all_of([above(easy.highest, hard.highest, 1.1), above(hard.loss, easy.loss, 1.1)]))]
