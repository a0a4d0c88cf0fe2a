#!/usr/bin/env python3
"""Look at finished runs.

    python diagnose.py hessian RUN_FOLDER...      eigenvalues, trace and density of the Hessian of the training loss
    python diagnose.py landscape RUN_FOLDER...    the training loss on a plane through the weights
    python diagnose.py connectivity A B           curves of low loss between the weights of two runs
    python diagnose.py similarity RUN_FOLDER...   what the networks of several runs compute, compared (CKA)
    python diagnose.py steps RUN_FOLDER...        lengths of single steps at low loss, and their tail exponent

The first four look at the weights and write NAME.json, .npz, .png (landscape also .html), see pinn/diagnosis.py.
`steps` trains each run again from its seed, exactly as it was trained, until its training loss is at most --loss, then
records |W_{k+1} - W_k| of --steps further steps, each one L-BFGS iteration or Adam step. steps.csv, steps.png and
steps.json are written into the run folder; nothing else there changes. See pinn/steps.py for the fit.

Exit codes: 0 all done, 1 some run did not reach the loss or failed, 2 bad input, 3 another process works on some run,
75 interrupted by SIGUSR1, SIGTERM or Ctrl-C: given again, the same command skips the runs that are complete; the one
at work starts over, but for a landscape, which goes on with what it had evaluated; 130 interrupted twice by Ctrl-C.
"""

import signal
import sys

STOPS = (signal.SIGUSR1, signal.SIGTERM)
asked: list[int] = []
for stop in STOPS:  # before the slow imports, some of which would swallow an exit
    signal.signal(stop, lambda number, _: asked.append(number))

import argparse  # noqa: E402
import math  # noqa: E402
from dataclasses import replace  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import torch  # noqa: E402
from pinn import subject  # noqa: E402
from pinn.arguments import device  # noqa: E402
from pinn.batch import each_run, is_there  # noqa: E402
from pinn.cli import Help, Parser  # noqa: E402
from pinn.diagnosis import add_tools  # noqa: E402
from pinn.files import UsageError  # noqa: E402
from pinn.finished import UNITS, approach, begin_again, check_strategy, open_run, record  # noqa: E402
from pinn.record import Run  # noqa: E402
from pinn.saved import read_object  # noqa: E402
from pinn.session import Signals  # noqa: E402
from pinn.steps import usable, write  # noqa: E402


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
    tool.add_argument("--device", default="auto", help="auto (the CPU for a run that was trained there, else the "
                      "first GPU, or the CPU), cpu, cuda or cuda:k")
    tool.add_argument("--force", action="store_true", help="record again where there are steps with other arguments")
    tool.set_defaults(tool=steps)
    add_tools(tools, subject)
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
    waiting = [run for _, run in found if not is_recorded(run, args)]
    return each_run(waiting, lambda run, signals: record_steps(run, where, args, signals))


def is_recorded(run: Run, args: argparse.Namespace) -> bool:
    """Tell whether these steps are there already, and say so; UsageError when there are others, without --force."""
    return is_there(run.path / "steps.json", {"--loss": args.loss, "--steps": args.steps},
                    lambda found: {"--loss": found.get("loss"), "--steps": found.get("requested")}, args.force,
                    "--force records the steps again")


def record_steps(run: Run, where: torch.device, args: argparse.Namespace, signals: Signals) -> int:
    """Replay one run and write its steps; gives 0, or 1 when the loss is not reached."""
    settings, _ = open_run(run.path)  # again: another process may have recorded it, or trained it anew, until now
    if is_recorded(run, args):
        return 0
    result = read_object(run.path / "metrics.json")
    if args.device == "auto" and str(result.get("environment", {}).get("device", "")).startswith("cpu"):
        where = torch.device("cpu")
    group = begin_again(replace(settings, device=where), run)
    if others := differences(result, group.environment):
        print(f"{run.path}: trained {', '.join(others)}: rounding differs, and the iterates with it after a while",
              file=sys.stderr)
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
    if len(lengths) < args.steps:
        if signals.requested:
            return 0
        print(f"{run.path}: no further step is possible after {len(lengths)} of {args.steps} ({counter.reason})",
              file=sys.stderr)
    tail = write(run.path, lengths, losses, {
        "loss": args.loss, "requested": args.steps, "reached": True, "iteration": reached,
        "unit": UNITS[settings.strategy], "lr": group.optimizer.param_groups[0]["lr"], "stop_reason": counter.reason,
        "environment": group.environment})
    if tail.count:
        print(f"{run.path}: alpha {tail.alpha:.2f} +- {tail.error:.2f}, Kolmogorov-Smirnov {tail.distance:.3f}, "
              f"{tail.count} of {len(lengths)} lengths in the tail, sd of ln d {tail.log_sd:.2f}")
    else:
        print(f"{run.path}: too few step lengths for a fit: {len(usable(lengths))}")
    return 0


def differences(result: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What makes a replay in the environment `now` round otherwise than the training with this metrics.json."""
    together, then = result.get("metrics", {}).get("runs_side_by_side", 1), result.get("environment", {})
    company = [f"side by side with {together - 1} more, replayed alone"] if together > 1 else []
    return company + [f"with {name} {then.get(name)}, replayed with {now[name]}"
                      for name in ("device", "threads", "torch") if then.get(name) != now[name]]


def main() -> int:
    """Parse, then run the tool."""
    for number in STOPS:  # from here to the work, which has its own handlers, there is nothing to save
        signal.signal(number, lambda *_: sys.exit(75))
    if asked:
        return 75
    try:
        args = make_parser().parse_args(sys.argv[1:])
        return args.tool(args)
    except UsageError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # the second Ctrl-C
        return 130


if __name__ == "__main__":
    sys.exit(main())
