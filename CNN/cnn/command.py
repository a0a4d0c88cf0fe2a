"""What `run_exp.py` and `train_trajectories.py` do: parse, look at all run folders, train one cell after another."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence

from .arguments import parse, settings
from .files import UsageError
from .train import train

STOPS = (signal.SIGUSR1, signal.SIGTERM)


def main(argv: Sequence[str], trajectory: bool, asked: Sequence[int]) -> int:
    """The exit code; `asked` are signals that came during the imports."""
    for stop in STOPS:  # from here to the training loop, which has its own handlers, there is nothing to save
        signal.signal(stop, lambda *_: sys.exit(75))
    if asked:
        return 75
    try:
        args = parse(argv, trajectory)
        cells = [(cell, cell.runs(args.seed)) for cell in settings(args, trajectory)]
        for cell, runs in cells:
            for run in runs:
                if cell.force:  # an interruption in the first cell leaves no old result in the others
                    run.prepare(force=True)
                    run.release()
                else:
                    run.check_config()
        codes = []
        for cell, runs in cells:
            codes.append(train(cell, runs))
            if codes[-1] == 75:
                break
        return max(codes, key=(0, 3, 1, 75).index)
    except UsageError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # the second Ctrl-C: what the last checkpoint has is kept
        return 130
