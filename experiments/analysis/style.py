"""One look for all pictures: print settings, colours that colour-blind readers can tell apart, PNG and PDF together.

    with style.in_print():
        figure = Figure(figsize=(style.WIDTH, 3.0))
        ...
    style.save(figure, Path("results/figures/figure_1"))

Regime maps: reversed viridis cut to [0, 0.8], so that yellow is low and dark green to blue is high (paper, D.4); the
training boundary is solid black, the test boundary dashed red with a white halo, so that neither needs its colour.
Relative improvements: red (worse) over white (0) to blue (better).
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from cycler import cycler
from matplotlib.colors import Colormap, ListedColormap
from matplotlib.figure import Figure

from analysis.collect import atomic

Style = dict[str, Any]

WIDTH = 6.5  # inches: the text width of a page; figures are drawn at the size at which they are printed
SMALLEST = 6.0  # points: no text of a printed figure is smaller
FONTS: Style = {"pdf.fonttype": 42, "ps.fonttype": 42}  # TrueType: text stays text
PRINT: Style = FONTS | {
    "font.size": 7, "axes.titlesize": 7, "axes.labelsize": 7, "legend.fontsize": 6.5, "figure.titlesize": 8,
    "xtick.labelsize": SMALLEST, "ytick.labelsize": SMALLEST, "axes.linewidth": 0.5, "hatch.linewidth": 0.4,
    "xtick.major.width": 0.5, "ytick.major.width": 0.5, "xtick.major.size": 1.5, "ytick.major.size": 1.5,
    "xtick.major.pad": 1.5, "ytick.major.pad": 1.5, "axes.labelpad": 1.5, "axes.titlepad": 3,
    "lines.linewidth": 1.0, "lines.markersize": 3,
}  # fmt: skip

# Strategies (Okabe and Ito, then Tol), the same in every picture.
COLORS = {
    "lbfgs": "#0072B2", "alm": "#D55E00", "nncg": "#009E73", "cl": "#CC79A7",
    "adam_lbfgs": "#56B4E9", "ropinn": "#E69F00", "adam": "#666666",
    "alm_data": "#882255", "region_lbfgs": "#999933", "sphere_adam": "#332288", "sgd": "#000000",
    "adam_nncg": "#44AA99", "nncg_only": "#117733",
}  # fmt: skip
# Greens, greys and purples, and oranges, are alike to some readers and in grey print: dashes tell these apart.
LINES = {"nncg": ":", "cl": "-.", "adam": "--", "ropinn": "--"}  # all others are solid
OTHERS = cycler(color=["#AA4499", "#DDCC77", "#661100"])  # strategies that are not in COLORS

TRAIN: Style = {"color": "black", "linestyle": "-"}
TEST: Style = {"color": "#c8003c", "linestyle": (0, (4, 2))}
MISSING: Style = {"facecolor": "0.9", "edgecolor": "0.65", "hatch": "////", "linewidth": 0}


def color(strategy: str) -> str:
    """Return a strategy's colour, the same in every picture also where COLORS does not have it."""
    others = OTHERS.by_key()["color"]
    return COLORS.get(strategy, others[zlib.crc32(strategy.encode()) % len(others)])


def regime_colormap() -> Colormap:
    """Return reversed viridis cut to [0, 0.8]: yellow is low (paper D.4)."""
    base = matplotlib.colormaps["viridis_r"]
    return ListedColormap(base(np.linspace(0.0, 0.8, 256)), name="regime")


def improvement_colormap() -> Colormap:
    """Return the diverging map of relative improvements: red below, white at, blue above the middle."""
    return matplotlib.colormaps["RdBu"]


def in_print() -> AbstractContextManager[None]:
    """Return a context in which figures get the settings of print."""
    return matplotlib.rc_context(PRINT)


def save(figure: Figure, path: Path, dpi: float = 300, endings: Sequence[str] = (".png", ".pdf")) -> list[Path]:
    """Write the figure as `path` + ending for each ending, atomically; fonts go into a PDF as TrueType.

    Raises:
        OSError: a file cannot be written.
        ValueError: matplotlib cannot write such an ending.
    """
    written = []
    for ending in endings:
        target = path.with_name(path.name + ending)
        # Without a date, the same numbers give the same file.
        metadata = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}}.get(ending)
        with atomic(target) as temporary, matplotlib.rc_context(FONTS):
            figure.savefig(temporary, dpi=dpi, metadata=metadata)
        written.append(target)
    return written
