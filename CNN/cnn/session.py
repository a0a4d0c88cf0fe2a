# Twin of PINN/pinn/session.py - edit there and run: python experiments/twins.py --fix
"""The process that trains: signals that ask it to stop, the machine it runs on, progress and Weights & Biases."""

from __future__ import annotations

import ctypes
import importlib
import os
import platform
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from .files import UsageError, strict, warn_once

if TYPE_CHECKING:  # environment() imports torch itself: a finished run is recognised without it
    import torch

    from .record import Run


class Signals:
    """Context manager in which SIGUSR1, SIGTERM and SIGINT only set `requested`, their name.

    SIGINT (Ctrl-C) after that raises KeyboardInterrupt. Outside the main thread it does nothing.
    """

    def __init__(self) -> None:
        """Start without a request."""
        self.requested: str | None = None
        self._old: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        """Set the handlers."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
                self._old[number] = signal.signal(number, self._handle)
        return self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.requested:
            raise KeyboardInterrupt
        self.requested = signal.Signals(number).name

    def __exit__(self, *exception: object) -> None:
        """Restore the old handlers."""
        for number, handler in self._old.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def keep_freed_memory() -> None:
    """Let glibc keep freed memory instead of handing it back to the system after every large tensor.

    Tensors beyond a threshold are otherwise mapped and unmapped at each use, and their pages filled with zeros anew: 10
    to 20 % of the time of a training step on a CPU. Elsewhere this does nothing.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD
        mallopt(-3, 1 << 25)  # M_MMAP_THRESHOLD, at its largest


def environment(device: torch.device | str) -> dict[str, Any]:
    """Describe what a result was computed with; git_commit is None outside a checkout."""
    import numpy
    import torch

    device, commit = torch.device(device), None
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = platform.processor() or platform.machine()
        with suppress(OSError), open("/proc/cpuinfo") as file:
            models = [line.partition(":")[2].strip() for line in file if "model name" in line]
            name = models[0] if models else name
    with suppress(OSError, subprocess.SubprocessError):
        # the hash, with -dirty for changed files; no tag can match an empty pattern
        git = ["git", "-C", str(Path(__file__).resolve().parent), "describe", "--always"]
        git += ["--dirty", "--abbrev=40", "--exclude=*"]
        out = subprocess.run(git, capture_output=True, text=True, timeout=10, check=True).stdout
        commit = out.strip() or None
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "platform": platform.platform(),
        "device": f"{device} ({name})",
        "threads": torch.get_num_threads(),
        "git_commit": commit,
    }


class Progress:
    """A tqdm bar when stderr is a terminal, else a plain line on it every `every` seconds.

    The environment variable PROGRESS_EVERY sets the default, so that a sweep can show its tasks more often; 0 shows
    nothing, neither lines nor bar.
    """

    def __init__(self, label: str, every: float | None = None) -> None:
        """Name what progresses, for example "wave/adam n_1000"."""
        self.label = label
        self.every = float(os.environ.get("PROGRESS_EVERY") or 30) if every is None else every
        self._bar: Any = None
        self._line, self._first = "", 0
        self._start = self._printed = time.monotonic()
        self._terminal = sys.stderr.isatty()

    def update(self, done: int, total: int, active: tuple[int, int] | None = None, **info: Any) -> None:
        """Show `done` of `total` iterations, `active` (k, R) for k of R runs, and values."""
        if self.every == 0:
            return
        values = [f"{k} {v:.1e}" if isinstance(v, float) else f"{k} {v}" for k, v in info.items()]
        runs = [f"{active[0]} of {active[1]} runs active"] if active else []
        if self._terminal:
            self._draw(done, total, ", ".join(values + runs))  # what a narrow window cuts off comes last
            return
        now, parts = time.monotonic(), runs + values
        if not self._line:  # a resumed run does not begin at 0: rates count from here
            self._first, self._start = done, now
        rate = (done - self._first) / max(now - self._start, 1e-9)
        if rate > 0:
            parts.append(f"{rate:.3g} it/s")
            left = (total - done) / rate
            unit, size = ("s", 1) if left < 90 else ("min", 60) if left < 5400 else ("h", 3600)
            parts += [f"about {left / size:.0f} {unit} left"] if left > 0 else []
        self._line = ", ".join([f"{self.label}: {done}/{total} iterations", *parts])
        if now - self._printed >= self.every:
            self._print()

    def _draw(self, done: int, total: int, text: str) -> None:
        if self._bar is None:
            from tqdm import tqdm

            # short, so that a window of 80 columns has room for the loss
            layout = "{desc} |{bar}| {n_fmt}/{total_fmt}, {rate_fmt}, {remaining} left{postfix}"
            # miniters=1: tqdm would adapt to the fastest stage and seem stuck in a slow one
            self._bar = tqdm(
                total=total, initial=done, desc=self.label, bar_format=layout, dynamic_ncols=True, miniters=1
            )
        self._bar.total = total
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.update(done - self._bar.n)

    def _print(self) -> None:
        print(self._line, file=sys.stderr, flush=True)
        self._printed = time.monotonic()

    def close(self) -> None:
        """Print the last line, or close the bar."""
        if self._bar is not None:
            self._bar.close()
        elif self._line:
            self._print()


class Wandb:
    """Optional logging to Weights & Biases, one of its runs a Run; errors never stop training."""

    def __init__(self, mode: str = "disabled", project: str = "multi-regime", group: str | None = None) -> None:
        """Import wandb unless disabled. Raises UsageError when it is missing, or for the mode."""
        if mode not in ("disabled", "offline", "online"):
            raise UsageError(f"--wandb {mode}: choose disabled, offline or online")
        self.mode, self.project, self.group = mode, project, group
        self._wandb: Any = None
        self._runs: dict[Run, Any] = {}
        if mode != "disabled":
            with suppress(ImportError):
                self._wandb = importlib.import_module("wandb")
            if not hasattr(self._wandb, "init"):  # also a folder ./wandb, which python imports
                raise UsageError(f"--wandb {mode} needs wandb: pip install wandb, or leave it out")

    def _guarded(self, action: Callable[[], object]) -> None:
        try:
            if self._wandb is not None:
                action()
        except Exception as error:
            self._wandb = None
            warn_once(f"wandb stopped, training goes on: {error}")

    def _of(self, run: Run) -> Any:
        if run not in self._runs:
            self._runs[run] = self._wandb.init(
                project=self.project,
                group=self.group,
                name=str(run.key.folder()),
                id=uuid.uuid5(uuid.NAMESPACE_URL, str(run.path.resolve())).hex,
                resume="allow",
                config=strict(run.config),
                dir=str(run.save_path),
                mode=self.mode,
                reinit="create_new",  # several at a time (wandb >= 0.19.10)
            )
        return self._runs[run]

    def log(self, run: Run, row: Mapping[str, Any]) -> None:
        """Log a row of the run's history."""
        self._guarded(lambda: self._of(run).log(strict(row)))

    def finish(self, run: Run, summary: Mapping[str, Any]) -> None:
        """Store the final numbers and end the run."""

        def action() -> None:
            self._of(run).summary.update(strict(summary))
            self._runs.pop(run).finish()

        self._guarded(action)
