"""The paper's figures of regimes, drawn from the runs that there are, with a list of the runs that are missing.

    python experiments/figures.py 3
    python experiments/figures.py 3 --models PINN --strategies lbfgs alm mine
    python experiments/figures.py 5 6
    python experiments/figures.py all --scale paper --thresholds table5 --out /tmp/figures

Figures 1, 2, 3, 8, 9 and 10 are regime maps; 4 is the relative improvement of NNCG over L-BFGS (Eq. 23). Each is
written as PNG and PDF, with its numbers as CSV: figure_N.csv (a row a cell), figure_N_boundaries.csv (a row a vertex).
Figure 3, which compares strategies of one system, comes with more:

    figure_3_common      the same at one pair of thresholds a system, that of its L-BFGS map
    figure_3_positions   where these boundaries lie, with bootstrap intervals over seeds
    figure_3_wins.csv, figure_3_paired.csv   who is best in how many cells; each strategy against L-BFGS, cell by cell

and figure 4 with figure_4_mean_of_ratios. Figures 5, 6, 7 and 11 to 16 are of loss landscapes: drawn from what
diagnose.py of the modules left in run folders, with what the paper says that they show beside what they show
(figure_N_checks.csv). Runs come from results folders, tables (results.csv) or both; which there should be, from the
sweep scripts and landscapes.sh. Exit code 0: something was drawn; 1: no run for any figure asked for; 2: bad input.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import re
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parent))

from analysis import (
    boundaries,
    collect,
    expected,
    figure_improvement,
    figure_maps,
    figure_positions,
    figure_tables,
    improvement,
    labels,
    landscape_figures,
    paired,
    positions,
    style,
    thresholds,
)
from analysis.collect import Run
from analysis.expected import EXPERIMENTS, Expected
from analysis.figure_improvement import Pair
from analysis.figure_maps import Choice, RegimeMap
from analysis.figure_specs import FIGURES, RESULTS, FigureSpec, comparing
from analysis.landscape_figures import FIGURES as LANDSCAPES
from analysis.maps import number_in, threshold_choice
from analysis.thresholds import Thresholds

SCALES = ("smoke", "laptop", "paper")
BASES = ("lbfgs", "switch")


@dataclass(frozen=True)
class Compared:
    """The strategies of one system at common thresholds: the wins as text and rows, and the pairs as rows."""

    text: str
    wins: list[figure_tables.Row]
    pairs: list[figure_tables.Row]


@dataclass(frozen=True)
class Plan:
    """What a figure is drawn from: its maps and, for each, what is expected; Figure 4 has pairs instead of maps."""

    spec: FigureSpec
    expected: list[Expected]
    maps: list[RegimeMap]
    common: list[RegimeMap]  # the same maps at common thresholds, in a figure that compares strategies
    pairs: list[Pair]
    compared: list[Compared]

    @property
    def drawable(self) -> bool:
        """Whether there is a run to draw."""
        return any(not one.empty for one in self.maps) or any(pair.improvements for pair in self.pairs)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Exit 2 with one line: the flag and what it allows, without the usage text."""
        self.exit(2, f"figures.py: error: {message.removeprefix('argument ')}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; bad input exits with code 2 before anything is written."""
    logging.basicConfig(format="%(message)s")
    parser = _build_parser()
    args = parser.parse_args(argv)
    asked_for = {*FIGURES, *LANDSCAPES} if "all" in args.figures else {int(n) for n in args.figures}
    numbers = sorted(asked_for & FIGURES.keys())
    _check(args, numbers, parser)
    loaded: dict[Path, tuple[list[Run], list[Path]]] = {}
    runs = [run for run, _ in _load(args, RESULTS, loaded, parser)] if numbers else []
    asked: dict[tuple[str, str, str], Expected] = {}
    try:
        specs = FIGURES | {3: comparing(args.models, args.strategies)}
        plans = [_plan(specs[number], runs, args, asked) for number in numbers]
    except ValueError as error:
        parser.error(f"--results: {error}")
    for plan in plans:
        _list(plan, runs, args)
        if plan.drawable:
            try:
                with style.in_print():
                    _write(plan, runs, args)
            except OSError as error:
                parser.error(f"--out: cannot write into {args.out}: {error.strerror}")
        else:
            print("  nothing to draw")
    drawn = any(plan.drawable for plan in plans)
    if landscapes := sorted(asked_for & LANDSCAPES.keys()):
        folders = _load(args, landscape_figures.RESULTS, loaded, parser)
        drawn |= any([_landscape(number, folders, args, parser) for number in landscapes])
    return 0 if drawn else 1


def _build_parser() -> _Parser:
    parser = _Parser(description="Draw the paper's figures of regimes from finished runs.", allow_abbrev=False)
    add = parser.add_argument
    names = [*map(str, sorted({*FIGURES, *LANDSCAPES})), "all"]
    add("figures", nargs="+", choices=names, metavar="N", help=f"figures: {', '.join(names)}")
    add("--scale", choices=SCALES, default="laptop", help="grid that is expected, as of the sweeps; default laptop")
    add("--results", nargs="+", type=Path, metavar="FOLDER_OR_CSV",
        help="results folders or tables (results.csv); default: results/pinn_SCALE and those of node, pino, "
        "fno, and for figures of landscapes landscapes, pinn, fno, cnn, that exist")  # fmt: skip
    add("--out", type=Path, default=EXPERIMENTS.parent / "results/figures", help="folder; default results/figures")
    add("--thresholds", type=threshold_choice, default="percentile",
        help="percentile (default): of each map; common: one pair for all strategies of a system; "
        "table5; or two numbers T_TRAIN,T_TEST")  # fmt: skip
    add("--perturbation", choices=boundaries.READINGS,
        help="what +-20 %% moves (default: the percentile if the thresholds have one)")  # fmt: skip
    models = list(dict.fromkeys(panel.model for panel in FIGURES[3].panels))
    add("--models", nargs="+", choices=models, default=[], help="rows of figure 3; default all")
    add("--strategies", nargs="+", type=_strategy, default=[], metavar="NAME",
        help="columns of figure 3, such as lbfgs alm mine; default: those of the paper")  # fmt: skip
    add("--base", choices=BASES, help="what NNCG is compared with in figure 4: the runs of L-BFGS (default), "
        "or its own at the switch from L-BFGS")  # fmt: skip
    add("--dpi", type=number_in(30, 1200), default=300.0, help="of the PNG; default 300")
    return parser


def _check(args: argparse.Namespace, numbers: Sequence[int], parser: _Parser) -> None:
    if args.perturbation == "percentile" and args.thresholds != "percentile":
        parser.error("--perturbation: percentile is allowed with --thresholds percentile only")
    if args.perturbation and numbers == [4]:
        parser.error("--perturbation: figure 4 has no perturbed boundaries")
    if not numbers and (args.perturbation or args.thresholds != "percentile"):
        parser.error(f"--{'perturbation' if args.perturbation else 'thresholds'}: goes with regime maps only")
    if args.base and 4 not in numbers:
        parser.error("--base: goes with figure 4 only")
    if (args.models or args.strategies) and 3 not in numbers:
        parser.error(f"--{'models' if args.models else 'strategies'}: goes with figure 3 only")
    if len(set(args.strategies)) < len(args.strategies):
        parser.error("--strategies: a name occurs twice")
    there = next(path for path in (args.out.absolute(), *args.out.absolute().parents) if path.exists())
    if not (there.is_dir() and os.access(there, os.W_OK)):
        parser.error(f"--out: cannot write into {args.out}")


def _strategy(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_]+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not the name of a strategy, such as lbfgs")
    return text


def _load(
    args: argparse.Namespace, defaults: Sequence[str], loaded: dict[Path, tuple[list[Run], list[Path]]],
    parser: _Parser,
) -> list[tuple[Run, Path]]:  # fmt: skip
    """Return the runs of all folders and tables with their folders; a folder without runs may hold a results.csv.

    Args:
        args: the command line.
        defaults: results folders less _SCALE, where none is named.
        loaded: runs and folders by path, of earlier calls; those that are read now are added.
        parser: exits when something cannot be read.
    """
    chosen = args.results
    if chosen is None:
        chosen = [EXPERIMENTS.parent / f"results/{name}_{args.scale}" for name in defaults]
        chosen = [path for path in chosen if path.is_dir()]
    for path in chosen:
        if path not in loaded:
            loaded[path] = _read_runs(path, parser)
    return [pair for path in chosen for pair in zip(*loaded[path])]


def _read_runs(path: Path, parser: _Parser) -> tuple[list[Run], list[Path]]:
    """Return the runs of a folder or table, their paths made distinct, and their folders."""
    if not path.exists():
        parser.error(f"--results: no such folder or results.csv: {path}")
    notes, found = "", []
    if path.is_dir():
        folder = collect.collect(path)
        found = folder.runs
        notes = f", {len(folder.unfinished)} unfinished, {len(folder.corrupt)} unreadable"
    table = path if path.is_file() else path / "results.csv"
    if not found and table.is_file():
        try:
            found, notes = collect.read_csv(table), ""
        except (ValueError, OSError) as error:
            parser.error(f"--results: {table} is not a table of runs: {error}")
    print(f"{path}: {len(found)} runs{notes}")
    source = path if notes else table
    return ([replace(run, path=f"{source}: {run.path}") for run in found],
            [(path if notes else table.parent) / run.path for run in found])  # fmt: skip


def _landscape(number: int, runs: list[tuple[Run, Path]], args: argparse.Namespace, parser: _Parser) -> bool:
    """List, draw and judge one figure of landscapes; returns whether there was something to draw."""
    plan = landscape_figures.plan(number, runs, args.scale)
    print("\n" + "\n".join(plan.list(named=args.results is not None)))
    if not plan.drawable:
        print("  nothing to draw")
        return False
    try:
        with style.in_print():
            written = plan.write(args.out, args.dpi)
    except OSError as error:
        parser.error(f"--out: cannot write into {args.out}: {error.strerror}")
    print("\n".join(plan.says()))
    print("  wrote " + ", ".join(path.name for path in written) + f" into {args.out}")
    return True


def _plan(
    spec: FigureSpec, runs: list[Run], args: argparse.Namespace, asked: dict[tuple[str, str, str], Expected]
) -> Plan:
    """Arrange a figure's runs; nothing is drawn yet, so that bad input shows before anything is written."""
    known = []
    for panel in spec.panels:
        key = panel.model, panel.system, panel.strategy
        asked[key] = asked.get(key) or expected.ask(panel, args.scale)
        known.append(asked[key])

    def prepare(choice: Choice) -> list[RegimeMap]:
        return [figure_maps.prepare(panel, runs, one, choice) for panel, one in zip(spec.panels, known)]

    if spec.number == 4:
        pairs = [
            figure_improvement.prepare_pair(
                spec.panels[k : k + 2], runs, tuple(known[k : k + 2]), args.thresholds, args.base or BASES[0]
            )
            for k in range(0, len(known), 2)
        ]
        return Plan(spec, known, [], [], pairs, [])
    common: Choice = args.thresholds
    if not isinstance(common, Thresholds):
        common = "common table5" if common == "table5" else "common"
    maps = prepare(args.thresholds)
    if not spec.compares:
        return Plan(spec, known, maps, [], [], [])
    alike = prepare(common)
    systems = [alike[k : k + spec.columns] for k in range(0, len(alike), spec.columns)]
    return Plan(spec, known, maps, alike, [], [one for system in systems if (one := _compare(system, runs))])


def _compare(maps: Sequence[RegimeMap], runs: list[Run]) -> Compared | None:
    """Compare the strategies of one system; None where there are no two, or no thresholds."""
    where = {"model": maps[0].panel.model, "system": maps[0].panel.system}
    names = [one.panel.strategy for one in maps if not one.empty]
    if len(names) < 2 or not math.isfinite(maps[0].limits.train):
        return None
    wins = paired.win_counts(runs, **where, limits=maps[0].limits, strategies=names)
    first = thresholds.reference_strategy(names)
    rows = [
        row for second in names if second != first for metric in labels.METRICS
        for row in paired.csv_rows(paired.compare(runs, metric, **where, first=first, second=second))
    ]  # fmt: skip
    return Compared(paired.format_wins(wins), paired.wins_csv_rows(wins), rows)


def _list(plan: Plan, runs: list[Run], args: argparse.Namespace) -> None:
    """Print which runs are there and missing, by panel, and the commands that make the missing ones."""
    print(f"\nFigure {plan.spec.number}: {plan.spec.caption}")
    gaps = []
    for panel, known in zip(plan.spec.panels, plan.expected):
        found = expected.found_runs(panel, runs)
        print("\n".join(expected.format_missing(panel, known, found)))
        gaps.append((known, len(expected.missing_runs(known, found))))
    commands = expected.commands(gaps, args.scale)
    if commands:
        print("  the missing runs are made by")
        print("\n".join(f"    {line}" for line in commands))
        if args.results:
            print(f"  {expected.DESTINATION}")


def _write(plan: Plan, runs: list[Run], args: argparse.Namespace) -> None:
    """Draw one figure and all that belongs to it."""
    written: list[Path] = []

    def out(name: str) -> Path:
        return args.out / f"figure_{plan.spec.number}{name}"

    def table(rows: list[figure_tables.Row], name: str) -> None:
        path = out(f"{name}.csv")
        if rows:
            figure_tables.write(rows, path)
            written.append(path)
        else:
            path.unlink(missing_ok=True)  # of an earlier call: it would not be of this picture

    if plan.pairs:
        for reading in improvement.READINGS:
            name = "" if reading == "ratio_of_means" else f"_{reading}"
            written += style.save(figure_improvement.draw(plan.pairs, reading), out(name), args.dpi)
        table(figure_tables.improvements(plan.pairs), "")
        rows = figure_tables.vertices([pair.base for pair in plan.pairs])
        table([row for row in rows if not row["shift"]], "_boundaries")  # those that are drawn
    for name, maps in (("", plan.maps), ("_common", plan.common)):
        if maps:
            figure = figure_maps.draw(plan.spec, maps, perturbation=args.perturbation)
            written += style.save(figure, out(name), args.dpi)
            table(figure_tables.cells(maps), name)
            table(figure_tables.vertices(maps, args.perturbation), f"{name}_boundaries")
    if plan.common:
        columns = plan.spec.columns
        systems = [plan.common[k : k + columns] for k in range(0, len(plan.common), columns)]
        found = [figure_positions.find(maps, runs) for maps in systems]
        written += style.save(figure_positions.draw(found), out("_positions"), args.dpi)
        lines = [line for one in found for by_name in one.found.values() for line in by_name.values()]
        table([row for line in lines for row in positions.csv_rows(line)], "_positions")
        for one in plan.compared:
            print("\n" + one.text + "\n")
        table([row for one in plan.compared for row in one.wins], "_wins")
        table([row for one in plan.compared for row in one.pairs], "_paired")
    print("  wrote " + ", ".join(path.name for path in written) + f" into {args.out}")


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # figures.py ... | head
    sys.exit(main())
