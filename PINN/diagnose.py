#!/usr/bin/env python3
"""Look at finished runs.

    python diagnose.py steps RUN_FOLDER...      lengths of single steps at low loss, and their tail exponent

`steps` trains each run again from its seed, exactly as it was trained, until its training loss is at most --loss, then
records |W_{k+1} - W_k| of --steps further steps, each one L-BFGS iteration or Adam step. steps.csv, steps.png and
steps.json are written into the run folder; nothing else there changes. See pinn/steps.py for the fit.

Exit codes: 0 all done, 1 some run did not reach the loss or failed, 2 bad input, 3 another process works on some run,
75 interrupted by SIGUSR1, SIGTERM or Ctrl-C: a replay keeps no checkpoints, so the run at work starts over when the
same command is given again, those that are complete are skipped; 130 interrupted twice by Ctrl-C.
"""

import signal
import sys

STOPS = (signal.SIGUSR1, signal.SIGTERM)
asked: list[int] = []
for stop in STOPS:  # before the slow imports, some of which would swallow an exit
    signal.signal(stop, lambda number, _: asked.append(number))

import argparse  # noqa: E402
import math  # noqa: E402
import traceback  # noqa: E402
from dataclasses import replace  # noqa: E402
from pathlib import Path  # noqa: E402

from pinn.arguments import device  # noqa: E402
from pinn.cli import Help, Parser  # noqa: E402
from pinn.files import UsageError  # noqa: E402
from pinn.finished import UNITS, approach, begin_again, check_strategy, open_run, read_object, record  # noqa: E402
from pinn.record import Run  # noqa: E402
from pinn.session import Signals  # noqa: E402
from pinn.settings import Settings  # noqa: E402
from pinn.steps import write  # noqa: E402


def make_parser() -> Parser:
    """All subcommands and their flags."""
    parser = Parser(prog="diagnose.py", formatter_class=Help, allow_abbrev=False, description=__doc__)
    tools = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    tool = tools.add_parser("steps", formatter_class=Help, allow_abbrev=False, description=__doc__,
                            help="step lengths at low loss and their tail exponent (adam, lbfgs)")
    tool.add_argument("folders", nargs="+", type=Path, metavar="RUN_FOLDER", help="of a finished run: it holds "
                      "config.json and metrics.json")
    tool.add_argument("--loss", type=float, default=1e-4, help="training loss at which recording begins; L-BFGS is "
                      "asked at the end of its calls of (by default) up to 20 iterations")
    tool.add_argument("--steps", type=int, default=200, help="steps to record")
    tool.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:k; the same iterates as in the "
                      "training only on the device of the training")
    tool.add_argument("--force", action="store_true", help="record again where there are steps with other arguments")
    return parser


def steps(args: argparse.Namespace) -> int:
    """Replay each run and record its steps; returns the exit code."""
    if not (math.isfinite(args.loss) and args.loss > 0):
        raise UsageError(f"--loss must be a positive number, got {args.loss:g}")
    if args.steps < 1:
        raise UsageError(f"--steps must be at least 1, got {args.steps}")
    where = device(args.device)
    found = [open_run(folder) for folder in dict.fromkeys(folder.resolve() for folder in args.folders)]
    for settings, run in found:
        check_strategy(settings, run)
    waiting = [(settings, run) for settings, run in found if not is_recorded(run, args)]
    codes = [0]
    with Signals() as signals:
        for settings, run in waiting:
            try:
                codes.append(record_steps(replace(settings, device=where), run, args, signals))
            except Exception as error:  # this run failed; the others go on
                if not isinstance(error, (OSError, UsageError)):
                    traceback.print_exc()
                print(f"failed: {run.path}: {''.join(traceback.format_exception_only(error)).strip()}",
                      file=sys.stderr)
                codes.append(1)
            finally:
                run.release()
            if signals.requested:
                print(f"stopped by {signals.requested}; the same command skips the runs that are complete",
                      file=sys.stderr)
                return 75
    return max(codes, key=(0, 3, 1).index)


def is_recorded(run: Run, args: argparse.Namespace) -> bool:
    """Tell whether these steps are there already, and say so.

    Raises:
        UsageError: when there are steps with other arguments, without --force.
    """
    before = {} if args.force else read_object(run.path / "steps.json")
    if not before:
        return False
    other = [f"--{flag} {before.get(name)} -> {value}"
             for flag, name, value in [("loss", "loss", args.loss), ("steps", "requested", args.steps)]
             if before.get(name) != value]
    if other:
        raise UsageError(f"{run.path} holds steps with other arguments: {', '.join(other)}; --force records them again")
    print(f"already there, nothing to do: {run.path}/steps.json (--force records again)", file=sys.stderr)
    return True


def record_steps(settings: Settings, run: Run, args: argparse.Namespace, signals: Signals) -> int:
    """Replay one run and write its steps; 0, 1 when the loss is not reached, 3 when another process has the run."""
    if not run.claim():
        print(f"left alone, another process works on it ({run.holder}): {run.path}", file=sys.stderr)
        return 3
    together = read_object(run.path / "metrics.json").get("metrics", {}).get("runs_side_by_side", 1)
    if together > 1:
        print(f"{run.path}: trained side by side with {together - 1} more, replayed alone: rounding differs, and the "
              f"iterates with it after a while", file=sys.stderr)
    group = begin_again(settings, run)
    try:
        lowest, counter = approach(group, args.loss, signals), group.counters[0]
        reached = counter.total
        if not signals.requested and not lowest <= args.loss:
            print(f"failed: {run.path}: --loss {args.loss:g} was not reached: the lowest training loss of "
                  f"{reached} iterations is {lowest:.3g} (they ended by: {counter.reason})", file=sys.stderr)
            return 1
        lengths, losses = record(group, args.steps, signals)
    finally:
        group.progress.close()
    if signals.requested:
        return 0
    if len(lengths) < args.steps:
        print(f"{run.path}: no further step is possible after {len(lengths)} of {args.steps} ({counter.reason})",
              file=sys.stderr)
    tail = write(run.path, lengths, losses, {
        "loss": args.loss, "requested": args.steps, "reached": True, "iteration": reached,
        "unit": UNITS[settings.strategy], "lr": group.optimizer.param_groups[0]["lr"], "stop_reason": counter.reason,
        "environment": group.environment})
    print(f"{run.path}: alpha {tail.alpha:.2f} +- {tail.error:.2f}, Kolmogorov-Smirnov {tail.distance:.3f}, "
          f"{tail.count} of {len(lengths)} lengths in the tail, sd of ln d {tail.log_sd:.2f}")
    return 0


def main() -> int:
    """Parse, then run the tool."""
    for number in STOPS:  # from here to the replay, which has its own handlers, there is nothing to save
        signal.signal(number, lambda *_: sys.exit(75))
    if asked:
        return 75
    try:
        return steps(make_parser().parse_args(sys.argv[1:]))
    except UsageError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # the second Ctrl-C
        return 130


if __name__ == "__main__":
    sys.exit(main())
