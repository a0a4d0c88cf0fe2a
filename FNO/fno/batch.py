# Twin of PINN/pinn/batch.py - edit there and run: python experiments/twins.py --fix
"""Work on finished runs, one after another: what is there is skipped, one failure stops no other, signals are obeyed.

    waiting = [run for run in runs if not is_there(run.path / "steps.json", ...)]
    code = each_run(waiting, lambda run, signals: ...)

Exit codes: 0 all done, 1 some run failed, 3 another process works on some run, 75 interrupted.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .files import UsageError, strict
from .record import REQUEUE, Run
from .saved import read_object
from .session import Signals


class Interrupted(Exception):
    """A signal came: the work at hand ends here."""


def is_there(path: Path, now: Mapping[str, Any], before: Callable[[dict[str, Any]], Mapping[str, Any]], force: bool,
             again: str) -> bool:
    """Tell whether a result is there already, and say so.

    Args:
        path: its JSON file.
        now: what it must have been made with, flag -> value.
        before: from the content of the file, what it was made with, likewise.
        force: make it anew, whatever is there.
        again: what to do about a result that is there, for the messages.

    Raises:
        UsageError: when it is damaged or was made with something else, without `force`.
    """
    if force:
        return False
    try:
        found = read_object(path)
    except UsageError as error:
        raise UsageError(f"{error}; {again}") from None
    if not found:
        return False
    try:
        old, now = before(found), strict(now)
    except (KeyError, TypeError, AttributeError):
        raise UsageError(f"{path} is damaged: it does not say what it was made with; {again}") from None
    other = [f"{flag} {old.get(flag)} -> {now.get(flag)}" for flag in now | old if old.get(flag) != now.get(flag)]
    if other:
        raise UsageError(f"{path} was made with other arguments: {', '.join(other)}; {again}")
    print(f"already there, nothing to do: {path} (--force makes it again)", file=sys.stderr)
    return True


def each_run(runs: Sequence[Run], work: Callable[[Run, Signals], int]) -> int:
    """Claim each run and work on it; `work` gives its exit code, and may end with `Interrupted` once a signal came."""
    codes = [0]
    with Signals() as signals:
        for run in runs:
            try:
                if run.claim():
                    codes.append(work(run, signals))
                else:
                    print(f"left alone, another process works on it ({run.holder}): {run.path}", file=sys.stderr)
                    codes.append(3)
            except Interrupted:
                pass
            except Exception as error:  # this run failed; the others go on
                reason = str(error)
                if not isinstance(error, (OSError, UsageError)):
                    traceback.print_exc()
                    reason = "".join(traceback.format_exception_only(error)).strip()
                print("failed:", reason if str(run.path) in reason else f"{run.path}: {reason}", file=sys.stderr)
                codes.append(1)
            finally:
                run.release()
            if signals.requested:
                print(f"stopped by {signals.requested}; the same command skips the runs that are complete",
                      file=sys.stderr)
                return REQUEUE
    return max(codes, key=(0, 3, 1).index)
