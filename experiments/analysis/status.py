"""How a sweep stands: every run that its tasks.sh asks for, by cell of the maps.

    python experiments/analysis/status.py results/pinn_paper

A run is done (or diverged, which is a result) when its folder has a whole metrics.json. Else it is what its task is:
running or queued, by SLURM's queue, the pool's note in logs/LABEL.status and the claim in the run folder; or failed
(failed.json, or an exit code of the task that says so), interrupted (its checkpoint is kept) or missing.

Exit code: 0 all done, 75 not yet, but the rest runs or waits in the queue, 1 not all done, 2 bad input.
Standard library only, so that any Python can run it.
"""

from __future__ import annotations

import argparse
import getpass
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

if __package__ in (None, ""):  # run as a script: the package lies one folder up
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from analysis.tasks import Cell, Task, log_tail, parse_cell, read_tasks

STATES = ("done", "diverged", "running", "queued", "failed", "interrupted", "missing")
LETTERS = {"diverged": "d", "running": "r", "queued": "q", "failed": "F", "interrupted": "i", "missing": "m"}
FINISHED = ("done", "diverged")
WORKED_ON = ("running", "queued")
HEARTBEAT = 20.0  # seconds between the signs of life that a training process gives in the claim of its run
LOG_LINES, LOGS = 5, 10  # of each failed task, and of how many


@dataclass(frozen=True)
class TaskState:
    """How a task stands: running, queued, ended (with a code), gone (without one) or new; `job` is SLURM's number."""

    name: str
    code: int | None = None
    job: str = ""


def read_queue(results: Path) -> dict[str, TaskState]:
    """Return the tasks that SLURM has, by label; {} where nothing was submitted.

    Raises:
        OSError: jobs were submitted but the queue cannot be read.
    """
    folder = results / "logs" / "slurm"
    if not (folder / "jobs").exists():
        return {}
    command = ["squeue", "-h", "-r", "-u", getpass.getuser(), "-o", "%F_%K %T"]
    try:
        out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise OSError(f"jobs were submitted, but squeue does not answer here: {error}") from None
    present = dict(line.split() for line in out.splitlines())
    queue = {}
    for line in (folder / "jobs").read_text().splitlines():
        job, first, count, name = line.split()
        elements = {k: f"{job}_{k}" for k in range(int(count)) if f"{job}_{k}" in present}
        tasks, _ = read_tasks(folder / name) if elements else ([], None)
        for k, element in elements.items():
            state = "running" if present[element] in ("RUNNING", "COMPLETING", "SUSPENDED") else "queued"
            queue[tasks[int(first) + k].label] = TaskState(state, job=element)
    return queue


def task_state(results: Path, task: Task, queue: dict[str, TaskState]) -> TaskState:
    """Return how a task stands, by the queue and by what its last start noted."""
    if task.label in queue:
        return queue[task.label]
    path = results / "logs" / f"{task.file_name}.status"
    try:
        note, noted = path.read_text().partition("\n")[0], path.stat().st_mtime
    except OSError:
        return TaskState("new")
    if found := re.fullmatch(r"exit (\d+)", note):
        return TaskState("ended", int(found[1]))
    if found := re.fullmatch(r"running on (\S+) as (process|job) (\S+)", note):
        host, kind, number = found.groups()
        if kind == "job":
            return TaskState("gone", job=number)
        if host == socket.gethostname() and _is_alive(int(number), noted):
            return TaskState("running")
    return TaskState("gone")


def run_state(folder: Path, task: TaskState) -> str:
    """Return one of STATES for a run folder, which need not exist."""
    result = _read_json(folder / "metrics.json")
    if result is not None:
        return "diverged" if result.get("status") == "diverged" else "done"
    if task.name in WORKED_ON:
        return task.name
    if _is_claimed(folder):
        return "running"
    if (folder / "failed.json").exists() or task.code not in (None, 0, 3, 75):
        return "failed"
    return "interrupted" if (folder / "checkpoint.pt").exists() else "missing"


def format_maps(states: dict[str, str], width: int = 110) -> list[str]:
    """Return a line a map and, where not all is done, its cells: runs done of those wanted, and the others."""
    maps: dict[str, dict[Cell, str]] = {}
    loose = []
    for run, state in states.items():
        cell = parse_cell(run)
        if cell is None:
            loose.append(f"{run}: {state}")
        else:
            maps.setdefault("/".join(run.split("/")[:-3]), {})[cell] = state
    lines = loose
    for name, cells in sorted(maps.items()):
        done = sum(state in FINISHED for state in cells.values())
        lines += ["", f"{name}: {done} of {len(cells)} runs done"]
        if done < len(cells):
            lines += _format_cells(cells, width)
    return lines


def _format_cells(cells: dict[Cell, str], width: int) -> list[str]:
    texts: dict[tuple[str, str], str] = {}
    counts: dict[tuple[str, str], Counter[str]] = {}
    for cell, state in cells.items():
        counts.setdefault((cell.data_value, cell.physical_value), Counter())[state] += 1
    for key, count in counts.items():
        done = sum(count[state] for state in FINISHED)
        others = "".join(f" {LETTERS[state]}{count[state]}" for state in LETTERS if count[state])
        texts[key] = f"{done}/{sum(count.values())}{others}"
    any_cell = next(iter(cells))
    rows = sorted({row for row, _ in texts}, key=_order, reverse=True)
    columns = sorted({column for _, column in texts}, key=_order)
    side = max(len(any_cell.data_name), *map(len, rows)) + 2
    size = max(map(len, [*texts.values(), *columns])) + 2
    lines, a_block = [], max(1, (width - side) // size)
    for start in range(0, len(columns), a_block):
        part = columns[start : start + a_block]
        lines += [f"{row:>{side}}" + "".join(f"{texts.get((row, c), ''):>{size}}" for c in part) for row in rows]
        heads = "".join(f"{column:>{size}}" for column in part)
        lines.append(f"{any_cell.data_name:>{side}}{heads}  {any_cell.physical_name}")
    return lines


def format_failures(
    results: Path, tasks: Iterable[Task], standing: dict[str, TaskState], states: dict[str, str]
) -> list[str]:
    """Return the tasks that failed or ended without all their runs, with the last lines of their logs."""
    lines: list[str] = []
    shown = 0
    for task in tasks:
        left = [run for run in task.runs if states[run] not in FINISHED]
        state = standing[task.label]
        failed = any(states[run] == "failed" for run in left)
        if state.name not in ("ended", "gone") or not left or (state.code == 75 and not failed):
            continue
        words = {0: "ended, but without all its runs", 3: "held by another process", 75: "interrupted"}
        words[None] = "was killed"
        how = words.get(state.code, f"exit code {state.code}") + f", job {state.job}" * bool(state.job)
        lines += ["", f"{task.label}: {how}; {len(left)} of {len(task.runs)} runs not done"]
        for run in left[:3]:
            if failure := _read_json(results / run / "failed.json"):
                lines.append(f"    {run}: {str(failure.get('error') or 'failed.json')[:200]}")
        shown += 1
        if shown > LOGS:
            continue
        logs = [results / "logs" / f"{task.file_name}.log"]
        logs += [results / "logs" / "slurm" / f"{state.job}.out"] * bool(state.job)
        for log in logs:
            lines += [f"  {log}:", *(f"    {line[:200]}" for line in log_tail(log, LOG_LINES) or ["(nothing)"])]
    return lines


def _read_json(path: Path) -> dict[str, object] | None:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def _start_of(pid: int) -> int | None:
    """Return when a process began, in clock ticks since the machine did; None when it is dead."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else int(fields[18])


def _is_alive(pid: int, noted: float) -> bool:
    """Whether the process lives and had begun when it was noted: numbers are used again."""
    start = _start_of(pid)
    if start is None:
        return False
    boot = time.time() - float(Path("/proc/uptime").read_text().split()[0])
    return boot + start / os.sysconf("SC_CLK_TCK") < noted + 2


def _is_claimed(folder: Path) -> bool:
    """Whether a training process has the run: one that lives here, or has given a sign of life of late elsewhere."""
    claim = _read_json(folder / "claim")
    if claim is None:
        return False
    if str(claim.get("host")).partition("/")[0] == socket.gethostname():
        start = _start_of(int(str(claim.get("pid") or 0)))
        return start is not None and str(claim.get("start")).endswith(f" {start}")
    try:
        return time.time() - (folder / "claim").stat().st_mtime < 3 * HEARTBEAT
    except OSError:
        return False


def _order(text: str) -> tuple[int, float, str]:
    try:
        return 0, float(text), text
    except ValueError:
        return 1, 0.0, text


def _found_runs(results: Path) -> list[str]:
    """Return the run folders that are there, for a folder without tasks.sh."""
    found = {path.parent for name in ("metrics.json", "config.json") for path in results.rglob(name)}
    return sorted(path.relative_to(results).as_posix() for path in found if path != results)


def _shortest(path: Path) -> str:
    relative = os.path.relpath(path)
    return shlex.quote(relative if len(relative) < len(str(path)) else str(path))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Exit 2 with one line."""
        self.exit(2, f"status: error: {message.removeprefix('argument ')}\n")


def main() -> int:
    """Print how a results folder stands; see the module for the exit code."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # status.sh ... | head
    parser = _Parser(prog="status", description="How a sweep stands.", allow_abbrev=False,
                     epilog="exit code: 0 all done, 75 the rest runs or is queued, 1 not all done, 2 bad input")
    parser.add_argument("results", type=Path, metavar="RESULTS", help="the OUTDIR of a sweep")
    results = parser.parse_args().results.absolute()
    if not results.is_dir():
        parser.error(f"RESULTS: no such folder: {results}")
    tasks: list[Task] = []
    queue: dict[str, TaskState] = {}
    try:
        if (results / "tasks.sh").exists():
            tasks = [task for task in read_tasks(results / "tasks.sh")[0] if task.runs]
        queue = read_queue(results)
    except OSError as error:
        print(f"warning: {error}; what is queued is shown as missing", file=sys.stderr)
    standing = {task.label: task_state(results, task, queue) for task in tasks}
    states = {run: run_state(results / run, standing[task.label]) for task in tasks for run in task.runs}
    if not tasks:
        states = {run: run_state(results / run, TaskState("new")) for run in _found_runs(results)}
    if not states:
        parser.error(f"RESULTS: no run folder in {results}")

    if not tasks:
        print("no tasks.sh here names runs: these are the ones that were begun")
    count = Counter(states.values())
    counts = ", ".join(f"{count[state]} {state}" for state in STATES if count[state])
    print(f"{results}: {len(tasks)} tasks, {len(states)} runs: {counts}")
    print("\n".join(format_maps(states)))
    if letters := [f"{letter} {name}" for name, letter in LETTERS.items() if count[name]]:
        print(f"\nin the cells: runs done / wanted, of which {', '.join(letters)}")
    if failures := format_failures(results, tasks, standing, states):
        print("\n".join(["", "failed:", *failures[1:]]))
    left = set(states.values()) - set(FINISHED)
    if left - set(WORKED_ON) and tasks:
        script = Path(__file__).resolve().parents[1] / "run_tasks.sh"
        print(f"\nthe rest again: bash {_shortest(script)} {_shortest(results)}")
    return 0 if not left else 75 if left <= set(WORKED_ON) else 1


if __name__ == "__main__":
    sys.exit(main())
