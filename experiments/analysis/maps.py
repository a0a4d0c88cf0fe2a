"""Regime maps: training loss and test error over (physical value, data amount).

    python experiments/analysis/maps.py results --system convection --strategy lbfgs

writes results.csv and regime_map.png into the results folder (see --out and --csv) and prints the
map as a table. Where several systems or strategies are found and none is named: one picture each.
Colours follow the paper, D.4: Eq. 22 with the 5th and 95th percentile of the panel, clamped, on
[0, 0.8] of a reversed viridis, so that yellow is low and dark green to blue is high.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke

if __package__ in (None, ""):  # run as a script: the package lies one folder up
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from analysis import boundaries, collect, labels, thresholds
from analysis.collect import Collection, Grid, Run
from analysis.thresholds import Thresholds

ANNOTATE = 8  # cells carry their values up to this many rows and columns

Style = dict[str, Any]
TRAIN_STYLE: Style = {"color": "black", "linestyle": "-"}
TEST_STYLE: Style = {"color": "#c8003c", "linestyle": (0, (4, 2))}
THICK, THIN = {"linewidth": 2.2}, {"linewidth": 1.1}
MISSING: Style = {"facecolor": "0.9", "edgecolor": "0.65", "hatch": "////", "linewidth": 0}
NUMERAL: Style = {"weight": "bold", "family": "DejaVu Serif"}  # serifs tell I from a bar


class Curve(NamedTuple):
    """One boundary: its name, the grid it is a level set of, the threshold, and its looks."""

    name: str
    grid: Grid
    level: float
    percentile: float | None
    style: Style


def colormap() -> Colormap:
    """Return reversed viridis cut to [0, 0.8]: yellow is low (paper D.4)."""
    base = matplotlib.colormaps["viridis_r"]
    return ListedColormap(base(np.linspace(0.0, 0.8, 256)), name="regime")


def color_limits(values: np.ndarray) -> tuple[float, float]:
    """Return (v_min, v_max) of Eq. 22: 5th and 95th percentile of a panel's finite values."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 0.0, 1.0
    low, high = np.percentile(finite, (5, 95))
    return float(low), float(high)


def cell_colors(grid: Grid) -> np.ndarray:
    """Return RGBA, shape (rows, columns, 4), clamped outside the limits; transparent if missing.

    A cell without any finite seed lies above every limit and takes the last colour.
    """
    low, high = color_limits(grid.shown)
    shown = np.where(np.isnan(grid.shown), np.inf, grid.shown)
    colors = colormap()(np.clip((shown - low) / ((high - low) or 1.0), 0.0, 1.0))
    colors[grid.count == 0] = 0.0
    return colors


def regime_map(
    train: Grid,
    test: Grid,
    limits: Thresholds,
    *,
    perturbation: str | None = None,
    log: bool = True,
) -> Figure:
    """Draw the two panels of one sweep and return the figure.

    Both panels carry the training boundary (solid) and the test boundary (dashed); the thin curves
    of a panel are its own boundary with the threshold moved by -20 % and +20 %.

    Args:
        train: the seed-averaged training loss.
        test: the test error on the same axes.
        limits: the two thresholds.
        perturbation: "percentile" or "value" (see `boundaries.perturbed_levels`); by default
            the percentile if the thresholds have one.
        log: interpolate boundaries in the logarithm (see `boundaries.level_set`).

    Raises:
        ValueError: the grids have different axes, or the perturbation does not fit the thresholds.
    """
    regimes = labels.label_cells(train, test, limits)
    rows, columns = regimes.shape
    width, height = np.clip(0.74 * columns, 4.4, 8.0), np.clip(0.62 * rows, 2.0, 7.5)
    figure = Figure(figsize=(2 * width + 3.0, height + 2.6), layout="constrained")
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.08)
    reading = perturbation or ("value" if limits.train_percentile is None else "percentile")
    curves = (
        Curve("train", train, limits.train, limits.train_percentile, TRAIN_STYLE),
        Curve("test", test, limits.test, limits.test_percentile, TEST_STYLE),
    )
    moved = [
        boundaries.perturbed_levels(c.grid, c.level, reading=reading, q=c.percentile)
        for c in curves
    ]
    context = train.system, train.model
    panels = figure.subplots(1, 2, sharey=True)
    for axes, own, thin in zip(panels, curves, moved, strict=True):
        _draw_cells(axes, own.grid)
        for level in thin:
            _draw_boundary(axes, own.grid, level, own.style | THIN, log)
        for curve in curves:
            _draw_boundary(axes, curve.grid, curve.level, curve.style | THICK, log)
        _draw_texts(axes, own.grid, regimes)
        _draw_colorbar(figure, axes, own)
        name = labels.metric_label(own.grid.metric, train.system)
        axes.set_title(name[:1].upper() + name[1:], fontsize=12)
        axes.set_xlabel(labels.axis_label(train.physical_name, *context), fontsize=11)
    panels[0].set_ylabel(labels.axis_label(train.data_name, *context), fontsize=11)
    strategy = labels.STRATEGIES.get(train.strategy, train.strategy)
    title = f"{train.model}, {train.system.replace('_', '-')}, {strategy}"
    figure.suptitle(f"{title}: {labels.seeds_text(train)}", fontsize=13, fontweight="bold")
    _draw_legend(figure, curves, moved, limits.source, reading)
    return figure


def _draw_cells(axes: Axes, grid: Grid) -> None:
    rows, columns = grid.values.shape
    axes.imshow(cell_colors(grid), origin="lower", aspect="auto", interpolation="nearest")
    for i, j in np.argwhere(grid.count == 0):
        axes.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, **MISSING))
    for edge in np.arange(0.5, columns - 1):
        axes.axvline(edge, color="white", linewidth=0.6)
    for edge in np.arange(0.5, rows - 1):
        axes.axhline(edge, color="white", linewidth=0.6)
    axes.set(xlim=(-0.5, columns - 0.5), ylim=(-0.5, rows - 0.5))
    names = [labels.axis_text(value) for value in grid.physical]
    axes.set_xticks(range(columns), names, rotation=30 if max(map(len, names)) > 7 else 0)
    axes.set_yticks(range(rows), [labels.axis_text(value) for value in grid.data])
    axes.tick_params(length=0, labelsize=10)


def _draw_boundary(axes: Axes, grid: Grid, level: float, style: Style, log: bool) -> None:
    halo = withStroke(linewidth=1.8 * style["linewidth"], foreground="white")
    for line in boundaries.level_set(grid.values, level, log=log):
        axes.plot(line[:, 0], line[:, 1], **style, path_effects=[halo], zorder=3)


def _draw_texts(axes: Axes, grid: Grid, regimes: np.ndarray) -> None:
    """Write regime, value and diverged seeds into the cells, with a halo of the cell's colour."""
    colors, annotate = cell_colors(grid), max(regimes.shape) <= ANNOTATE
    for i, j in np.argwhere(regimes != ""):
        dark = colors[i, j, :3] @ (0.299, 0.587, 0.114) < 0.5
        style = {"ha": "center", "va": "center", "color": "white" if dark else "black", "zorder": 5}
        style["path_effects"] = [withStroke(linewidth=3.5, foreground=colors[i, j])]
        style |= {"textcoords": "offset points"}
        size, up = (11, 8) if annotate else (9, 0)
        axes.annotate(regimes[i, j], (j, i), (0, up), fontsize=size, **NUMERAL, **style)
        if annotate:
            value = "diverged" if np.isnan(grid.shown[i, j]) else labels.short(grid.shown[i, j])
            axes.annotate(value, (j, i), (0, -9), fontsize=8, **style)
        if grid.diverged[i, j]:
            mark = f"×{grid.diverged[i, j]}" if annotate else "×"
            corner = (j + 0.5, i + 0.5)
            axes.annotate(mark, corner, (-9, -7), fontsize=8, weight="bold", **style)


def _draw_colorbar(figure: Figure, axes: Axes, curve: Curve) -> None:
    low, high = color_limits(curve.grid.shown)
    if high <= low:  # a constant panel: every cell has the lowest colour
        high = low + (abs(low) or 1.0) * 1e-3
    scale = ScalarMappable(Normalize(low, high, clip=True), colormap())
    bar = figure.colorbar(scale, ax=axes, extend="both", fraction=0.05, pad=0.02)
    name = labels.METRICS.get(curve.grid.metric, curve.grid.metric)
    bar.set_label(f"{name} (5th to 95th percentile)", fontsize=10)
    bar.ax.tick_params(labelsize=9)
    bar.formatter.set_powerlimits((-4, 5))
    if low <= curve.level <= high:
        bar.ax.axhline(curve.level, **curve.style | THICK)


def _draw_legend(
    figure: Figure,
    curves: Sequence[Curve],
    moved: Sequence[tuple[float, float]],
    source: str,
    reading: str,
) -> None:
    """Draw the key below the panels, thresholds included, in whole columns of 2 or 4 entries."""
    handles: list[Artist] = []
    for curve, levels in zip(curves, moved, strict=True):
        q, name = curve.percentile, rf"$T_{{\mathrm{{{curve.name}}}}}$"
        low, high = map(labels.short, levels)
        origin = source if q is None else f"percentile {q:g}"
        text = f"{name} = {labels.short(curve.level)} ({origin})"
        handles.append(Line2D([], [], **curve.style | THICK, label=text))
        if reading == "percentile" and q is not None:
            text = f"±20 % (percentiles {0.8 * q:g}, {min(100.0, 1.2 * q):g}): {low}, {high}"
        else:
            text = f"{name} ±20 %: {low}, {high}"
        handles.append(Line2D([], [], **curve.style | THIN, label=text))
    notes = [f"{numeral}: {meaning}" for numeral, meaning in labels.NAMES.items()]
    grid = curves[0].grid
    if grid.diverged.any():
        notes.append("×k: k seeds diverged" if max(grid.count.shape) <= ANNOTATE else "×: diverged")
    handles += [Line2D([], [], linestyle="", label=note) for note in notes]
    if (grid.count == 0).any():
        handles.append(Patch(**MISSING, label="no finished run"))
    rows = 2 if figure.get_figwidth() > 14.5 else 4  # six entries side by side need 14.5 inches
    columns = math.ceil(len(handles) / rows)
    handles += [Line2D([], [], linestyle="", label="")] * (rows * columns - len(handles))
    figure.legend(
        handles=handles, loc="outside lower center", ncols=columns, fontsize=9.5, frameon=False
    )


def print_table(train: Grid, test: Grid, limits: Thresholds) -> None:
    """Print `format_table`."""
    print(labels.format_table(train, test, limits))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Exit 2 with one line: the flag and what it allows, without the usage text."""
        self.exit(2, f"maps.py: error: {message.removeprefix('argument ')}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; bad input exits with code 2 before anything is written."""
    parser = _build_parser()
    args = parser.parse_args(argv)
    if args.perturbation == "percentile" and args.thresholds != "percentile":
        parser.error("--perturbation: percentile is allowed with --thresholds percentile only")
    found = _load(args.results, parser)
    runs = _select(found.runs, args, parser)
    try:
        maps = [_prepare(runs, group, args) for group in collect.groups(runs)]
    except ValueError as error:
        parser.error(str(error))
    _report(found)
    picture: Path = args.out or found.root / "regime_map.png"
    table: Path = args.csv or picture.parent / "results.csv"
    log = args.interpolation == "log"
    try:
        if table.resolve() != args.results.resolve():
            collect.write_csv(found.runs, table)
            print(f"wrote {table}: {len(found.runs)} runs")
        for train, test, limits in maps:
            figure = regime_map(train, test, limits, perturbation=args.perturbation, log=log)
            target = picture if len(maps) == 1 else _named(picture, train, maps)
            with collect.atomic(target) as temporary:
                figure.savefig(temporary, dpi=args.dpi)
            print(f"wrote {target}\n")
            print_table(train, test, limits)
            print()
    except OSError as error:
        parser.error(f"--out or --csv: cannot write {error.filename}: {error.strerror}")
    return 0


def _build_parser() -> _Parser:
    parser = _Parser(description="Draw regime maps from finished runs.", allow_abbrev=False)
    add = parser.add_argument
    add("results", type=Path, metavar="RESULTS", help="a results folder, or a results.csv")
    add("--model", help="such as PINN, NODE or PINODE; default: all")
    add("--system", help="such as convection; default: all, a picture each")
    add("--strategy", help="such as lbfgs; default: all, a picture each")
    add("--out", type=_picture_path, help="picture; default: RESULTS/regime_map.png")
    add("--csv", type=Path, help="long table of all runs; default: results.csv by the picture")
    add("--thresholds", type=_threshold_choice, default="percentile",
        help="percentile (default), table5, or two numbers T_TRAIN,T_TEST")  # fmt: skip
    add("--train-percentile", type=_number_in(0, 100), default=65.0, help="default 65")
    add("--test-percentile", type=_number_in(0, 100), default=75.0, help="default 75")
    add("--perturbation", choices=boundaries.READINGS,
        help="what +-20 %% moves (default: the percentile if the thresholds have one)")  # fmt: skip
    add("--interpolation", choices=("log", "linear"), default="log",
        help="how boundaries cross between neighbouring cells; default log")  # fmt: skip
    add("--dpi", type=_number_in(30, 1200), default=150.0, help="default 150")
    return parser


def _picture_path(text: str) -> Path:
    if Path(text).suffix not in (".png", ".pdf", ".svg"):
        raise argparse.ArgumentTypeError(f"{text!r} must end in .png, .pdf or .svg")
    return Path(text)


def _number_in(low: float, high: float) -> Callable[[str], float]:
    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {low:g} to {high:g}")
        return value

    return convert


def _threshold_choice(text: str) -> str | Thresholds:
    if text in ("percentile", "table5"):
        return text
    try:
        train, test = (float(part) for part in text.split(","))
        return thresholds.fixed(train, test)
    except ValueError:
        allowed = "percentile, table5 or two numbers T_TRAIN,T_TEST such as 3.8e-3,0.434"
        raise argparse.ArgumentTypeError(f"{text!r} is not one of {allowed}") from None


def _load(results: Path, parser: _Parser) -> Collection:
    """Return what a results folder or a results.csv holds; the root is the folder to write to."""
    if results.is_file():
        try:
            found = Collection(results.parent, collect.read_csv(results), [], [])
        except (ValueError, OSError) as error:
            parser.error(f"RESULTS: {results} is not a table written by this command: {error}")
    elif results.is_dir():
        found = collect.collect(results)
    else:
        parser.error(f"RESULTS: no such folder or results.csv: {results}")
    if not found.runs:
        state = f"{len(found.unfinished)} unfinished, {len(found.corrupt)} unreadable"
        parser.error(f"RESULTS: no finished run (metrics.json) below {results} ({state})")
    return found


def _report(found: Collection, most: int = 10) -> None:
    diverged = sum(run.status == "diverged" for run in found.runs)
    unfinished, unreadable = len(found.unfinished), len(found.corrupt)
    print(f"{len(found.runs)} runs done ({diverged} diverged), {unfinished} unfinished, ", end="")
    print(f"{unreadable} unreadable")
    for path in found.unfinished[:most]:
        print(f"  unfinished: {path}")
    if unfinished > most:
        print(f"  and {unfinished - most} more")


def _select(runs: list[Run], args: argparse.Namespace, parser: _Parser) -> list[Run]:
    for name in ("model", "system", "strategy"):
        found, wanted = sorted({getattr(run, name) for run in runs}), getattr(args, name)
        if wanted is not None and wanted not in found:
            parser.error(f"--{name}: no finished run with {wanted!r} (found: {', '.join(found)})")
        runs = [run for run in runs if wanted in (None, getattr(run, name))]
    return runs


def _prepare(
    runs: list[Run], group: tuple[str, str, str], args: argparse.Namespace
) -> tuple[Grid, Grid, Thresholds]:
    """Return the grids and thresholds of one map; a ValueError names the argument at fault."""
    model, system, strategy = group
    try:
        train, test = (
            collect.build_grid(runs, metric, model=model, system=system, strategy=strategy)
            for metric in labels.METRICS
        )
    except ValueError as error:
        raise ValueError(f"RESULTS: {error}") from None
    if isinstance(args.thresholds, Thresholds):
        return train, test, args.thresholds
    if args.thresholds == "table5":
        try:
            return train, test, thresholds.table5(model, system, strategy)
        except ValueError as error:
            raise ValueError(f"--thresholds: {error}") from None
    qs = args.train_percentile, args.test_percentile
    return train, test, thresholds.from_percentiles(train, test, *qs)


def _named(picture: Path, grid: Grid, maps: Sequence[tuple[Grid, Grid, Thresholds]]) -> Path:
    """Return the picture's path with system and strategy in it, and the model if the system has several."""
    models = {other.model for other, _, _ in maps if other.system == grid.system}
    parts = [grid.model] * (len(models) > 1) + [grid.system, grid.strategy]
    return picture.with_stem(re.sub(r"[^\w.-]", "_", "_".join([picture.stem, *parts])))


if __name__ == "__main__":
    sys.exit(main())
