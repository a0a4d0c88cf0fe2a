"""Commands one after another, also after one that fails: a task of several commands, which ends as the gravest did.

    python in_turn.py python train.py --seed 0 -- python diagnose.py hessian results/seed_0

A tool that fails does not keep the next from being run; what needs a run whose training failed refuses by itself.
SIGUSR1 and SIGTERM go on to the command at work; once asked to stop, or after a command that was, no further one is
started. Ctrl-C reaches it from the terminal. Exit code: 0 all done; 75 interrupted (which the commands use, too); else
the gravest: 1 and others, then 3 (in use by another process), then 2, which also follows from one of them.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from itertools import groupby

INTERRUPTED = 75
GRAVITY = {0: 0, 2: 1, 3: 2}  # of exit codes; that of others is above


def run(commands: Sequence[Sequence[str]]) -> int:
    """Run the commands in turn; returns the exit code."""
    asked: list[int] = []
    codes: list[int] = []
    working: list[subprocess.Popen[bytes]] = []

    def forward(number: int, _: object) -> None:
        asked.append(number)
        for process in working:
            process.send_signal(number)

    for number in (signal.SIGUSR1, signal.SIGTERM):
        signal.signal(number, forward)
    signal.signal(signal.SIGINT, lambda number, _: asked.append(number))
    for command in commands:
        if asked:
            return INTERRUPTED
        working[:] = [subprocess.Popen(command)]
        if asked and asked[-1] != signal.SIGINT:  # it came while there was nobody to tell
            working[0].send_signal(asked[-1])
        code = working[0].wait()
        if code < 0:  # ended by a signal: before it could listen, if it was asked to
            code = INTERRUPTED if asked else 128 - code
        if code == INTERRUPTED:
            return code
        codes.append(code)
    return max(codes, key=lambda code: GRAVITY.get(code, len(GRAVITY)))


def main(argv: Sequence[str]) -> int:
    """Split the command line at `--` and run what it says."""
    commands = [list(words) for is_mark, words in groupby(argv, lambda word: word == "--") if not is_mark]
    if not commands:
        print("error: a command is needed; several are set apart by --", file=sys.stderr)
        return 2
    try:
        return run(commands)
    except OSError as error:
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
