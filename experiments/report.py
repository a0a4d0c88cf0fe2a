"""One HTML file about a results folder: maps, boundaries, strategies compared, configuration, failures.

    python experiments/report.py results/pinn_laptop          # writes results/pinn_laptop/report.html
    python experiments/report.py results/node_paper/results.csv --out node.html

The file needs neither network nor other files. A results.csv has the finished runs alone: no configuration, and nothing
about runs that failed. Exit code 0: written; 2: bad input.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from analysis import collect
from analysis.report import inputs


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Exit 2 with one line: the flag and what it allows, without the usage text."""
        self.exit(2, f"report.py: error: {message.removeprefix('argument ')}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; bad input exits with code 2 before anything is written."""
    parser = _Parser(description="Write one HTML file about a results folder.", allow_abbrev=False)
    parser.add_argument("results", type=Path, metavar="RESULTS", help="a results folder, or a results.csv")
    parser.add_argument("--out", type=Path, help="the file to write; default: report.html in the results folder")
    args = parser.parse_args(argv)
    logging.getLogger("analysis.collect").setLevel(logging.ERROR)  # unreadable files stand in the report
    try:
        results = inputs.read(args.results)
    except ValueError as error:
        parser.error(f"RESULTS: {error}")
    out: Path = args.out or results.root / "report.html"
    if out.is_dir():
        parser.error(f"--out: cannot write {out}: it is a folder")
    try:
        with collect.atomic(out) as temporary:
            temporary.touch()  # before the work, which takes seconds
            from analysis.report import document  # here, because what draws takes long to import

            temporary.write_text(document.write(results), encoding="utf-8")
    except OSError as error:
        parser.error(f"--out: cannot write {out}: {error.strerror or error}")
    print(f"wrote {out}: {len(results.runs)} runs, {out.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
