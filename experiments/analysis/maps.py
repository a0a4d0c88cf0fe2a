"""Regime maps: training loss and test error over (physical value, data amount).

    python experiments/analysis/maps.py results --system convection --strategy lbfgs

writes results.csv and regime_map.png and .pdf into the results folder (see --out and --csv) and
prints the map as a table. Where several systems or strategies are found and none is named: one
picture each. Thresholds are each map's own by default; --thresholds common gives all strategies of
one model and system those of its L-BFGS map (else Adam's, else the first's), to compare them.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

if __package__ in (None, ""):  # run as a script: the package lies one folder up
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from analysis import boundaries, collect, labels, panels, style, thresholds
from analysis.collect import Collection, Grid, Run
from analysis.panels import ANNOTATE, SCREEN, Curve
from analysis.thresholds import Thresholds


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
    curves = panels.boundary_curves(train, test, limits)
    reading, moved = panels.perturbed(curves, perturbation)
    context = train.system, train.model
    pair = figure.subplots(1, 2, sharey=True)
    for axes, own, thin in zip(pair, curves, moved, strict=True):
        panels.draw_panel(axes, own, curves, thin, regimes, SCREEN, log=log)
        panels.draw_colorbar(figure, axes, own)
        name = labels.metric_label(own.grid.metric, train.system)
        axes.set_title(name[:1].upper() + name[1:], fontsize=12)
        axes.set_xlabel(labels.axis_label(train.physical_name, *context), fontsize=11)
    pair[0].set_ylabel(labels.axis_label(train.data_name, *context), fontsize=11)
    strategy = labels.STRATEGIES.get(train.strategy, train.strategy)
    title = f"{train.model}, {train.system.replace('_', '-')}, {strategy}"
    figure.suptitle(f"{title}: {labels.seeds_text(train)}", fontsize=13, fontweight="bold")
    _draw_legend(figure, curves, moved, limits.source, reading)
    return figure


def _draw_legend(
    figure: Figure,
    curves: Sequence[Curve],
    moved: Sequence[tuple[float, float]],
    source: str,
    reading: str,
) -> None:
    """Draw the key below the panels, thresholds included, in whole columns of 2 or 4 entries."""
    handles: list[Artist] = []
    # What does not fit beside two numbers, such as whose percentiles they are, stands above them.
    title = f"thresholds: {source}" if curves[0].percentile is None and len(source) > 24 else None
    for curve, levels in zip(curves, moved, strict=True):
        q, name = curve.percentile, rf"$T_{{\mathrm{{{curve.name}}}}}$"
        low, high = map(labels.short, levels)
        origin = f" (percentile {q:g})" if q is not None else f" ({source})" * (title is None)
        text = f"{name} = {labels.short(curve.level)}{origin}"
        handles.append(Line2D([], [], **SCREEN.line(curve), label=text))
        if reading == "percentile" and q is not None:
            text = f"±20 % (percentiles {0.8 * q:g}, {min(100.0, 1.2 * q):g}): {low}, {high}"
        else:
            text = f"{name} ±20 %: {low}, {high}"
        handles.append(Line2D([], [], **SCREEN.line(curve, thin=True), label=text))
    notes = [f"{numeral}: {meaning}" for numeral, meaning in labels.NAMES.items()]
    grid = curves[0].grid
    if grid.diverged.any():
        notes.append("×k: k seeds diverged" if max(grid.count.shape) <= ANNOTATE else "×: diverged")
    handles += [Line2D([], [], linestyle="", label=note) for note in notes]
    if (grid.count == 0).any():
        handles.append(Patch(**style.MISSING, label="no finished run"))
    rows = 2 if figure.get_figwidth() > 14.5 else 4  # six entries side by side need 14.5 inches
    columns = math.ceil(len(handles) / rows)
    handles += [Line2D([], [], linestyle="", label="")] * (rows * columns - len(handles))
    figure.legend(
        handles=handles, loc="outside lower center", ncols=columns, fontsize=9.5, frameon=False,
        title=title, title_fontsize=9.5,
    )  # fmt: skip


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
        maps = [_prepare(runs, group, args, found.runs) for group in collect.groups(runs)]
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
            endings = (".png", ".pdf") if target.suffix == ".png" else (target.suffix,)
            written = style.save(figure, target.with_suffix(""), args.dpi, endings)
            print(f"wrote {' and '.join(map(str, written))}\n")
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
    add("--out", type=_picture_path,
        help="picture, with a PDF beside a PNG; default: RESULTS/regime_map.png")  # fmt: skip
    add("--csv", type=Path, help="long table of all runs; default: results.csv by the picture")
    add("--thresholds", type=threshold_choice, default="percentile",
        help="percentile (default): of each map; common: one pair for all strategies of a system; "
        "table5; or two numbers T_TRAIN,T_TEST")  # fmt: skip
    add("--train-percentile", type=number_in(0, 100), default=65.0, help="default 65")
    add("--test-percentile", type=number_in(0, 100), default=75.0, help="default 75")
    add("--perturbation", choices=boundaries.READINGS,
        help="what +-20 %% moves (default: the percentile if the thresholds have one)")  # fmt: skip
    add("--interpolation", choices=("log", "linear"), default="log",
        help="how boundaries cross between neighbouring cells; default log")  # fmt: skip
    add("--dpi", type=number_in(30, 1200), default=150.0, help="default 150")
    return parser


def _picture_path(text: str) -> Path:
    if Path(text).suffix not in (".png", ".pdf", ".svg"):
        raise argparse.ArgumentTypeError(f"{text!r} must end in .png, .pdf or .svg")
    return Path(text)


def number_in(low: float, high: float) -> Callable[[str], float]:
    """Return what reads a number from `low` to `high` of a command line."""

    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {low:g} to {high:g}")
        return value

    return convert


def threshold_choice(text: str) -> str | Thresholds:
    """Read --thresholds: the name of a source, or two numbers.

    Raises:
        argparse.ArgumentTypeError: it is neither.
    """
    if text in ("percentile", "common", "table5"):
        return text
    try:
        train, test = (float(part) for part in text.split(","))
        return thresholds.fixed(train, test)
    except ValueError:
        allowed = "percentile, common, table5 or two numbers T_TRAIN,T_TEST such as 3.8e-3,0.434"
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


def _grids(runs: list[Run], group: tuple[str, str, str]) -> tuple[Grid, Grid]:
    model, system, strategy = group
    try:
        train, test = (
            collect.build_grid(runs, metric, model=model, system=system, strategy=strategy)
            for metric in labels.METRICS
        )
    except ValueError as error:
        raise ValueError(f"RESULTS: {error}") from None
    return train, test


def _prepare(
    runs: list[Run], group: tuple[str, str, str], args: argparse.Namespace, everything: list[Run]
) -> tuple[Grid, Grid, Thresholds]:
    """Return the grids and thresholds of one map; a ValueError names the argument at fault.

    A common threshold takes its reference strategy from `everything`, --strategy or not.
    """
    model, system, strategy = group
    train, test = _grids(runs, group)
    if isinstance(args.thresholds, Thresholds):
        return train, test, args.thresholds
    if args.thresholds == "table5":
        try:
            return train, test, thresholds.table5(model, system, strategy)
        except ValueError as error:
            raise ValueError(f"--thresholds: {error}") from None
    qs = args.train_percentile, args.test_percentile
    if args.thresholds == "common":
        rivals = [other for other in collect.groups(everything) if other[:2] == group[:2]]
        maps = [_grids(everything, other) for other in rivals]
        try:
            return train, test, thresholds.common(maps, train_q=qs[0], test_q=qs[1])
        except ValueError as error:
            raise ValueError(f"--thresholds: {error}") from None
    return train, test, thresholds.from_percentiles(train, test, *qs)


def _named(picture: Path, grid: Grid, maps: Sequence[tuple[Grid, Grid, Thresholds]]) -> Path:
    """Return the picture's path with system and strategy in it, and the model if the system has several."""
    models = {other.model for other, _, _ in maps if other.system == grid.system}
    parts = [grid.model] * (len(models) > 1) + [grid.system, grid.strategy]
    return picture.with_stem(re.sub(r"[^\w.-]", "_", "_".join([picture.stem, *parts])))


if __name__ == "__main__":
    sys.exit(main())
