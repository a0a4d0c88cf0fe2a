"""The tasks of a results folder (`tasks.sh`): commands, and the run folders that each of them fills.

A line a task, which a shell runs as it is: COMMAND  # LABEL | RUN FOLDERS. Run folders are relative to the results
folder, with lists in braces:

    python .../run_experiment.py --opt lbfgs ...  # wave/lbfgs n_100 | wave/lbfgs/c_{1,4}/n_100/seed_{0,1}

A line `# then: COMMAND` names what draws the results. Standard library only, so that any Python can read it.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

LOG_BYTES = 20_000  # from the end of a log


@dataclass(frozen=True)
class Task:
    """One command, its label, and its run folders relative to the results folder."""

    label: str
    command: str
    runs: tuple[str, ...]

    @property
    def file_name(self) -> str:
        """The label as the name of a file in logs/, without its ending."""
        return re.sub(r"[^A-Za-z0-9_.=-]", "_", self.label)


@dataclass(frozen=True)
class Cell:
    """What a run folder's path says: `.../<system>/<strategy>/<physical>_<value>/<data>_<value>/seed_<k>`."""

    system: str
    strategy: str
    physical_name: str
    physical_value: str
    data_name: str
    data_value: str
    seed: int


def expand(pattern: str) -> list[str]:
    """Return the words that braces stand for: `a_{1,2}/s_{0,1}` -> a_1/s_0, a_1/s_1, a_2/s_0, a_2/s_1."""
    parts = re.split(r"\{([^{}]*)\}", pattern)  # text, list, text, list, ..., text
    choices = [part.split(",") if k % 2 else [part] for k, part in enumerate(parts)]
    return ["".join(words) for words in itertools.product(*choices)]


def parse_line(line: str) -> Task | None:
    """Return the task of a line; None for a comment, an empty line, or one without a label."""
    command, mark, comment = line.rstrip("\n").rpartition("  # ")
    if not mark or not command.strip() or command.lstrip().startswith("#"):
        return None
    label, _, pattern = comment.partition(" | ")
    return Task(label.strip(), command, tuple(expand(pattern.strip())) if pattern.strip() else ())


def read_tasks(path: Path) -> tuple[list[Task], str | None]:
    """Return the tasks of a file in its order, and the command that draws the results (None: not noted).

    Raises:
        OSError: the file cannot be read.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    endings = [line.removeprefix("# then: ") for line in lines if line.startswith("# then: ")]
    return [task for task in map(parse_line, lines) if task], endings[-1] if endings else None


def log_tail(path: Path, count: int) -> list[str]:
    """Return the last lines of a log, of the last attempt alone, without colours and overwritten progress lines.

    An attempt begins with a line `--- TIME COMMAND`. No log: [].
    """
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - LOG_BYTES))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return []
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    lines = (line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))
    shown = [re.sub(r"[\x00-\x08\x0b-\x1f\x7f]", "", line) for line in lines if line.strip()]
    start = max((k + 1 for k, line in enumerate(shown) if line.startswith("--- ")), default=0)
    return shown[start:][-count:]


def expected_runs(tasks: Iterable[Task]) -> list[str]:
    """Return the run folders of all tasks, each once, in their order."""
    return list(dict.fromkeys(run for task in tasks for run in task.runs))


def parse_cell(run: str) -> Cell | None:
    """Return what a run folder's path says, or None when it is not one."""
    found = re.search(
        r"(?:^|/)([^/]+)/([^/]+)/([^/]+)_([^/_]+)/([^/]+)_([^/_]+)/seed_(\d+)/?$", run
    )
    return Cell(*found.groups()[:6], seed=int(found[7])) if found else None
