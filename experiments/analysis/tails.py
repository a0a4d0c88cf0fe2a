"""Tail exponents of step lengths against the learning rate (the paper's Fig. 14), from steps.json of run folders.

    python experiments/analysis/tails.py results/cnn_laptop results/pinn_laptop --published

alpha is the exponent of a power law fitted to the inverse lengths of steps at a small loss: the smaller, the wider the
lengths are spread. `CNN/train_trajectories.py` records them while it trains, `PINN/diagnose.py steps` for finished
runs. Writes tails.png and .pdf, tails.csv (a line a run) and tails_means.csv (a line a learning rate of a series, over
its seeds) into the first folder (see --out), and prints both tables.

Exit code: 0 drawn, 1 no run with a fitted exponent, 2 bad input.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NoReturn

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

if __package__ in (None, ""):  # run as a script: the package lies one folder up
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from analysis import collect, labels, style
from analysis.collect import AxisValue, Run, axis_order
from analysis.seeds import align

SCHEMA = 1
# The 24 ResNet-18 points of the published figure, read from its vector graphics: lowest, median, highest.
PUBLISHED = (1.72, 2.17, 2.83)
NOTE = ("The standard error takes the lengths for independent and the beginning of the tail for given: differences\n"
        "below about twice it mean nothing. alpha measures how widely lengths are spread, whether or not their tail\n"
        "is a power law: compare log-sd and KS; and steps of different units are not the same thing.")
# Colour and marker of the published figure's series, and of further ones: 6 colours and 7 markers make 42 pairs.
RESNET, PINN = ("#7B3294", "*"), {5.0: ("#E69F00", "s"), 20.0: ("#009E73", "o")}
COLORS, MARKERS = ("#0072B2", "#D55E00", "#666666", "#CC79A7", "#56B4E9", "#882255"), "D^vPXh<"


@dataclass(frozen=True)
class Tail:
    """The fitted exponent of one run, and which run that is; numbers that could not be had are NaN."""

    model: str
    system: str
    strategy: str
    physical_name: str
    physical_value: AxisValue
    data_name: str
    data_value: AxisValue
    lr: float
    seed: int
    alpha: float
    error: float  # standard error of alpha
    distance: float  # Kolmogorov-Smirnov, between tail and fit
    count: int  # lengths in the tail
    steps: int  # lengths recorded
    log_sd: float  # of the lengths
    unit: str  # what a step is
    loss: float  # at which recording was to begin
    reached: bool  # whether that loss was
    path: str
    series: str = ""  # to which it belongs, in words; see `with_series`

    @property
    def words(self) -> str:
        """Of which runs it is one: "PINN, convection β = 5, L-BFGS, n = 1000"."""
        system = self.system
        if self.physical_name != "lr":
            name = {"beta": "β", "rho": "ρ", "nu": "ν"}.get(self.physical_name, self.physical_name)
            system += f" {name} = {labels.axis_text(self.physical_value)}"
        strategy = labels.STRATEGIES.get(self.strategy, self.strategy)
        return f"{self.model}, {system}, {strategy}, {self.data_name} = {labels.axis_text(self.data_value)}"

    @property
    def order(self) -> tuple[Any, ...]:
        """Sort key: series by model, system, strategy, axes, loss and unit, in them learning rate and seed."""
        where = self.model, self.system, self.strategy, self.physical_name
        physical = ((), "") if self.physical_name == "lr" else axis_order(self.physical_value)
        return (*where, physical, axis_order(self.data_value), self.loss, self.unit, self.lr, self.seed,
                self.path)


@dataclass(frozen=True)
class Mean:
    """The runs of a series at one learning rate whose exponent was fitted; `sd` over the seeds, NaN for one."""

    series: str
    lr: float
    seeds: int
    reached: int  # how many of them came to the loss at which recording was to begin
    alpha: float
    sd: float
    log_sd: float


def read_tail(folder: Path) -> Tail:
    """Return what steps.json and metrics.json of a run folder say.

    Raises:
        ValueError: one of them is missing, not strict JSON, or lacks something; the message says which file.
    """
    texts = {}
    for name in ("steps.json", "metrics.json"):
        try:
            texts[name] = (folder / name).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            reason = "the run is not finished" if isinstance(error, FileNotFoundError) else error
            raise ValueError(f"{name}: {reason}") from None
    try:
        run = collect.parse_run(texts["metrics.json"], str(folder))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"metrics.json: {error}") from None
    try:
        return _tail(run, json.loads(texts["steps.json"]))
    except KeyError as error:
        raise ValueError(f"steps.json: key {error} is missing") from None
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"steps.json: {error}") from None


def _tail(run: Run, steps: Any) -> Tail:
    if not isinstance(steps, dict) or steps.get("schema") != SCHEMA:
        raise ValueError(f"not a JSON object with schema {SCHEMA}")
    lr = _number(steps["lr"])
    if not lr > 0:
        raise ValueError(f"lr is {steps['lr']!r}, not a positive number")
    numbers = {name: _number(steps[name]) for name in ("alpha", "error", "distance", "log_sd", "loss")}
    wholes = {name: int(_number(steps[name])) for name in ("count", "steps")}
    names = "model", "system", "strategy", "physical_name", "physical_value", "data_name", "data_value", "seed", "path"
    return Tail(**{name: getattr(run, name) for name in names}, **numbers, **wholes, lr=lr,
                unit=str(steps["unit"]), reached=bool(steps["reached"]))


def _number(value: Any) -> float:
    """Return a JSON number, or NaN for null and for infinities, which strict JSON does not have."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
        raise ValueError(f"{value!r} is not a number")
    return float(value) if value is not None and math.isfinite(value) else math.nan


def find_tails(roots: Iterable[Path]) -> tuple[list[Tail], list[str]]:
    """Return the tails of all run folders below `roots`, each once and in order, and what could not be read."""
    found, problems = [], []
    folders = {path.parent.resolve(): path.parent for root in roots for path in sorted(root.rglob("steps.json"))}
    for folder in folders.values():
        try:
            found.append(read_tail(folder))
        except ValueError as error:
            problems.append(f"left out: {folder}: {error}")
    return with_series(sorted(found, key=lambda tail: tail.order)), problems


def with_series(tails: Iterable[Tail]) -> list[Tail]:
    """Return the tails with their series: one each of model, system, strategy, axes, loss and unit of a step.

    Loss and unit are in the words of a series only where they tell it from another.
    """
    named = [replace(tail, series=tail.words) for tail in tails]
    for name, words in (("loss", "from loss {:g}"), ("unit", "in {}s")):
        values: dict[str, set[object]] = {}
        for tail in named:
            values.setdefault(tail.series, set()).add(getattr(tail, name))
        named = [replace(tail, series=f"{tail.series}, {words.format(getattr(tail, name))}")
                 if len(values[tail.series]) > 1 else tail for tail in named]
    return named


def repeated(tails: Iterable[Tail]) -> tuple[Tail, Tail] | None:
    """Return two tails of one series, learning rate and seed, which must not be averaged as if they were of two seeds.

    None where there are none.
    """
    seen: dict[tuple[str, float, int], Tail] = {}
    for tail in tails:
        other = seen.setdefault((tail.series, tail.lr, tail.seed), tail)
        if other is not tail:
            return other, tail
    return None


def means(tails: Iterable[Tail]) -> list[Mean]:
    """Return the means over the seeds of each series and learning rate, of the runs with a fitted exponent."""
    groups: dict[tuple[str, float], list[Tail]] = {}
    for tail in tails:
        if math.isfinite(tail.alpha):
            groups.setdefault((tail.series, tail.lr), []).append(tail)
    return [
        Mean(series, lr, len(group), sum(tail.reached for tail in group), fmean(tail.alpha for tail in group),
             stdev(tail.alpha for tail in group) if len(group) > 1 else math.nan, fmean(t.log_sd for t in group))
        for (series, lr), group in groups.items()
    ]  # fmt: skip


def format_tables(tails: Sequence[Tail]) -> str:
    """Return a table of the runs, one of the means, and how to read them."""
    head = "model", "system", "strategy", "swept", "data", "lr", "seed", "alpha", "KS", "tail", "log-sd", "reached"
    rows = [
        (tail.model, tail.system, tail.strategy,
         "" if tail.physical_name == "lr" else f"{tail.physical_name}={labels.axis_text(tail.physical_value)}",
         f"{tail.data_name}={labels.axis_text(tail.data_value)}", f"{tail.lr:g}", str(tail.seed),
         f"{tail.alpha:.2f} +- {tail.error:.2f}" if math.isfinite(tail.alpha) else "none",
         _fixed(tail.distance, 3), f"{tail.count} of {tail.steps}", _fixed(tail.log_sd, 2),
         f"{tail.loss:g}" if tail.reached else f"not {tail.loss:g}")
        for tail in tails
    ]  # fmt: skip
    lines = align([head, *rows], left=5)
    lines += ["", "means over seeds, with the standard deviation over seeds"]
    averages = [(m.series, f"{m.lr:g}", f"{m.alpha:.2f}", _fixed(m.sd, 2), f"{m.log_sd:.2f}",
                 f"{m.reached} of {m.seeds}") for m in means(tails)]
    lines += align([("series", "lr", "alpha", "sd", "log-sd", "reached"), *averages], left=1)
    return "\n".join([*lines, "", NOTE])


def _fixed(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "."


def write_csv(rows: Sequence[Tail] | Sequence[Mean], path: Path) -> None:
    """Write a line a row, all digits, atomically; numbers that are not there are `nan`."""
    with collect.atomic(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(rows[0])])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def looks(tails: Sequence[Tail]) -> dict[str, tuple[str, str]]:
    """Return colour and marker by series, of ordered tails: the published ones, each once, else further ones.

    Of several series that could have a published look, the one with the most data and the largest loss gets it.
    """
    chosen: dict[str, tuple[str, str]] = {}
    further = zip(itertools.cycle(COLORS), itertools.cycle(MARKERS))
    for tail in reversed(tails):
        if tail.series in chosen:
            continue
        look = None
        if (tail.model, tail.system, tail.strategy) == ("ResNet18", "cifar10", "trajectory"):
            look = RESNET
        elif (tail.model, tail.system, tail.physical_name, tail.strategy) == ("PINN", "convection", "beta", "lbfgs"):
            look = PINN.get(tail.physical_value)
        chosen[tail.series] = next(further) if look is None or look in chosen.values() else look
    return chosen


def draw(tails: Sequence[Tail], published: bool = False) -> Figure:
    """Return alpha against the learning rate: a point a run with its standard error, lines through means over seeds.

    Open points: the loss at which recording was to begin was not reached. `published` adds the range and the median of
    the paper's ResNet-18 points.
    """
    shown, averages = [tail for tail in tails if math.isfinite(tail.alpha)], means(tails)
    figure = Figure(figsize=(style.WIDTH, 3.4), layout="constrained")
    axes = figure.subplots()
    handles = []
    for series, (color, marker) in looks(shown).items():
        for tail in shown:
            if tail.series == series:
                face = color if tail.reached else "white"
                axes.errorbar(tail.lr, tail.alpha, tail.error, color=color, marker=marker, markerfacecolor=face,
                              markersize=6 if marker == "*" else 4, markeredgewidth=0.6, elinewidth=0.6, capsize=1.5)
        line = [(mean.lr, mean.alpha) for mean in averages if mean.series == series]
        axes.plot(*zip(*line), color=color, linewidth=0.8, zorder=1)
        handles.append(Line2D([], [], color=color, marker=marker, markersize=6 if marker == "*" else 4, label=series))
    if not all(tail.reached for tail in shown):
        handles.append(Line2D([], [], color="0.4", marker="o", markerfacecolor="white", linestyle="",
                              label="open: loss not reached"))
    if published:
        low, middle, high = PUBLISHED
        handles.append(axes.axhspan(low, high, color="0.88", zorder=0, linewidth=0,
                                    label=f"published ResNet-18 points: {low} to {high}, median {middle}"))
        axes.axhline(middle, color="0.6", linewidth=0.8, zorder=0)
    axes.set(xlabel=labels.axis_label("lr"), ylabel=r"tail exponent $\alpha$ of inverse step lengths")
    axes.set_ylim(bottom=1)
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    return figure


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Exit 2 with one line: the flag and what it allows, without the usage text."""
        self.exit(2, f"tails.py: error: {message.removeprefix('argument ')}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; bad input exits with code 2 before anything is written."""
    parser = _Parser(description="Tail exponents of step lengths against the learning rate.", allow_abbrev=False)
    add = parser.add_argument
    add("results", type=Path, nargs="+", metavar="RESULTS", help="results folders")
    add("--out", type=Path, help="picture, ending in .png, with a PDF and the tables beside it; default: "
        "tails.png in the first RESULTS")  # fmt: skip
    add("--published", action="store_true", help="show the range of the paper's ResNet-18 points")
    args = parser.parse_args(argv)
    for root in args.results:
        if not root.is_dir():
            parser.error(f"RESULTS: no such folder: {root}")
    picture: Path = args.out or args.results[0] / "tails.png"
    if picture.suffix != ".png":
        parser.error(f"--out: {str(picture)!r} must end in .png")
    tails, problems = find_tails(args.results)
    for problem in problems:
        print(f"tails.py: {problem}", file=sys.stderr)
    if not any(math.isfinite(tail.alpha) for tail in tails):
        where = " ".join(map(str, args.results))
        print(f"tails.py: no run with a fitted exponent below {where} ({len(tails)} without, {len(problems)} left out)",
              file=sys.stderr)
        return 1
    if twice := repeated(tails):
        parser.error(f"RESULTS: the same series, learning rate and seed twice: {twice[0].path} and {twice[1].path}")
    try:
        tables = [picture.with_suffix(".csv"), picture.with_name(f"{picture.stem}_means.csv")]
        write_csv(tails, tables[0])
        write_csv(means(tails), tables[1])
        with style.in_print():
            written = style.save(draw(tails, args.published), picture.with_suffix(""))
    except OSError as error:
        parser.error(f"--out: cannot write {error.filename}: {error.strerror}")
    print(f"wrote {', '.join(map(str, [*tables, *written]))}\n")
    print(format_tables(tails))
    return 0


if __name__ == "__main__":
    sys.exit(main())
