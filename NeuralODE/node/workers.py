"""The runs of a sweep dealt out to processes, each of which trains its share side by side on one CPU core.

Networks this small gain nothing from threads, but a sweep is as many independent problems as it has rows.
"""

import heapq
import os
import signal
import sys
import threading
from collections.abc import Sequence
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait

import torch

from node.files import UsageError
from node.record import REQUEUE, Run
from node.session import Signals
from node.settings import Settings
from node.train import train

OVERHEAD = 100  # pairs that cost as much as a row does whatever its length


def train_in_workers(settings: Settings, runs: Sequence[Run], workers: int) -> int:
    """Like `train.train`, in `workers` processes at most; signals are handed on to them.

    Returns:
        75 when interrupted, 2 when a folder cannot be used, 1 when a run or a worker failed, 3 when another process
        has some, else 0.
    """
    waiting = [run for run in runs if settings.force or not run.is_done()]
    shares = deal(settings, waiting, workers)
    if len(shares) < 2:
        return train(settings, runs)
    if len(waiting) < len(runs):
        train(settings, [run for run in runs if run not in waiting])  # says that they are done
    context = get_context("spawn")  # neither CUDA nor the threads of a library survive a fork
    processes = [context.Process(target=_work, args=(settings, share, k)) for k, share in enumerate(shares)]
    with Signals() as signals:
        for process in processes:
            process.start()
        while left := [process for process in processes if process.exitcode is None]:
            wait([process.sentinel for process in left], timeout=0.5)
            if signals.requested:  # again and again, as a worker that still imports its libraries is deaf
                for process in left:
                    os.kill(process.pid, signal.SIGTERM)
        if signals.requested:
            return REQUEUE
    codes = [process.exitcode for process in processes]
    for code in codes:
        if code < 0:
            print(f"failed: a worker was ended by signal {-code}; the same command goes on from its checkpoints",
                  file=sys.stderr)
    return next((code for code in (REQUEUE, 2, 1) if code in codes), 1 if min(codes) < 0 else max(codes))


def deal(settings: Settings, runs: Sequence[Run], workers: int) -> list[list[Run]]:
    """Shares of about equal cost, none empty; runs that share a row stay together."""
    rows = sorted(settings.plan([run.key for run in runs]), key=lambda row: -row.key.data_value)
    heap = [(0, k) for k in range(min(workers, len(rows)))]
    members: list[list[int]] = [[] for _ in heap]
    for row in rows:
        cost, k = heapq.heappop(heap)
        members[k] += [run for run, _ in row.runs]
        heapq.heappush(heap, (cost + int(row.key.data_value) + OVERHEAD, k))
    return [[runs[k] for k in sorted(share)] for share in members]


def _work(settings: Settings, runs: Sequence[Run], number: int) -> None:
    """What a worker does; the first one shows its progress, which is like that of the others."""
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("highest")
    if number:
        os.environ["PROGRESS_EVERY"] = "0"
    threading.Thread(target=_follow_parent, daemon=True).start()
    try:
        sys.exit(train(settings, runs))
    except UsageError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:  # the second Ctrl-C
        sys.exit(130)


def _follow_parent() -> None:
    """Save and stop when the parent was killed: nobody would hear of this worker any more."""
    wait([parent_process().sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
