"""Run folders -> one long table (a row a run) -> seed-averaged grids.

A finished run is a folder with a `metrics.json`; one with a `config.json` alone is unfinished.
Everything is read from the JSON's own keys, never from the path.

    found = collect(Path("results"))
    write_csv(found.runs, Path("results.csv"))
    train = build_grid(found.runs, "train_loss", system="convection", strategy="lbfgs")
"""

from __future__ import annotations

import csv
import json
import logging
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

log = logging.getLogger(__name__)

SCHEMA = 1
AxisValue = float | str  # a number, or text for a range such as "1-2.5"
TEXTS = ("module", "model", "system", "strategy")
NUMBERS = ("train_loss", "test_error", "iterations", "evaluations", "seconds")
COLUMNS = (
    *TEXTS, "physical_name", "physical_value", "data_name", "data_value", "seed",
    "status", "stop_reason", *NUMBERS, "path",
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One finished run: the row of `results.csv`. Null numbers are NaN; `path` is relative."""

    module: str
    model: str
    system: str
    strategy: str
    physical_name: str
    physical_value: AxisValue
    data_name: str
    data_value: AxisValue
    seed: int
    status: str
    stop_reason: str
    train_loss: float
    test_error: float
    iterations: float
    evaluations: float
    seconds: float
    path: str
    metrics: dict[str, float | str] = field(default_factory=dict)

    def value(self, metric: str) -> float | None:
        """Return a number by column name, e.g. "train_loss" or "metrics.lambda_max".

        None if the run did not measure it; NaN if it did and the value was not finite.
        """
        if metric in NUMBERS:
            return float(getattr(self, metric))
        value = self.metrics.get(metric.removeprefix("metrics."))
        return value if isinstance(value, float) else None


@dataclass(frozen=True)
class Collection:
    """What a results folder holds: finished runs, unfinished folders, unreadable files."""

    root: Path
    runs: list[Run]
    unfinished: list[str]
    corrupt: list[tuple[str, str]]


@dataclass(frozen=True)
class Grid:
    """Seed-averaged values of one metric; rows are data amounts, columns physical values.

    All arrays have shape (len(data), len(physical)), both axes ascending.

    Paper D.4 keeps every run in the seed average, diverged ones included. A diverged run that ended
    with a finite value is averaged like any other. One without a finite value makes the average
    infinite, so `values` (used for thresholds, boundaries and labels) is inf there: dropping the
    seed would report a cell as solved because its worst run left no number. Colour needs a number,
    so `shown` is the mean over the finite seeds (NaN if there are none), and maps mark the cell
    with its count of `diverged` runs.
    """

    model: str
    system: str
    strategy: str
    metric: str
    physical_name: str
    data_name: str
    physical: list[AxisValue]
    data: list[AxisValue]
    values: np.ndarray  # seed average; inf where a seed has no finite value, NaN where no run is
    shown: np.ndarray  # mean over the finite seeds; NaN where there is none
    count: np.ndarray  # runs in the cell, diverged ones included
    diverged: np.ndarray  # runs recorded as diverged, or without a finite value


def axis_value(value: Any) -> AxisValue:
    """Return a swept value as a float, or as text: a range [1, 2.5] becomes "1-2.5".

    Raises:
        ValueError: the value is a number that is not finite.
    """
    if isinstance(value, (list, tuple)):
        return "-".join(f"{v:g}" if isinstance(v, (int, float)) else str(v) for v in value)
    if value is None:
        return "none"
    try:
        number = float(value)
    except (TypeError, ValueError):
        return str(value)
    if not math.isfinite(number):
        raise ValueError(f"a swept value is {value!r}")
    return number


def axis_order(value: AxisValue) -> tuple[tuple[float, ...], str]:
    """Sort key: numbers by size, ranges by the numbers in them, other text alphabetically."""
    if isinstance(value, float):
        return (value,), ""
    found = re.findall(r"\d+(?:\.\d+)?(?:[eE][-+]?\d+)?", value)
    return tuple(float(v) for v in found) or (math.inf,), value


def parse_run(text: str, path: str) -> Run:
    """Read the text of one `metrics.json`.

    Raises:
        ValueError: not strict JSON (NaN and Infinity included), another schema, or a key is missing,
            of the wrong type or too large for a number; the message says which.
        RecursionError: lists or objects are nested hundreds deep.
    """
    data = json.loads(text, parse_constant=_refuse_constant)
    if not isinstance(data, dict):
        raise ValueError("not a JSON object")
    if data.get("schema") != SCHEMA:
        raise ValueError(f"schema is {data.get('schema')!r}, not {SCHEMA}")
    try:
        names = {key: str(data[key]) for key in (*TEXTS, "status")}
        axes = {
            f"{axis}_{part}": convert(data[axis][part])
            for axis in ("physical", "data")
            for part, convert in (("name", str), ("value", axis_value))
        }
        numbers = {key: _number(data[key]) for key in NUMBERS[:2]}
        seed = int(data["seed"])
        numbers |= {key: _number(data.get(key)) for key in NUMBERS[2:]}
        metrics = _flatten(data.get("metrics") or {})
    except KeyError as error:
        raise ValueError(f"key {error} is missing") from None
    except (TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"a key has the wrong type: {error}") from None
    stop_reason = str(data.get("stop_reason") or "")
    return Run(**names, **axes, **numbers, seed=seed, path=path, stop_reason=stop_reason, metrics=metrics)


def collect(results: Path) -> Collection:
    """Read every run folder below `results`, in the order of the paths.

    Unreadable `metrics.json` files are logged as warnings, listed in `corrupt` and left out.

    Raises:
        NotADirectoryError: `results` is not a folder.
    """
    if not results.is_dir():
        raise NotADirectoryError(f"no such folder: {results}")
    found = Collection(results, [], [], [])

    def unreadable(path: str, reason: object) -> None:
        log.warning("warning: skipped %s: %s", path, reason)
        found.corrupt.append((path, str(reason)))

    def unreadable_folder(error: OSError) -> None:
        unreadable(os.path.relpath(error.filename, results), error.strerror)

    for folder, subfolders, files in os.walk(results, onerror=unreadable_folder):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        path = Path(folder).relative_to(results).as_posix()
        if "metrics.json" in files:
            try:
                text = (Path(folder) / "metrics.json").read_text(encoding="utf-8")
                found.runs.append(parse_run(text, path))
            except (ValueError, OSError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
                unreadable(f"{path}/metrics.json", error)
        elif "config.json" in files:
            found.unfinished.append(path)
    return found


def write_csv(runs: Iterable[Run], path: Path) -> None:
    """Write one row a run, atomically. Null is `nan`; a metric a run does not have is empty."""
    runs = list(runs)
    extra = sorted({name for run in runs for name in run.metrics})
    with atomic(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*COLUMNS, *(f"metrics.{name}" for name in extra)])
        for run in runs:
            fixed = [_cell(getattr(run, name)) for name in COLUMNS]
            writer.writerow([*fixed, *(_cell(run.metrics.get(name)) for name in extra)])


def read_csv(path: Path) -> list[Run]:
    """Read back what `write_csv` wrote, so that a map can be redrawn without the run folders.

    Raises:
        ValueError: a column is missing, or a line cannot be read; the message says which.
    """
    runs = []
    with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets put a mark in front
        reader = csv.DictReader(file)
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"columns are missing: {', '.join(missing)}")
        try:
            for row in reader:
                if None in row or None in row.values():
                    raise ValueError("more or fewer cells than the heading")
                runs.append(_run_from_row(row))
        except (ValueError, csv.Error) as error:
            raise ValueError(f"line {reader.line_num}: {error}") from None
    return runs


def groups(runs: Iterable[Run]) -> list[tuple[str, str, str]]:
    """Return the sorted (model, system, strategy) that occur: one regime map each."""
    return sorted({(run.model, run.system, run.strategy) for run in runs})


def build_grid(
    runs: Iterable[Run],
    metric: str,
    *,
    system: str,
    strategy: str,
    model: str | None = None,
    module: str | None = None,
) -> Grid:
    """Average one metric over the seeds of every cell; see `Grid` for the rule on diverged runs.

    The grid need not be full: cells without a run are NaN with count 0. Grids of the same selection
    share their axes whatever the metric.

    Raises:
        ValueError: nothing matches, the selection mixes models or swept names, or two runs claim
            the same cell and seed (two sweeps in one folder must not be averaged silently).
    """
    wanted = {"system": system, "strategy": strategy, "model": model, "module": module}
    wanted = {key: value for key, value in wanted.items() if value is not None}
    chosen = [run for run in runs if all(getattr(run, k) == v for k, v in wanted.items())]
    if not chosen:
        raise ValueError("no finished run with " + ", ".join(f"{k} {v}" for k, v in wanted.items()))
    _check_one_sweep(chosen)
    physical = sorted({run.physical_value for run in chosen}, key=axis_order)
    data = sorted({run.data_value for run in chosen}, key=axis_order)
    shape = (len(data), len(physical))
    total, finite = np.zeros(shape), np.zeros(shape, int)
    count, diverged = np.zeros(shape, int), np.zeros(shape, int)
    for run in chosen:
        value = run.value(metric)
        if value is None:
            continue
        cell = data.index(run.data_value), physical.index(run.physical_value)
        count[cell] += 1
        diverged[cell] += run.status == "diverged" or not math.isfinite(value)
        if math.isfinite(value):
            total[cell] += value
            finite[cell] += 1
    with np.errstate(invalid="ignore"):
        shown = np.where(finite > 0, total / finite, np.nan)
    values = np.where(finite < count, np.inf, shown)
    first = chosen[0]
    return Grid(
        first.model, system, strategy, metric, first.physical_name, first.data_name,
        physical, data, values, shown, count, diverged,
    )  # fmt: skip


def spread(
    values: np.ndarray, old: tuple[Sequence[AxisValue], Sequence[AxisValue]],
    new: tuple[Sequence[AxisValue], Sequence[AxisValue]], fill: float,
) -> np.ndarray:  # fmt: skip
    """Return values (rows, columns) on larger axes (data, physical), `fill` in the cells that they did not have.

    Raises:
        ValueError: a value of the old axes is not among the new ones.
    """
    larger = np.full(tuple(map(len, new)), fill, values.dtype)
    larger[np.ix_(*([after.index(value) for value in before] for before, after in zip(old, new)))] = values
    return larger


def widen(grid: Grid, physical: Iterable[AxisValue], data: Iterable[AxisValue]) -> Grid:
    """Return the grid with further values on its axes, whose cells are missing (NaN, count 0)."""
    columns = sorted({*grid.physical, *physical}, key=axis_order)
    rows = sorted({*grid.data, *data}, key=axis_order)
    arrays = {
        name: spread(getattr(grid, name), (grid.data, grid.physical), (rows, columns), empty)
        for name, empty in (("values", np.nan), ("shown", np.nan), ("count", 0), ("diverged", 0))
    }
    return replace(grid, physical=columns, data=rows, **arrays)


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; move it there when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"not strict JSON: {name}")


def _number(value: Any) -> float:
    """Return a JSON number as a float and null as NaN."""
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{value!r} is not a number")
    return float(value)


def _flatten(metrics: dict[str, Any], prefix: str = "") -> dict[str, float | str]:
    """Nested objects become dotted names; booleans 0/1, null NaN, lists their JSON text."""
    flat: dict[str, float | str] = {}
    for key, value in metrics.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        elif value is None or isinstance(value, (int, float)):
            flat[prefix + key] = math.nan if value is None else float(value)
        else:
            flat[prefix + key] = value if isinstance(value, str) else json.dumps(value)
    return flat


def _cell(value: float | str | None) -> str:
    """Return a CSV cell that `float` reads back exactly, without `.0` on whole numbers."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return "" if value is None else str(value)


Parsed = TypeVar("Parsed")


def _run_from_row(row: dict[str, str]) -> Run:
    def columns(names: Iterable[str], convert: Callable[[str], Parsed]) -> dict[str, Parsed]:
        return {name: convert(row[name]) for name in names}

    metrics: dict[str, float | str] = {}
    for name, text in row.items():
        if name not in COLUMNS and text:
            try:
                metrics[name.removeprefix("metrics.")] = float(text)
            except ValueError:
                metrics[name.removeprefix("metrics.")] = text
    return Run(
        **columns((*TEXTS, "physical_name", "data_name", "status", "stop_reason", "path"), str),
        **columns(("physical_value", "data_value"), axis_value),
        **columns(NUMBERS, float), seed=int(row["seed"]), metrics=metrics,
    )  # fmt: skip


def _check_one_sweep(runs: list[Run]) -> None:
    for name in ("model", "physical_name", "data_name"):
        found = sorted({getattr(run, name) for run in runs})
        if len(found) > 1:
            raise ValueError(f"one map cannot mix {name} {', '.join(found)}")
    seen: dict[tuple[Any, ...], str] = {}
    for run in runs:
        key = (run.physical_value, run.data_value, run.seed)
        if key in seen:
            raise ValueError(f"same cell and seed twice: {seen[key]} and {run.path}")
        seen[key] = run.path
