# Twin of PINN/pinn/diagnosis.py - edit there and run: python experiments/twins.py --fix
"""Landscape tools on finished runs: what the four subcommands of diagnose.py compute and write.

    python diagnose.py hessian RUN_FOLDER...              hessian.json .npz .png
    python diagnose.py landscape RUN_FOLDER...            landscape.json .npz .png .html
    python diagnose.py connectivity A B                   connectivity_<B>.json .npz .png, in A
    python diagnose.py similarity RUN_FOLDER...           similarity.json .npz .png, in the first

    add_tools(subparsers, subject)   # of the module: add_flags(parser, tool), open_subject(folder, args, dtype)

All folders are checked before work begins. The .json file is written last: its presence means done. It names the
arguments, the data and the weights (SHA-256), and the same command again finds all of them unchanged and does nothing.
Hessians are computed in float64 by default, losses in the precision of the training.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from .batch import Interrupted, each_run, is_there
from .cli import find_device
from .diagnosis_flags import HELP, MOST_DENSE, add_parser, check_flags
from .diagnosis_tools import TOOLS, are_finite, size
from .files import UsageError, atomic_write, write_json
from .hessian import Gradient
from .record import Run
from .session import Progress, Signals, environment

AGAIN = "--force replaces it, --name keeps both"


class Subject(Protocol):
    """A finished run. Weights are lists of tensors (k, ...): k networks of one shape side by side."""

    run: Run
    title: str  # of pictures
    task: dict[str, Any]  # what two runs must share so that one loss makes sense for both
    states: tuple[str, ...]  # "initial", "final"; FNO also "best"
    names: list[str]  # of the parameters
    filters: list[int | None]  # the axis, not counting the first, that numbers filters; None for 1-D weights
    loss_name: str
    error_name: str
    data: str  # what loss and Hessian are taken on, with what else changes them
    chunk: int  # vectors that a Hessian product takes at a time
    batch: int  # networks that `losses` takes at a time
    floor: float | None  # a lower bound of the highest eigenvalue, for any weights
    restrictions: dict[str, list[bool]]  # Hessians of some parameters only: name -> which

    def weights(self, state: str) -> list[Tensor]:
        """Weights (1, ...) each; UsageError where there are none."""

    def gradients(self, params: Sequence[Tensor]) -> Callable[[], Iterable[Gradient]]:
        """Gradients of the training loss at leaves (1, ...) that require them, for `hessian_product`."""

    def losses(self, params: Sequence[Tensor]) -> Tensor:
        """Training losses (k,) float64 on the CPU."""

    def errors(self, params: Sequence[Tensor]) -> Tensor:
        """Test errors (k,) float64 on the CPU."""

    def loss_and_gradients(self, params: Sequence[Tensor], step: int) -> tuple[Tensor, list[Tensor]]:
        """What a bend descends: losses (k,) and gradients (k, ...), of mini-batch number `step` where there are any."""

    def features(self, params: Sequence[Tensor], samples: int) -> dict[str, Tensor]:
        """Of one network: layer -> (N, d) at fixed test inputs, N <= samples; the last is "output"."""

    def along_path(self) -> Subject:
        """What evaluates points between two runs."""


# ---- a piece of work ---------------------------------------------------------------------------


@dataclass
class Job:
    """One result: what it is made of, and its files.

    `made_with` is what a result that is there is compared by: flags, data, weights.
    """

    tool: str
    args: argparse.Namespace
    open: Callable[..., Subject]  # folder, args, dtype
    subjects: list[Subject]
    name: str
    parameters: int  # of one network
    arguments: dict[str, Any]
    made_with: dict[str, Any]
    signals: Signals | None = None

    def __post_init__(self) -> None:
        self.subject, self.run = self.subjects[0], self.subjects[0].run
        self.progress, self.start = Progress(f"{self.run.key.folder()} {self.tool}"), time.monotonic()

    def path(self, ending: str) -> Path:
        """One of the files."""
        return self.run.path / f"{self.name}.{ending}"

    def is_there(self) -> bool:
        """Tell whether the result is there; UsageError when there is another, without --force."""
        return is_there(self.path("json"), self.made_with, lambda found: {
            name: found["arguments"].get(name[2:]) if name.startswith("--") else found.get(name)
            for name in self.made_with}, self.args.force, AGAIN)

    def watch(self, done: int, total: int, **info: float) -> None:
        """Show progress; Interrupted once a signal came."""
        self.progress.update(done, total, **info)
        if self.signals is not None and self.signals.requested:
            raise Interrupted

    def write(self, arrays: Mapping[str, np.ndarray], figure: Any, page: str | None = None, **found: Any) -> None:
        """Write the files, .json last."""
        self.path("json").unlink(missing_ok=True)  # what is there belongs to the files that are replaced now
        atomic_write(self.path("npz"), lambda file: np.savez_compressed(file, **arrays))
        atomic_write(self.path("png"), lambda file: figure.savefig(file, format="png", dpi=150))
        if page is not None:
            atomic_write(self.path("html"), lambda file: file.write(page.encode()))
        made = {name: value for name, value in self.made_with.items() if not name.startswith("--")}
        write_json(self.path("json"), {
            "schema": 1, "arguments": self.arguments, **made, "parameters": self.parameters,
            **found, "environment": environment(self.args.device), "seconds": time.monotonic() - self.start})


def checksum(params: Sequence[Tensor]) -> str:
    """Of weights, the same on every device and in every precision that holds them."""
    digest = hashlib.sha256()
    for p in params:
        digest.update(p.detach().to("cpu", torch.float64).contiguous().numpy())
    return digest.hexdigest()[:16]


def add_tools(subparsers: Any, module: Any) -> None:
    """Add the four subcommands; `args.tool(args)` runs the chosen one and gives its exit code.

    Args:
        subparsers: what `ArgumentParser.add_subparsers` gives.
        module: has add_flags(parser, tool) and open_subject(folder, args, dtype), see `Subject`.
    """
    for tool in HELP:
        parser, flags = add_parser(subparsers, tool)
        module.add_flags(parser, tool)
        parser.set_defaults(tool=partial(run_tool, tool, flags, module.open_subject))


def run_tool(tool: str, flags: Sequence[str], open_subject: Callable[..., Subject], args: argparse.Namespace) -> int:
    """Check flags and all folders, then work on what is not there yet; gives the exit code (see batch.py)."""
    check_flags(tool, args)
    args.device = find_device(args.device) if isinstance(args.device, str) else args.device
    if tool == "connectivity":
        together = [[args.a, args.b]]
    else:
        folders = list(dict.fromkeys(folder.resolve() for folder in args.folders))
        together = [folders] if tool == "similarity" else [[folder] for folder in folders]
    waiting: dict[Run, list[Path]] = {}
    for folders in together:
        job = open_job(tool, flags, open_subject, folders, args)
        if not job.is_there():
            waiting[job.run] = folders

    def work(run: Run, signals: Signals) -> int:
        job = open_job(tool, flags, open_subject, waiting[run], args)  # again: things may have changed until now
        if not job.is_there():
            job.signals = signals
            try:
                TOOLS[tool](job)
            finally:
                job.progress.close()
        return 0

    return each_run(list(waiting), work)


def open_job(tool: str, flags: Sequence[str], open_subject: Callable[..., Subject], folders: Sequence[Path],
             args: argparse.Namespace) -> Job:
    """Open the runs of one result; what they are evaluated on is not loaded yet.

    Raises:
        UsageError: for folders or runs that the tool cannot work on.
    """
    dtype = getattr(torch, args.precision) if tool == "hessian" else None
    subjects = [open_subject(folder, args, dtype) for folder in folders]
    states = args.at if tool == "hessian" else [getattr(args, "at", "final")]
    first, sums = subjects[0], []
    for subject in subjects:
        path = subject.run.path
        for state in states:
            if state not in subject.states:
                raise UsageError(f"--at must be of {', '.join(subject.states)} for {path}, got {state}")
            params = subject.weights(state)
            if tool != "hessian" and not are_finite(params):
                raise UsageError(f"RUN_FOLDER {path}: its {state} weights are not finite (it diverged), {tool} is of "
                                 "finite ones")
            sums.append(checksum(params))
        differ = [f"{name} {first.task.get(name)} and {subject.task.get(name)}" for name in first.task | subject.task
                  if first.task.get(name) != subject.task.get(name)]
        if differ:
            raise UsageError(f"{first.run.path} and {path} must share their task, but differ in: {'; '.join(differ)}")
    if tool == "hessian" and args.method == "dense" and size(params) > MOST_DENSE:
        raise UsageError(f"--method dense takes up to {MOST_DENSE} weights, {first.run.path} has {size(params)}")
    arguments = {name: getattr(args, name) for name in flags}
    made_with = {f"--{name}": value for name, value in arguments.items()}
    data = {"connectivity": lambda: first.along_path().data, "similarity": lambda: "test inputs"}
    made_with |= {"tool": tool, "data": data.get(tool, lambda: first.data)(), "weights": sums}
    name = args.name or tool
    if tool == "connectivity" and not args.name:
        other = "-".join(subjects[1].run.key.folder().parts[1:])
        name = f"connectivity_{re.sub(r'[^A-Za-z0-9_.-]', '_', other)}"
    return Job(tool, args, open_subject, subjects, name, size(params), arguments, made_with)
