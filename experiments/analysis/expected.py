"""Which runs a figure should have: those that the sweep scripts would make, asked of the scripts themselves.

    LAUNCH=print SCALE=paper PDE=convection OPT=alm bash experiments/sweep_pinn.sh

prints its tasks with their run folders (see analysis/tasks.py), and from these come the cells and seeds. A model whose
sweep script does not exist yet has no expected runs, and its panels stay empty.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis import labels
from analysis.collect import AxisValue, Run, axis_order, axis_value
from analysis.figure_specs import SWEEPS, Panel
from analysis.tasks import expected_runs, parse_cell, parse_line

EXPERIMENTS = Path(__file__).resolve().parents[1]
KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR")  # nothing else of the caller's settings reaches a sweep script
SEVERAL = ("PDE", "SYSTEM")  # variables of sweep scripts that take a list
# Where the commands leave what they make, for those who name their results folders.
DESTINATION = (f"into folders below {EXPERIMENTS.parent / 'results'}, to be named in --results (no run may come twice) "
               "or with OUTDIR=FOLDER into one that is named, which gets only what it lacks")  # fmt: skip
MOST = 12  # missing runs are named one by one up to this many

Key = tuple[AxisValue, AxisValue, int]  # physical value, data value, seed


@dataclass(frozen=True)
class Expected:
    """The runs that a sweep makes for one panel; `problem` says why they are not known ("" if they are)."""

    script: str  # the name of the sweep script
    variables: str  # what chooses the panel's runs: PDE=convection OPT=alm
    keys: frozenset[Key] = frozenset()
    physical_name: str = ""
    data_name: str = ""
    problem: str = ""
    exists: bool = True  # the script

    @property
    def physical(self) -> list[AxisValue]:
        """The swept physical values, ascending."""
        return sorted({key[0] for key in self.keys}, key=axis_order)

    @property
    def data(self) -> list[AxisValue]:
        """The swept data amounts, ascending."""
        return sorted({key[1] for key in self.keys}, key=axis_order)

    def seeds(self, physical: AxisValue, data: AxisValue) -> int:
        """How many runs are expected in a cell."""
        return sum(key[:2] == (physical, data) for key in self.keys)


def ask(panel: Panel, scale: str, experiments: Path = EXPERIMENTS) -> Expected:
    """Return what the panel's sweep script would run at a scale; what goes wrong is told in `problem`."""
    script, variables, _ = SWEEPS[panel.model]
    chosen = variables.format(system=panel.system, strategy=panel.strategy)
    if not (experiments / script).is_file():
        return Expected(script, chosen, problem=f"{panel.model} is not in the repository yet", exists=False)
    settings = dict(word.split("=") for word in chosen.split())
    lines, problem = print_tasks(script, settings | {"SCALE": scale}, experiments)
    cells = [cell for run in expected_runs(filter(None, map(parse_line, lines))) if (cell := parse_cell(run))]
    cells = [cell for cell in cells if (cell.system, cell.strategy) == (panel.system, panel.strategy)]
    if not cells:
        return Expected(script, chosen, problem=problem or f"{script} names no run folder for {chosen}")
    keys = frozenset((axis_value(c.physical_value), axis_value(c.data_value), c.seed) for c in cells)
    return Expected(script, chosen, keys, cells[0].physical_name, cells[0].data_name)


def print_tasks(script: str, settings: Mapping[str, str], experiments: Path) -> tuple[list[str], str]:
    """Return what the script prints with LAUNCH=print, and its complaint ("" if it has none)."""
    requirements = (experiments.parent / "requirements.txt").read_text(encoding="utf-8")
    needed = re.findall(r"^([\w.-]+)==", requirements.partition("# test")[0], re.M)
    environment = {name: os.environ[name] for name in KEPT if name in os.environ}
    # setup.sh takes this Python as checked: to print tasks, nothing has to be imported.
    environment |= {"PYTHON": sys.executable, "CHECKED_PYTHON": " ".join([sys.executable, *needed])}
    try:
        done = subprocess.run(
            ["bash", str(experiments / script)], env=environment | settings | {"LAUNCH": "print"},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return [], f"{script}: {error}"
    if done.returncode:
        return [], f"{script}: {(done.stderr.strip().splitlines() or ['failed without a word'])[-1]}"
    return done.stdout.splitlines(), ""


def found_runs(panel: Panel, runs: Iterable[Run]) -> list[Run]:
    """Return the finished runs of a panel."""
    wanted = panel.model, panel.system, panel.strategy
    return [run for run in runs if (run.model, run.system, run.strategy) == wanted]


def missing_runs(expected: Expected, runs: Iterable[Run]) -> list[Key]:
    """Return the expected runs that are not among the finished ones, sorted as the map's axes."""
    missing = expected.keys - {(run.physical_value, run.data_value, run.seed) for run in runs}
    return sorted(missing, key=lambda key: (axis_order(key[1]), axis_order(key[0]), key[2]))


def format_missing(panel: Panel, expected: Expected, runs: Sequence[Run]) -> list[str]:
    """Return the lines on one panel: "runs there / expected", then what is missing, by run or by row of the map."""
    head = f"  {f'({panel.letter}) ' if panel.letter else ''}{panel.name}: "
    if expected.problem:
        return [head + f"{len(runs)} runs there; expected: not known, {expected.problem}"]
    missing = missing_runs(expected, runs)
    beyond = len(runs) - (len(expected.keys) - len(missing))
    lines = [head + f"{len(expected.keys) - len(missing)} of {len(expected.keys)} runs there"
             + (f", and {beyond} beyond the grid of this scale" if beyond else "")]  # fmt: skip
    names = expected.physical_name, expected.data_name
    if len(missing) == len(expected.keys):
        return lines
    if len(missing) <= MOST:
        return lines + [f"      missing: {_cell(names, key)} seed {key[2]}" for key in missing]
    total = Counter(key[1] for key in expected.keys)
    rows = Counter(key[1] for key in missing).items()
    counts = (f"{labels.axis_text(amount)} ({count} of {total[amount]})" for amount, count in rows)
    return lines + [f"      missing by {names[1]}: {', '.join(counts)}"]


def commands(gaps: Iterable[tuple[Expected, int]], scale: str, experiments: Path = EXPERIMENTS) -> list[str]:
    """Return the commands that make missing runs, as few as will do, each saying how many are missing.

    Args:
        gaps: for each panel what is expected and how many of it is missing; a panel may come twice.
        scale: SCALE of the sweeps.
        experiments: the folder of the sweep scripts.
    """
    found: dict[tuple[str, str], dict[str, tuple[int, int]]] = {}  # script, setting before OPT -> strategy -> counts
    for expected, count in gaps:
        if count and expected.exists:
            where, _, strategy = expected.variables.rpartition("OPT=")
            found.setdefault((expected.script, where.strip()), {})[strategy] = count, len(expected.keys)
    calls: dict[tuple[str, str, tuple[str, ...]], list[tuple[str, int, int]]] = {}
    for (script, where), strategies in found.items():
        name, _, system = where.partition("=")
        # Some scripts take several systems: those that lack the same strategies go into one call.
        call = script, name if name in SEVERAL else where, tuple(strategies)
        gone, total = (sum(counts) for counts in zip(*strategies.values()))
        calls.setdefault(call, []).append((system, gone, total))
    lines = []
    for (script, where, strategies), counts in calls.items():
        words = [_setting(where, [system for system, _, _ in counts])] if where in SEVERAL else [where] * bool(where)
        words += [_setting("OPT", strategies), f"SCALE={scale} bash {shlex.quote(shortest(experiments / script))}"]
        gone, total = (sum(numbers) for numbers in list(zip(*counts))[1:])
        lines.append(f"{' '.join(words)}   # {gone} of {total} runs missing")
    return lines


def _setting(name: str, values: Sequence[str]) -> str:
    return f'{name}="{" ".join(values)}"' if len(values) > 1 else f"{name}={values[0]}"


def shortest(path: Path) -> str:
    """Return the path from the working directory, or from the root where that is shorter."""
    return min(os.path.relpath(path), str(path), key=len)


def _cell(names: tuple[str, str], key: Key) -> str:
    return " ".join(f"{name} {labels.axis_text(value)}" for name, value in zip(names, key))
