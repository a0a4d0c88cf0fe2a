"""What `run_exp.py` and `train_trajectories.py` do: parse, look at all run folders, train one cell after another.

`--visualize` draws the loss landscapes of the runs afterwards.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence

from .arguments import parse, settings
from .cli import Parser
from .files import UsageError
from .record import Run
from .saved import read_object
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
        else:
            if not trajectory and args.visualize:
                codes.append(visualize(args, [run for _, runs in cells for run in runs]))
        return max(codes, key=(0, 3, 1, 75).index)
    except UsageError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # the second Ctrl-C: what the last checkpoint has is kept
        return 130


def visualize(args: argparse.Namespace, runs: Sequence[Run]) -> int:
    """Draw the landscapes of those runs that are finished, by the tool of diagnose.py; the exit code."""
    from . import subject  # not in every training
    from .diagnosis import add_tools

    statuses = {run.path.resolve(): read_object(run.path / "metrics.json").get("status") for run in runs}
    for path, status in statuses.items():
        if status != "finished":
            print(f"no landscape of {path}: it {'diverged' if status else 'is not finished'}", file=sys.stderr)
    finished = [str(path) for path, status in statuses.items() if status == "finished"]
    if not finished:
        return 0
    parser = Parser(allow_abbrev=False)
    add_tools(parser.add_subparsers(), subject)
    words = ["landscape", *finished, "--data_dir", args.data_dir, "--device", args.device]
    drawing = parser.parse_args([*words, *["--no-verify"] * (not args.verify), *["--force"] * args.force])
    return drawing.tool(drawing)
