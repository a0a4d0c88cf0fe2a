"""Strategies compared in one cell: a table of their results, and a picture of how they got there.

    python experiments/analysis/comparison.py results --physical beta=10 --n 5000 --seed 0

writes comparison.png into the results folder (see --out) and prints the table, best test error
first. Curves come from the history.csv of each run folder, unfinished runs included. A curriculum
is at another physical value in each stage: its curves are loss and error at the value of the stage.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

if __package__ in (None, ""):  # run as a script: the package lies one folder up
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from analysis import collect, labels
from analysis.collect import Run
from analysis.style import COLORS, OTHERS

FOLDERS = {"node": "NODE", "pinode": "PINODE"}  # models of one module, in a folder each above the systems
COLUMNS = ("strategy", "train loss", "test error", "iterations", "seconds", "status", "stop reason")


@dataclass(frozen=True)
class Entry:
    """One strategy: its result (None while there is none) and its history, a list a column."""

    strategy: str
    run: Run | None
    state: str  # finished, diverged, unfinished or failed
    history: dict[str, list[float]] = field(default_factory=dict)


def read_history(path: Path) -> dict[str, list[float]]:
    """Return the number columns of a history.csv; {} if there is none. A missing value is NaN.

    Lines without loss and error, which some modules write after every step, are left out: they would cut the curves.
    """
    columns: dict[str, list[float]] = {"iteration": [], **{name: [] for name in labels.METRICS}}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if not any(row.get(name) for name in labels.METRICS):
                    continue
                for name, values in columns.items():
                    values.append(_number(row.get(name)))
    except FileNotFoundError:
        return {}
    return columns


def find_entries(
    results: Path, model: str | None, system: str | None, physical: tuple[str, float], n: float, seed: int
) -> list[Entry]:
    """Return the runs of one cell and seed, best test error first, then those without a result.

    Raises:
        ValueError: several models or systems have this cell, or one strategy has it twice.
    """
    found = collect.collect(results)
    name, value = physical
    entries = [
        Entry(run.strategy, run, run.status, read_history(results / run.path / "history.csv"))
        for run in found.runs
        if (run.physical_name, run.physical_value) == (name, value)
        and (run.data_value, run.seed) == (n, seed)
        and system in (None, run.system)
        and model in (None, run.model)
    ]
    systems = sorted({entry.run.system for entry in entries if entry.run})
    models = sorted({entry.run.model for entry in entries if entry.run})
    for flag, several in (("--system", systems), ("--model", models)):
        if len(several) > 1:
            raise ValueError(f"{flag} is needed: {' and '.join(several)} have {name} {value:g}")
    system, model = system or next(iter(systems), None), model or next(iter(models), None)
    cell = f"{name}_{value:g}", f"n_{n:g}", f"seed_{seed}"
    for path in found.unfinished:
        # A run without a result has no keys to read but those of its path (design of run folders).
        parts = ("",) * 6 + Path(path).parts
        of_model, of_system, strategy = parts[-6:-3]
        if parts[-3:] == cell and system in (None, of_system) and model in (None, FOLDERS.get(of_model, model)):
            folder = results / path
            state = "failed" if (folder / "failed.json").exists() else "unfinished"
            entries.append(Entry(strategy, None, state, read_history(folder / "history.csv")))
    names = [entry.strategy for entry in entries]
    for strategy in names:
        if names.count(strategy) > 1:
            raise ValueError(f"strategy {strategy} has this cell twice below {results}")
    return sorted(entries, key=_order)


def format_table(entries: Sequence[Entry]) -> str:
    """Return the table, a line a strategy."""
    lines = [COLUMNS]
    for entry in entries:
        run = entry.run
        if run is None:
            lines.append((entry.strategy, "", "", "", "", entry.state, ""))
        else:
            numbers = f"{run.train_loss:.2e}", f"{run.test_error:.2e}", f"{run.iterations:.0f}"
            words = f"{run.seconds:.1f}", run.status, run.stop_reason
            lines.append((run.strategy, *numbers, *words))
    widths = [max(len(line[k]) for line in lines) for k in range(len(COLUMNS))]
    right = range(1, 5)
    return "\n".join(
        "  ".join(f"{w:>{m}}" if k in right else f"{w:<{m}}" for k, (w, m) in enumerate(zip(line, widths))).rstrip()
        for line in lines
    )


def draw(entries: Sequence[Entry], title: str, system: str = "") -> Figure:
    """Return training loss and test error against iterations, a curve a strategy.

    Both axes are logarithmic; iterations are linear up to the power of ten below the first logged
    one, so that the common start at 0 is seen. A dot marks the final result, a cross a run that diverged; curves of
    runs without a result are dotted.
    """
    figure = Figure(figsize=(12, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2)
    logged = [i for e in entries for i in e.history.get("iteration", []) if i > 0]
    for axes, metric in zip(panels, labels.METRICS):
        axes.set_prop_cycle(OTHERS)
        for entry in entries:
            _draw_curve(axes, entry, metric)
        axes.set_yscale("log")
        linear = 10.0 ** math.floor(math.log10(min(logged, default=1)))
        axes.set_xscale("symlog", linthresh=linear, linscale=0.3)
        axes.set_xlim(left=0)
        axes.set_xlabel("inner iterations")
        axes.set_ylabel(labels.metric_label(metric, system, "relative L2" if metric == "test_error" else ""))
        axes.grid(alpha=0.3)
    figure.suptitle(title)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4, frameon=False)
    return figure


def _draw_curve(axes: Axes, entry: Entry, metric: str) -> None:
    color = COLORS.get(entry.strategy)
    label = labels.STRATEGIES.get(entry.strategy, entry.strategy)
    if "cl" in entry.strategy.split("_"):
        label += " (at the value of each stage)"
    if entry.run is None or entry.state == "diverged":
        label += f" ({entry.state})"
    iterations, values = (entry.history.get(name, []) for name in ("iteration", metric))
    line = {"linestyle": ":" if entry.run is None else "-", "linewidth": 1.6}
    axes.plot(iterations, values, color=color, label=label, **line)
    if entry.run is not None and iterations:
        color = color or axes.lines[-1].get_color()
        marker = "X" if entry.state == "diverged" else "o"
        axes.plot(iterations[-1], values[-1], marker, color=color, markersize=6)


def _order(entry: Entry) -> tuple[bool, float, str]:
    error = math.inf if entry.run is None else entry.run.test_error
    return entry.run is None, math.inf if math.isnan(error) else error, entry.strategy


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Exit 2 with one line: the flag and what it allows, without the usage text."""
        self.exit(2, f"comparison.py: error: {message.removeprefix('argument ')}\n")


def _physical(text: str) -> tuple[str, float]:
    name, equals, value = text.partition("=")
    try:
        if name and equals and math.isfinite(float(value)):
            return name, float(value)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE such as beta=10")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; bad input exits with code 2 before anything is written."""
    parser = _Parser(description="Compare strategies in one cell of a map.", allow_abbrev=False)
    add = parser.add_argument
    add("results", type=Path, metavar="RESULTS", help="a results folder")
    add("--model", help="such as PINODE; needed where several have the cell")
    add("--system", help="such as convection; needed where several have the cell")
    add("--physical", type=_physical, required=True, metavar="NAME=VALUE", help="such as beta=10")
    add("--n", type=float, required=True, help="data amount")
    add("--seed", type=int, required=True)
    add("--out", type=Path, help="picture; default: RESULTS/comparison.png")
    args = parser.parse_args(argv)
    if not args.results.is_dir():
        parser.error(f"RESULTS: no such folder: {args.results}")
    try:
        entries = find_entries(args.results, args.model, args.system, args.physical, args.n, args.seed)
    except ValueError as error:
        parser.error(str(error))
    name, value = args.physical
    cell = f"{name} = {value:g}, n = {args.n:g}, seed {args.seed}"
    if not entries:
        parser.error(f"RESULTS: no run of {cell} below {args.results}")
    picture = args.out or args.results / "comparison.png"
    first = next((e.run for e in entries if e.run), None)
    model, system = (getattr(args, key) or getattr(first, key, "") for key in ("model", "system"))
    title = ", ".join(filter(None, (model, system, cell)))
    try:
        with collect.atomic(picture) as temporary:
            draw(entries, title, system).savefig(temporary, dpi=150)
    except (OSError, ValueError) as error:  # ValueError: an ending that matplotlib cannot write
        parser.error(f"--out: cannot write {picture}: {error}")
    print(f"wrote {picture}\n")
    print(format_table(entries))
    return 0


if __name__ == "__main__":
    sys.exit(main())
