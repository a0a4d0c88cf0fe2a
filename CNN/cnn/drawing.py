# Twin of PINN/pinn/drawing.py - edit there and run: python experiments/twins.py --fix
"""Pictures of a loss landscape: spectrum of the Hessian, surface, path between two weights, similarity of networks.

Each function takes numbers and gives a matplotlib figure; `interactive_surface` gives a web page of one file. A loss
is drawn as log10, a density phi(lambda) (its integral is 1) over a symmetric logarithmic axis that is linear between
-1 and 1, or nearer to zero where most of the spectrum lies within that. Gaussians stand for the nodes of a density
(`Density.curve`): what is narrower, such as a peak at zero, is not resolved, and is told by the masses that are written
beside the curve.

    figure = draw_surface("PINN, convection, beta = 5", a, b, loss, line, line_1, line_2, "training loss")
    atomic_write(path, lambda file: figure.savefig(file, format="png", dpi=150))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from .landscape import FLOOR, log10

if TYPE_CHECKING:  # matplotlib and plotly, which take a while to load, come in where something is drawn
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .density import Density

LEAST_DENSITY = 1e-10  # lower limit of the axis of a density
STYLES = (("tab:blue", "-"), ("tab:orange", "--"), ("tab:green", ":"))  # before training, after, and a third state
LOWEST = float(np.log10(FLOOR))
COLOURS = {"chord": "0.35", "bezier": "tab:blue", "polygonal": "tab:orange"}


# ---- spectrum ----------------------------------------------------------------------------------


def draw_spectrum(title: str, states: Mapping[str, tuple[Density, Sequence[float], str]]) -> Figure:
    """Spectral densities before and after training.

    Args:
        title: of the picture.
        states: name -> density, extreme eigenvalues, and the text beside the curve.
    """
    from matplotlib.figure import Figure  # without pyplot: no window system, no global state
    from matplotlib.ticker import SymmetricalLogLocator

    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    ends = []
    for (name, (density, extremes, text)), (colour, dashes) in zip(states.items(), STYLES, strict=False):
        x, phi = density.curve()
        phi = np.where(phi >= LEAST_DENSITY, phi, np.nan)  # gaps where there is nothing
        axes.plot(x, phi, dashes, color=colour, linewidth=1.2, label=f"{name}\n{text}")
        axes.plot(extremes, np.full(len(extremes), 0.97), "|", color=colour, markersize=9,
                  transform=axes.get_xaxis_transform())
        ends += [x[0], x[-1]]
    # linear within 1, as published, or, where that is most of the spectrum, within a tenth to a hundredth of it
    linear = min(1.0, 10 ** np.floor(np.log10(np.abs(ends).max(initial=1e-300)) - 1)) if ends else 1.0
    axes.set_xscale("symlog", linthresh=linear)
    axes.set_yscale("log")
    if ends:
        low, high = min(-linear, *ends), max(linear, *ends)
        axes.set_xlim(-10 ** np.ceil(np.log10(-low)), 1.5 * high)
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize="x-small", frameon=False, labelspacing=1.5)
    axes.set_ylim(bottom=LEAST_DENSITY)
    axes.xaxis.set_minor_locator(SymmetricalLogLocator(base=10, linthresh=linear, subs=range(2, 10)))
    axes.set(xlabel=r"eigenvalue $\lambda$ of the Hessian (ticks: extreme eigenvalues)",
             ylabel=r"density $\phi(\lambda)$")
    figure.suptitle(title, fontsize="medium")
    return figure


# ---- surface -----------------------------------------------------------------------------------


def log_loss(loss: np.ndarray) -> tuple[np.ndarray, int]:
    """log10 of losses; those that are not finite, and their number comes with it, are clipped to the highest other."""
    z = log10(loss)
    finite = np.isfinite(z)
    return np.where(finite, z, z[finite].max(initial=LOWEST)), int((~finite).sum())


def short(name: str) -> str:
    """A label without what stands in brackets, which may be longer than an axis."""
    return name.partition(" (")[0]


def clipped(count: int) -> str:
    """What the picture says about losses that are not finite."""
    return f"\npoints that are not finite, drawn as high as the highest other: {count}" if count else ""


def draw_surface(title: str, a: np.ndarray, b: np.ndarray, loss: np.ndarray, line: np.ndarray, line_1: np.ndarray,
                 line_2: np.ndarray, loss_name: str) -> Figure:
    """The surface f(a_i, b_j) (g, g), log10, and f along either direction, at the points `line` (m,)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.8), layout="constrained")
    left = figure.add_subplot(1, 2, 1, projection="3d")
    z, bad = log_loss(loss)
    low, high = np.percentile(z, [5, 95])
    left.plot_surface(*np.meshgrid(a, b, indexing="ij"), z, cmap="RdYlBu_r", vmin=low, vmax=high, rcount=len(a),
                      ccount=len(b), linewidth=0, antialiased=True, shade=False)
    left.view_init(elev=30, azim=135)
    left.set_box_aspect(None, zoom=0.85)  # or the label of the vertical axis is cut off
    left.set(xlabel="$a$", ylabel="$b$", zlabel=f"log$_{{10}}$ {short(loss_name)}")
    right = figure.add_subplot(1, 2, 2)
    missing = 0
    for values, name, style in [(line_1, "along direction 1 ($b = 0$)", STYLES[0]),
                                (line_2, "along direction 2 ($a = 0$)", STYLES[1])]:
        height, few = log_loss(values)
        right.plot(line, 10 ** height, style[1], color=style[0], linewidth=1.2, label=name)
        missing += few
    right.plot(0, 10 ** log_loss(line_1)[0][len(line) // 2], "o", color="black", markersize=5, label="the weights")
    right.set_yscale("log")
    right.set(xlabel="step along the direction", ylabel=short(loss_name))
    right.legend(fontsize="small")
    figure.suptitle(title + clipped(bad + missing), fontsize="medium")
    return figure


def interactive_surface(title: str, a: np.ndarray, b: np.ndarray, loss: np.ndarray, loss_name: str) -> str:
    """The surface as a web page that needs no other file and no network: it holds the plotly library (4.6 MB)."""
    import plotly.graph_objects as go

    z, bad = log_loss(loss)
    low, high = np.percentile(z, [5, 95])
    raw = np.where(np.isfinite(loss), np.char.mod("%.6g", loss), "not finite")
    surface = go.Surface(
        x=a, y=b, z=z.T, colorscale="RdYlBu", reversescale=True, cmin=low, cmax=high, text=raw.T, hoverinfo="text",
        hovertemplate="a = %{x:.4g}<br>b = %{y:.4g}<br>loss = %{text}<extra></extra>",
        colorbar={"title": {"text": f"log10 {short(loss_name)}"}})
    figure = go.Figure(surface)
    figure.update_layout(
        title={"text": (title + clipped(bad)).replace("\n", "<br>")}, template="plotly_white",
        scene={"xaxis_title": "a", "yaxis_title": "b", "zaxis_title": f"log10 {short(loss_name)}",
               "aspectmode": "cube", "camera": {"eye": {"x": -1.3, "y": 1.3, "z": 1.0}}})
    return figure.to_html(include_plotlyjs=True, full_html=True, div_id="surface")


# ---- path --------------------------------------------------------------------------------------


def is_wide(values: Sequence[np.ndarray]) -> bool:
    """Tell whether a logarithmic axis is due: the ends differ tenfold, or all of it spans two decades."""
    every = np.concatenate([np.asarray(v, dtype=np.float64) for v in values])
    ends = np.array([v[k] for v in values for k in (0, -1)], dtype=np.float64)
    every, ends = (x[np.isfinite(x)] for x in (every, ends))
    if not len(every) or every.min() <= 0:
        return False
    return bool(every.max() > 100 * every.min() or len(ends) and ends.max() > 10 * ends.min())


def draw_path(title: str, t: np.ndarray, losses: Mapping[str, np.ndarray], errors: Mapping[str, np.ndarray],
              loss_name: str, error_name: str, ends: tuple[str, str]) -> Figure:
    """Loss (above) and test error (below) along paths from A at t = 0 to B at t = 1.

    Args:
        title: of the picture.
        t: (m,) from 0 to 1.
        losses: path -> (m,); paths are chord, bezier and polygonal.
        errors: likewise.
        loss_name: what the upper axis shows.
        error_name: what the lower axis shows.
        ends: what A and B are.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    bad = 0
    for axes, paths, label in [(upper, losses, loss_name), (lower, errors, error_name)]:
        for name, values in paths.items():
            axes.plot(t, np.where(np.isfinite(values), values, np.nan), ":" if name == "chord" else "-",
                      color=COLOURS[name], label=name)
            bad += int((~np.isfinite(values)).sum())
        if is_wide(list(paths.values())):
            axes.set_yscale("log")
        axes.set_ylabel(short(label))
    upper.legend(fontsize="small")
    lower.set_xlabel(f"$t$:  0 is {ends[0]},  1 is {ends[1]}", fontsize="small")
    gaps = f"\npoints that are not finite, gaps in the curves: {bad}" if bad else ""
    figure.suptitle(title + gaps, fontsize="medium")
    return figure


# ---- similarity --------------------------------------------------------------------------------


def draw_similarity(title: str, names: Sequence[str], layers: Sequence[str],
                    kernels: Mapping[str, np.ndarray]) -> Figure:
    """Matrices of CKA between k networks, a row of pictures a kernel and a column a layer.

    Args:
        title: of the picture.
        names: of the networks, k.
        layers: names of the layers.
        kernels: name of the kernel -> (layers, k, k).
    """
    from matplotlib.figure import Figure

    k, side = len(names), 1.1 + 0.28 * len(names)
    figure = Figure(figsize=(max(6, 1.5 + side * len(layers)), 1.5 + side * len(kernels)), layout="constrained")
    grid = figure.subplots(len(kernels), len(layers), squeeze=False, sharex=True, sharey=True)
    values = np.concatenate([np.ravel(m) for m in kernels.values()])
    low = min(0.9, float(np.nanmin(values))) if np.isfinite(values).any() else 0.0
    for row, (kernel, matrices) in zip(grid, kernels.items(), strict=True):
        for axes, layer, matrix in zip(row, layers, matrices, strict=True):
            image = axes.imshow(matrix, vmin=low, vmax=1, cmap="viridis")
            axes.set_title(f"{layer}, {kernel}", fontsize="small")
            if k <= 8:
                write_numbers(axes, matrix, (low + 1) / 2)
            axes.set_xticks(range(k), range(1, k + 1), fontsize="x-small")
            axes.set_yticks(range(k), [f"{i} {name}" for i, name in enumerate(names, 1)], fontsize="x-small")
    figure.colorbar(image, ax=grid, label="CKA", shrink=0.8)
    figure.suptitle(title, fontsize="medium")
    return figure


def write_numbers(axes: Axes, matrix: np.ndarray, middle: float) -> None:
    """The entries of a matrix in its picture, white on those below `middle`."""
    for (i, j), value in np.ndenumerate(matrix):
        axes.text(j, i, f"{value:.2f}".removeprefix("0"), ha="center", va="center", fontsize=7,
                  color="white" if value < middle else "black")
