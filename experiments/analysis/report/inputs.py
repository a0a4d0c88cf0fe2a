"""What a results folder holds, for the report: runs, failures, what should be there, configurations, times.

    results = read(Path("results/pinn_laptop"))        # or a results.csv, which has the finished runs alone

A run folder is in one state: finished (metrics.json), unreadable (a metrics.json that is not one), failed
(failed.json), unfinished (config.json alone), missing (expected and not there). What is expected stands in tasks.sh;
where that is absent or names no run folders, the full grid of the values and seeds found is taken instead. Files that
are none of these are passed over.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from analysis import collect, tasks
from analysis.collect import AxisValue, Run
from analysis.tasks import Task

AxisTexts = dict[tuple[str, str], AxisValue]  # (sweep folder, text in the path) -> axis value
LOG_LINES = 25


@dataclass(frozen=True)
class Failure:
    """A run that raised: its folder, the error in one line, and the traceback ("" if the file has none)."""

    path: str
    error: str
    traceback: str


@dataclass(frozen=True)
class Missing:
    """A run without a result. `sweep`: its map in words, or the folder of the sweep when nothing of it has finished."""

    sweep: str
    physical_name: str
    physical: AxisValue
    data_name: str
    data: AxisValue
    seed: int
    path: str  # "" where no task names its folder


@dataclass
class Results:
    """All that the report shows, read once. Paths are relative to `root`."""

    root: Path
    name: str
    is_table: bool = False
    runs: list[Run] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    tasks: list[Task] = field(default_factory=list)
    expected: list[str] = field(default_factory=list)  # [] where no task says
    missing: list[Missing] = field(default_factory=list)  # expected and in no state at all
    without_result: list[Missing] = field(default_factory=list)  # these, and those that began but have not finished
    configs: dict[str, dict[str, str]] = field(default_factory=dict)  # path -> argument -> JSON text
    environments: dict[str, dict[str, str]] = field(default_factory=dict)
    began: float | None = None  # seconds since 1970: the first config.json
    ended: float | None = None  # the last metrics.json, or the table
    notes: list[str] = field(default_factory=list)

    def log_tail(self, task: Task) -> str:
        """Return the last lines of a task's log, "" if there is none."""
        return "\n".join(tasks.log_tail(self.root / "logs" / f"{task.file_name}.log", LOG_LINES))

    def task_of(self, path: str) -> Task | None:
        """Return the task that fills a run folder."""
        return next((task for task in self.tasks if path in task.runs), None)


def read(path: Path) -> Results:
    """Read a results folder, or a results.csv.

    Raises:
        ValueError: no such folder or table, a table that `collect` did not write, or nothing in it.
    """
    if path.is_file():
        results = _read_table(path)
    elif path.is_dir():
        results = _read_folder(path)
    else:
        raise ValueError(f"no such folder or results.csv: {path}")
    if not (results.runs or results.expected or results.failures or results.unfinished):
        hint = f"; give {path / 'results.csv'} for the table there" if (path / "results.csv").is_file() else ""
        raise ValueError(f"neither a run folder nor a tasks.sh that expects any below {path}{hint}")
    return results


def sweep_folder(path: str) -> str:
    """Return the part of a run folder's path that all runs of a map share: without physical, data and seed."""
    return "/".join(PurePosixPath(path).parts[:-3]) or "other folders"


def map_name(run: Run) -> str:
    """Return "PINN convection lbfgs": the name of a run's map."""
    return f"{run.model} {run.system} {run.strategy}"


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested settings by dotted names as text: {"options": {"mu": 1}} is {"options.mu": "1"}."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value, str) else json.dumps(value)
    return flat


def _read_table(path: Path) -> Results:
    try:
        runs = collect.read_csv(path)
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} is not a table written by maps.py: {error}") from None
    results = Results(path.parent, f"{path.resolve().parent.name}/{path.name}", is_table=True, runs=runs)
    results.ended = path.stat().st_mtime
    results.missing = results.without_result = holes(runs)
    return results


def _read_folder(path: Path) -> Results:
    found = collect.collect(path)
    results = Results(path, path.resolve().name, runs=found.runs, unreadable=found.corrupt)
    results.failures = _failures(path)
    failed = {failure.path for failure in results.failures}
    results.unfinished = [name for name in found.unfinished if name not in failed]
    try:
        results.tasks, _ = tasks.read_tasks(path / "tasks.sh")
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:  # UnicodeDecodeError is a ValueError
        results.notes.append(f"tasks.sh cannot be read: {error}")
    results.expected = tasks.expected_runs(results.tasks)
    begun = [*failed, *results.unfinished, *(str(PurePosixPath(name).parent) for name, _ in found.corrupt)]
    absent = [path for path in results.expected if path not in {run.path for run in found.runs}.union(begun)]
    begun_runs = [run for run in _from_paths(results, begun) if run.physical_name]
    if results.expected:
        results.missing = _from_paths(results, absent)
    else:
        known = {replace(run, path="") for run in begun_runs}
        results.missing = [run for run in holes(found.runs) if run not in known]
    results.without_result = begun_runs + results.missing
    _read_documents(results)
    return results


def _failures(root: Path) -> list[Failure]:
    found = []
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        if "failed.json" not in files or "metrics.json" in files:
            continue
        note, reason = _json(Path(folder) / "failed.json")
        error = str(note.get("error") or reason or "no error text in failed.json")
        path = Path(folder).relative_to(root).as_posix()
        found.append(Failure(path, error, str(note.get("traceback") or "")))
    return found


def _read_documents(results: Results) -> None:
    """Read configuration, environment and times of all run folders."""
    began, ended = [], []
    for run in results.runs:
        document, _ = _json(results.root / run.path / "metrics.json")
        for key, kept in (("environment", results.environments), ("config", results.configs)):
            if isinstance(document.get(key), dict):
                kept[run.path] = flatten(document[key])
        ended.append(_written(results.root / run.path / "metrics.json"))
    begun = [*results.unfinished, *(failure.path for failure in results.failures)]
    runs = [run.path for run in results.runs] + [path for path in begun if tasks.parse_cell(path)]  # no alien folders
    for path in runs:
        file = results.root / path / "config.json"
        config, reason = _json(file)
        if not reason:
            results.configs[path] = flatten(config)
            began.append(_written(file))
    results.began, results.ended = min(filter(None, began), default=None), max(filter(None, ended), default=None)


def _written(path: Path) -> float | None:
    """Return when a file was written, in seconds since 1970; None if it has gone meanwhile (a sweep is running)."""
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def _json(path: Path) -> tuple[dict[str, Any], str]:
    """Return a JSON object, or {} and why it cannot be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        return {}, f"{path.name} cannot be read: {error}"
    return (content, "") if isinstance(content, dict) else ({}, f"{path.name} is not a JSON object")


def _from_paths(results: Results, paths: Iterable[str]) -> list[Missing]:
    """Return what the paths of run folders say, in the words and axis values of the finished runs beside them."""
    names = {sweep_folder(run.path): map_name(run) for run in results.runs}
    physical, data = axis_texts(results.runs)
    missing = []
    for path in paths:
        cell = tasks.parse_cell(path)
        if cell is None:
            missing.append(Missing(path, "", "", "", "", 0, path))
            continue
        place = sweep_folder(path)
        at = physical.get((place, cell.physical_value), collect.axis_value(cell.physical_value))
        amount = data.get((place, cell.data_value), collect.axis_value(cell.data_value))
        name = names.get(place, place)
        missing.append(Missing(name, cell.physical_name, at, cell.data_name, amount, cell.seed, path))
    return missing


def axis_texts(runs: Iterable[Run]) -> tuple[AxisTexts, AxisTexts]:
    """Return what the values in the paths of runs stand for, physical and data."""
    physical: AxisTexts = {}
    data: AxisTexts = {}
    for run in runs:
        if cell := tasks.parse_cell(run.path):
            physical[sweep_folder(run.path), cell.physical_value] = run.physical_value
            data[sweep_folder(run.path), cell.data_value] = run.data_value
    return physical, data


def holes(runs: Iterable[Run]) -> list[Missing]:
    """Return what the full grid of values and seeds of each map lacks."""
    maps: dict[str, list[Run]] = {}
    for run in runs:
        maps.setdefault(map_name(run), []).append(run)
    missing = []
    for name, chosen in sorted(maps.items()):
        there = {(run.physical_value, run.data_value, run.seed) for run in chosen}
        axes = [sorted({run.physical_value for run in chosen}, key=collect.axis_order),
                sorted({run.data_value for run in chosen}, key=collect.axis_order),
                sorted({run.seed for run in chosen})]  # fmt: skip
        first = chosen[0]
        for physical, data, seed in itertools.product(*axes):
            if (physical, data, seed) not in there:
                missing.append(Missing(name, first.physical_name, physical, first.data_name, data, seed, ""))
    return missing
