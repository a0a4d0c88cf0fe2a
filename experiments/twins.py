"""Check, or with --fix rewrite, the copies ("twins") of files that several modules need.

A twin's first line names its original; below this line the two are byte-identical. To vary one
copy, delete that line and edit.

    python experiments/twins.py          exit 0 in step, 1 drift, 2 an original does not exist
    python experiments/twins.py --fix
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path

HEADER = "# Twin of {} - edit there and run: python experiments/twins.py --fix\n"
SKIPPED = re.compile(r"\..*|__pycache__|results.*|wandb")


def find_twins(root: Path) -> dict[Path, str]:
    """Return every copy below `root`, with its original's path relative to `root` as written."""
    twins = {}
    for folder, subfolders, files in os.walk(root):
        if "pyvenv.cfg" in files:  # a virtual environment under any name
            subfolders.clear()
            continue
        subfolders[:] = sorted(name for name in subfolders if not SKIPPED.fullmatch(name))
        for path in sorted(Path(folder, name) for name in files if name.endswith((".py", ".sh"))):
            with path.open("rb") as file:
                match = re.match(rb"# Twin of (\S+)", file.readline())
            if match:
                twins[path] = match[1].decode()
    return twins


def check(root: Path, fix: bool = False) -> int:
    """Print every drift below `root`, repair it if `fix`, and return the exit code."""
    twins, drifts, code = find_twins(root), 0, 0
    for path, name in twins.items():
        copy, original = path.relative_to(root), root / name
        if not original.is_file() or original in twins:
            what = "is itself a twin" if original in twins else "does not exist"
            print(f"{copy}: its original {name} {what}", file=sys.stderr)
            code = 2
            continue
        expected = HEADER.format(name).encode() + original.read_bytes()
        if path.read_bytes() != expected:
            drifts += 1
            print(f"{copy}: {'rewritten from' if fix else 'differs from'} {name}")
            if fix:
                path.write_bytes(expected)
    done = "rewritten" if fix else "drifted"
    print(f"{len(twins)} twins, {drifts} {done}" if twins else f"no twins below {root}")
    return code or int(drifts > 0 and not fix)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Check the copies of shared files.")
    parser.add_argument("--fix", action="store_true", help="rewrite the copies that drifted")
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[1])
    arguments = parser.parse_args()
    sys.exit(check(arguments.root.resolve(), arguments.fix))
