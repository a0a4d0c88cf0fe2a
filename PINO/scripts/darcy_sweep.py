#!/usr/bin/env python3
"""Train physics-informed neural operators on 2D Darcy flow, into run folders.

    python darcy_sweep.py --optimizer adam --r 4 --n_samples 1000 --seed 0 --outdir results
    python darcy_sweep.py --optimizer lbfgs --r 1 4 10 --n_samples 5 50 --preset small --budget laptop

Lists are the product, trained one after another; data that are missing are made first.

Exit codes: 0 all done, 1 some run failed, 2 bad input, 3 another process holds some run, 75 interrupted and saved (run
the same command again), 130 interrupted twice by Ctrl-C.
"""

import os
import signal
import sys
import threading
from pathlib import Path

STOPS = (signal.SIGUSR1, signal.SIGTERM)
asked: list[int] = []
for stop in STOPS:  # before the slow imports, some of which would swallow an exit
    signal.signal(stop, lambda number, _: asked.append(number))

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pino.arguments import Sweep, parse  # noqa: E402
from pino.files import UsageError  # noqa: E402
from pino.generate import Stopped  # noqa: E402
from pino.record import Run  # noqa: E402
from pino.settings import Settings  # noqa: E402
from pino.train import check, train  # noqa: E402


def main() -> int:
    """Parse, make data that are missing, then train one cell of the map after another."""
    for stop in STOPS:  # from here to the training loop, which has its own handlers, there is nothing to save
        signal.signal(stop, lambda *_: sys.exit(75))
    if asked:
        return 75
    try:
        limit_time(os.environ.get("SEGMENT_WALL_SECONDS", ""))
        return run(parse(sys.argv[1:]))
    except (UsageError, Stopped) as error:
        code = getattr(error, "code", 2)
        print("" if code == 75 else "error: ", " ".join(str(error).split()), sep="", file=sys.stderr)
        return code
    except KeyboardInterrupt:  # the second Ctrl-C: what the last checkpoint has is kept
        return 130


def limit_time(text: str) -> None:
    """After so many seconds do what a signal from outside does: save, and exit with 75."""
    if text:
        if not text.isdecimal() or not int(text):
            raise UsageError(f"SEGMENT_WALL_SECONDS (environment) must be a whole number of seconds, got {text!r}")
        timer = threading.Timer(min(int(text), threading.TIMEOUT_MAX), os.kill, (os.getpid(), signal.SIGUSR1))
        timer.daemon = True
        timer.start()


def run(sweep: Sweep) -> int:
    """Train all cells; the exit code."""
    first = sweep.settings[0]
    try:  # data can take hours
        first.save_path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--outdir {first.save_path}: cannot write: {error}") from error
    jobs = [job for settings in sweep.settings for job in settings.jobs(sweep.contrasts, sweep.seeds)]
    for settings, runs in jobs:
        check(settings, runs)
    prepare(sweep, jobs)
    if first.force:  # an interruption in the first cell leaves no old result in the others
        for _, runs in jobs:
            for one in runs:
                one.prepare(force=True)
                one.release()
    codes = []
    for settings, runs in jobs:
        codes.append(train(settings, runs))
        if codes[-1] == 75:
            break
    return max(codes, key=(0, 3, 1, 75).index)


def prepare(sweep: Sweep, jobs: list[tuple[Settings, list[Run]]]) -> None:
    """Make and check the data of the runs that are not done: broken files leave no run folder."""
    waiting = [job for job in jobs if job[0].force or not all(one.is_done() for one in job[1])]
    if waiting:
        contrasts = sorted({one.key.physical_value for _, runs in waiting for one in runs})
        first, most = sweep.settings[0], max(settings.n for settings, _ in waiting)
        stages = first.stage_contrasts(contrasts)
        first.source.prepare(contrasts, most, sweep.data_rows, first.device, stages)
        for contrast in contrasts:
            first.source.fields("test", contrast)
        for n in sorted({settings.n for settings, _ in waiting}):
            for contrast in [*contrasts, *(() if first.source.benchmark else stages)]:
                first.source.fields("train", contrast, n)


if __name__ == "__main__":
    sys.exit(main())
