"""The finished runs of a results folder, one a line, the latest last.

    python experiments/analysis/runs.py results

A run is there when its metrics.json is; for maps of many see maps.py.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

if __package__ in (None, ""):  # run as a script: the package lies one folder up
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from analysis import collect
from analysis.collect import Run

COLUMNS = ("train loss", "test error", "iterations", "seconds", "status", "run folder")


def format_runs(runs: Iterable[Run]) -> str:
    """Return the table, a line a run, numbers to the right."""
    lines = [COLUMNS]
    for run in runs:
        numbers = f"{run.train_loss:.4g}", f"{run.test_error:.4g}", f"{run.iterations:.0f}", f"{run.seconds:.1f}"
        lines.append((*numbers, run.status, run.path))
    widths = [max(len(line[k]) for line in lines) for k in range(len(COLUMNS))]
    rows = [[f"{word:>{width}}" for word, width in zip(line[:4], widths)] for line in lines]
    rows = [[*row, f"{line[4]:<{widths[4]}}", line[5]] for row, line in zip(rows, lines)]
    return "\n".join("  ".join(row) for row in rows)


def main(argv: Sequence[str]) -> int:
    """Run the command line: one results folder; bad input exits with 2, a folder without a finished run with 1."""
    if len(argv) != 1 or not Path(argv[0]).is_dir():
        print(f"runs.py: error: RESULTS must be one results folder; got {' '.join(argv) or 'nothing'}", file=sys.stderr)
        return 2
    root = Path(argv[0])
    runs = collect.collect(root).runs
    print(f"{root}: {len(runs)} finished runs")
    if runs:
        print(format_runs(sorted(runs, key=lambda run: (root / run.path / "metrics.json").stat().st_mtime_ns)))
    return 0 if runs else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
