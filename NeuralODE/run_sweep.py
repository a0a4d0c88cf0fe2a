#!/usr/bin/env python3
"""Train neural ODEs on the damped pendulum: every 1/b, horizon and seed side by side, into run folders.

    python run_sweep.py --optimizer Adam --physics-mode pinn --inv-b-values 8 --horizon-values 20 --out-dir results

Lists are the product; all of it is one process, or --workers of them. At the end nine matrices over (T, 1/b) and
sweep_results.json are written into the output folder.

Exit codes: 0 all done, 1 some run failed, 2 bad input, 3 another process holds some run, 75 interrupted and saved (run
the same command again), 130 interrupted twice by Ctrl-C.
"""

import signal
import sys

STOPS = (signal.SIGUSR1, signal.SIGTERM)
asked: list[int] = []
for stop in STOPS:  # before the slow imports, some of which would swallow an exit
    signal.signal(stop, lambda number, _: asked.append(number))

from node import matrices  # noqa: E402
from node.arguments import parse  # noqa: E402
from node.files import UsageError  # noqa: E402
from node.train import check  # noqa: E402
from node.workers import train_in_workers  # noqa: E402


def main() -> int:
    """Parse, train all runs, summarise."""
    for stop in STOPS:  # from here to the training loop, which has its own handlers, there is nothing to save
        signal.signal(stop, lambda *_: sys.exit(75))
    if asked:
        return 75
    try:
        sweep = parse(sys.argv[1:])
        settings = sweep.settings
        runs = [settings.run(*cell) for cell in sweep.cells]
        check(settings, runs)
        code = train_in_workers(settings, runs, sweep.workers)
        if code != 75 and sweep.matrices:
            try:
                rows, columns, count = matrices.write(settings)
            except OSError as error:
                print(f"failed: matrices and sweep_results.json: {error}", file=sys.stderr)
                return 1
            if count:
                print(f"{settings.label}: {count} runs, matrices {rows} x {columns} (T x 1/b) and sweep_results.json "
                      f"in {settings.save_path}")
        return code
    except UsageError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # the second Ctrl-C: what the last checkpoint has is kept
        return 130


if __name__ == "__main__":
    sys.exit(main())
