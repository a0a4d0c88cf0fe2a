"""What diagnose.py and training leave in run folders for the figures of landscapes, arranged by panel.

    cases, problem = ask(6, "laptop")              the runs that the figure wants, asked of landscapes.sh
    found, left_out = read(cases, runs, figure_density.read)

A case is a panel: one cell (model, system, strategy, physical value, data amount) with the seeds that are wanted there.
Runs of other seeds are taken as well.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from analysis import labels
from analysis.collect import AxisValue, Run, axis_value
from analysis.expected import EXPERIMENTS, print_tasks
from analysis.tasks import Cell, expected_runs, parse_cell, parse_line

SCRIPT = "landscapes.sh"
SYMBOLS = {"beta": "β", "rho": "ρ", "lr": "η", "k": "K", "psi": "Ψ"}
Found = TypeVar("Found")
# What reading a file raises that holds something else than it should: null for a number, a list for an object ...
MALFORMED = OSError, ValueError, TypeError, LookupError, AttributeError, OverflowError


@dataclass(frozen=True)
class Case:
    """One panel: a cell, and the seeds that are wanted there."""

    letter: str
    model: str
    system: str
    strategy: str
    physical_name: str
    physical: AxisValue
    data_name: str
    data: AxisValue
    seeds: tuple[int, ...]
    network: str = ""  # of an FNO: fno_64K

    def holds(self, run: Run, folder: Path) -> bool:
        """Whether a run is one of this cell, of any seed; not an FNO of another size, as far as its folder tells."""
        return self.cell == cell_of(run) and (not self.network or network_of(folder) in ("", self.network))

    @property
    def cell(self) -> tuple[Any, ...]:
        """What tells the cell from others."""
        return (self.model, self.system, self.strategy, self.physical_name, self.physical, self.data_name, self.data)

    @property
    def title(self) -> str:
        """The cell in words: "PINN, $N_f$ = 100, β = 5"."""
        data = "$N_f$" if self.model == "PINN" else self.data_name
        physical = SYMBOLS.get(self.physical_name, self.physical_name)
        return f"{self.model}, {data} = {labels.axis_text(self.data)}, {physical} = {labels.axis_text(self.physical)}"

    @property
    def name(self) -> str:
        """The title as plain text."""
        return self.title.replace("$", "")

    @property
    def map_name(self) -> str:
        """The map or series that the cell is of: "PINN, reaction_diffusion, L-BFGS"."""
        return f"{self.model}, {self.system}, {labels.STRATEGIES.get(self.strategy, self.strategy)}"


def cell_of(run: Run) -> tuple[Any, ...]:
    """Return what tells a run's cell from others."""
    return (run.model, run.system, run.strategy, run.physical_name, run.physical_value, run.data_name, run.data_value)


def network_of(folder: Path) -> str:
    """Return the folder that FNO names after the size of the network, fno_64K; "" where there is none."""
    return next((part for part in reversed(folder.parts) if part.startswith("fno_") and part != "fno_"), "")


@dataclass(frozen=True)
class Panel(Generic[Found]):
    """A case and what was read of its runs, by seed; the wanted seeds come first."""

    case: Case
    found: tuple[Found, ...]

    @property
    def first(self) -> Found | None:
        """What is drawn where a panel shows one run."""
        return self.found[0] if self.found else None


def run_of(found: Any) -> Any:
    """Return what tells the seed of something that was read: its run, or itself."""
    return getattr(found, "run", found)


def missing_in(panels: Iterable[Panel[Any]]) -> str:
    """Return how many of the wanted seeds have nothing, in words; "" where none is missing. Other seeds stand in."""
    panels = list(panels)
    gone = sum(max(0, len(panel.case.seeds) - len(panel.found)) for panel in panels)
    return f"{gone} of {sum(len(panel.case.seeds) for panel in panels)} runs are missing" if gone else ""


def ask(number: int, scale: str, experiments: Path = EXPERIMENTS) -> tuple[list[Case], str]:
    """Return the panels of a figure at a scale as `landscapes.sh` would fill them, or what it complains of."""
    lines, problem = print_tasks(SCRIPT, {"FIGURE": str(number), "SCALE": scale}, experiments)
    seeds: dict[tuple[Any, ...], list[int]] = {}
    for run in expected_runs(filter(None, map(parse_line, lines))):
        if cell := parse_cell(run):
            seeds.setdefault(_cell(run, cell), []).append(cell.seed)
    cases = [Case(letter, *cell, tuple(found), network)
             for letter, ((*cell, network), found) in zip(_letters(), seeds.items())]  # fmt: skip
    return cases, problem or ("" if cases else f"{SCRIPT} names no run folder for FIGURE={number}")


def _letters() -> Iterable[str]:
    """Yield a, b, ..., and no letter beyond z: maps have more cells."""
    yield from "abcdefghijklmnopqrstuvwxyz"
    while True:
        yield ""


def _cell(path: str, cell: Cell) -> tuple[Any, ...]:
    """Return the fields of a case but its seeds; the model is told by the folder above the system's."""
    above = path.split(f"{cell.system}/{cell.strategy}/")[0].rstrip("/").rpartition("/")[2]
    model = "FNO" if above.startswith("fno") else above.replace("resnet", "ResNet") if "resnet" in above else "PINN"
    return (model, cell.system, cell.strategy, cell.physical_name, axis_value(cell.physical_value), cell.data_name,
            axis_value(cell.data_value), network_of(Path(above)))  # fmt: skip


def read(
    cases: Sequence[Case], runs: Iterable[tuple[Run, Path]], reader: Callable[[Run, Path], Found]
) -> tuple[list[Panel[Found]], list[str]]:
    """Return the panels with what `reader` makes of the runs of each, and what it could not read.

    A reader raises FileNotFoundError for a run that was not looked at, which is left out without a word, and another
    exception for a file that cannot be read or is not as it should be. Of several runs of one seed the first counts.
    """
    panels, problems = [], []
    runs = list(runs)
    for case in cases:
        found: dict[int, Found] = {}
        for run, folder in runs:
            if not case.holds(run, folder) or run.seed in found:
                continue
            try:
                found[run.seed] = reader(run, folder)
            except FileNotFoundError:
                continue
            except MALFORMED as error:
                reason = f"{error} is missing" if isinstance(error, KeyError) else error
                problems.append(f"left out: {folder}: {reason}")
        order = sorted(found, key=lambda seed: (seed not in case.seeds, seed))
        panels.append(Panel(case, tuple(found[seed] for seed in order)))
    return panels, problems


# ---- files -------------------------------------------------------------------------------------------------------


def read_json(path: Path, tool: str) -> dict[str, Any]:
    """Return the result file of a tool.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not a result of this tool; the message names the file.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from None
    if not isinstance(content, dict) or (content.get("schema"), content.get("tool")) != (1, tool):
        raise ValueError(f"{path.name}: not a result of {tool} with schema 1")
    return content


def read_arrays(path: Path, *needed: str) -> dict[str, np.ndarray]:
    """Return the arrays of an .npz file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not such a file, or lacks an array.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path.name}: {error}") from None
    except Exception as error:  # zipfile.BadZipFile, zlib.error ...
        if isinstance(error, OSError):
            raise
        raise ValueError(f"{path.name}: {error}") from None
    if missing := [name for name in needed if name not in arrays]:
        raise ValueError(f"{path.name}: arrays are missing: {', '.join(missing)}")
    return arrays


def read_history(path: Path) -> list[dict[str, str]]:
    """Return the rows of a history.csv.

    Raises:
        OSError: it cannot be read.
    """
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def real(value: Any) -> float:
    """Return a JSON number as a float, null as NaN.

    Raises:
        ValueError: it is neither.
    """
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{value!r} is not a number")
    return float(value)
