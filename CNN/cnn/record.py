# Twin of PINN/pinn/record.py - edit there and run: python experiments/twins.py --fix
"""Run folders: one folder a run, safe to kill, resume, repeat and share between processes.

    <save_path>/<system>/<strategy>/<physical>_<value>/<data>_<value>/seed_<k>/
        config.json     every resolved argument
        history.csv     one row a logged iteration
        checkpoint.pt   while training (checkpoint.prev.pt: the one before it)
        claim           while a process works here (see files.py)
        model.pt        final weights
        steps.*         step lengths, where they were recorded (steps.py)
        hessian.* ...   what diagnose.py found (diagnosis.py)
        metrics.json    the result, written last: its presence means done
        failed.json     the traceback of a run that raised, until the next start

For runs side by side:

    runs, busy = begin(runs, force, "convection/lbfgs n_100")
    for position, group in common_position(runs):
        states = [run.load(position) for run in group] if position else None
        ...  # train: run.log(row); now and then run.save(position, state), then run.commit()
        for run in group:
            run.finish(...)
"""

from __future__ import annotations

import csv
import json
import os
import sys
import traceback
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from io import FileIO, StringIO
from pathlib import Path
from typing import Any

from .files import Claimable, UsageError, atomic_write, read_text, strict, tensor_writer, warn_once, write_json

REQUEUE = 75  # exit code of a run that was asked to stop and can go on: "requeue me"
AXES = ("physical", "data")  # of a regime map
RESULTS = ("steps.*", "hessian.*", "landscape.*", "connectivity_*", "similarity.*")  # of diagnose.py


@dataclass(frozen=True)
class RunKey:
    """What names a run, and so its folder."""

    module: str
    model: str
    system: str
    strategy: str
    physical_name: str
    physical_value: float | str  # a range is text: "1-2.5"
    data_name: str
    data_value: int | float
    seed: int

    def folder(self) -> Path:
        """Give the folder below the save path; values are printed shortest: 30, 0.5, 1e-05."""
        values = (self.physical_value, self.data_value)
        physical, data = (v if isinstance(v, str) else repr(float(v)).removesuffix(".0") for v in values)
        return Path(
            self.system,
            self.strategy,
            f"{self.physical_name}_{physical}",
            f"{self.data_name}_{data}",
            f"seed_{self.seed}",
        )


class Run(Claimable):
    """One run's folder: its claim, configuration, history, checkpoints and result.

    `config` holds every resolved argument; those named in `volatile` may differ between two
    starts of the same run (device, force, wandb, save_path, log settings).
    """

    def __init__(self, save_path: Path, key: RunKey, config: dict[str, Any], volatile: Collection[str] = (),
                 flag: str = "--save_path") -> None:
        """Describe the run; nothing is touched on disk. `flag` is how the command line calls the save path."""
        super().__init__(Path(save_path) / key.folder())
        self.save_path, self.flag = Path(save_path), flag
        self.key, self.config, self.volatile = key, config, frozenset(volatile)
        self._checkpoint = self.path / "checkpoint.pt"
        self._previous = self.path / "checkpoint.prev.pt"
        self._history: FileIO | None = None
        self._pending = b""  # rows that a full disk did not take yet
        self._columns: list[str] = []
        self._rows = 0  # rows of history.csv that count

    def is_done(self) -> bool:
        """Tell whether metrics.json is there and whole."""
        try:
            return isinstance(json.loads((self.path / "metrics.json").read_text()), dict)
        except (OSError, ValueError):
            return False

    def check_config(self) -> None:
        """Raise UsageError naming each argument that differs from the config.json that is there, or if it is broken."""
        text = read_text(self.path / "config.json")
        if text is None:
            return
        try:
            before, now = (_flat(json.loads(text)) for text in (text, json.dumps(strict(self.config))))
        except (ValueError, AttributeError):
            raise UsageError(f"{self.path}/config.json is damaged; use another {self.flag} or --force") from None
        changes = []
        for name in [name for name in before | now if name not in self.volatile]:
            old, new = before.get(name, "(absent)"), now.get(name, "(absent)")
            if old != new:
                changes.append(f"{name} {old} -> {new}")
        if changes:
            raise UsageError(
                f"{self.path} holds a run with other arguments: {', '.join(changes)}; "
                f"use another {self.flag} or --force"
            )

    def prepare(self, force: bool = False) -> None:
        """Claim the folder (made when absent), tidy it and write config.json.

        `force` removes the earlier run. Where another process has the run nothing is changed, and
        claim() tells. Raises UsageError for a configuration that differs (without `force`) and
        for a save path that cannot be written.
        """
        if not force:
            self.check_config()
        if not self.claim():
            return
        earlier = ["metrics.json", "checkpoint*.pt", "model*.pt", "history.csv", "config.json", *RESULTS]
        for pattern in [*(earlier if force else ()), "*.tmp", "failed.json"]:
            for path in self.path.glob(pattern):
                path.unlink(missing_ok=True)
        if not (self.path / "config.json").exists():
            try:
                write_json(self.path / "config.json", self.config)
            except OSError as error:
                raise UsageError(f"{self.flag} {self.save_path}: cannot write: {error}") from error

    def claim(self) -> bool:
        """Take the run for this process; False (see `holder`) when a living process has it.

        The claim of a dead process is taken over. A run may have been finished just before: ask
        is_done() afterwards. Raises UsageError where the save path cannot be written.
        """
        try:
            return super().claim()
        except OSError as error:
            raise UsageError(f"{self.flag} {self.save_path}: cannot write: {error}") from error

    def release(self) -> None:
        """Give the claim back, if it is ours, and close the history."""
        with suppress(OSError):
            self._write_rows()
        if self._history is not None:
            self._history.close()
            self._history = None
        super().release()

    def log(self, row: Mapping[str, Any]) -> None:
        """Append a row to history.csv; a column that appears later is empty in earlier rows.

        On a full disk warns once; the row is kept and goes out with a later one.
        """
        values = {key: v.item() if hasattr(v, "item") else v for key, v in row.items()}
        try:
            if self._history is None or not values.keys() <= set(self._columns):
                self._write_rows()
                self._open_history(values)
            line = StringIO()
            csv.writer(line, lineterminator="\n").writerow(values.get(column, "") for column in self._columns)
            self._pending += line.getvalue().encode()
            self._rows += 1
            self._write_rows()
        except OSError as error:
            warn_once(f"cannot write {self.path}/history.csv: {error}", "history")

    def _write_rows(self, sync: bool = False) -> None:
        if self._history is not None:
            while self._pending:
                self._pending = self._pending[self._history.write(self._pending) :]
            if sync:
                os.fsync(self._history.fileno())

    def _open_history(self, columns: Collection[str] = ()) -> None:
        """Cut history.csv to the rows that count, append columns, and open it for appending."""
        path = self.path / "history.csv"
        header, *rows = (read_text(path) or "\n").splitlines()[: self._rows + 1]
        before = header.split(",") if rows else []
        self._columns, self._rows = list(dict.fromkeys([*before, *columns])), len(rows)
        wider = "," * (len(self._columns) - len(before))
        text = "\n".join([",".join(self._columns), *(row + wider for row in rows), ""])
        atomic_write(path, lambda file: file.write(text.encode()))
        if self._history is not None:
            self._history.close()
        self._history, self._pending = FileIO(path, "a"), b""

    def save(self, position: tuple[int, ...], state: dict[str, Any]) -> bool:
        """Write a checkpoint atomically; the one that was there is kept until commit().

        `position` says how far the run is; a later one compares greater. A file system error
        (full disk) leaves the old checkpoint, warns once and returns False. Raises TypeError for
        a state that torch.load(weights_only=True) would refuse.
        """
        try:
            self._write_rows(sync=True)
            data = {"position": position, "rows": self._rows, "state": state}
            atomic_write(self._checkpoint, tensor_writer(data), self._previous)
        except OSError as error:
            warn_once(f"{self._checkpoint} not saved, training goes on: {error}", "save")
            return False
        return True

    def _readable(self) -> list[tuple[tuple[int, ...], Path]]:
        import torch

        found = []
        for path in (self._checkpoint, self._previous):
            try:  # mapped, not read: only the position is looked at
                data = torch.load(str(path), map_location="cpu", mmap=True, weights_only=True)
                found.append((data["position"], path))
            except FileNotFoundError:
                pass
            except Exception as error:  # torch raises all sorts for a file that is cut short
                reason = str(error).strip().partition("\n")[0]
                warn_once(f"{path} cannot be read and is skipped: {reason}")
        return found

    def positions(self) -> list[tuple[int, ...]]:
        """Give the positions of the checkpoints that are there and readable, newest first."""
        return [position for position, _ in self._readable()]

    def load(self, position: tuple[int, ...], mapped: bool = False) -> dict[str, Any]:
        """Go back to a checkpoint: give its state (on the CPU) and cut history.csv to its rows.

        A newer checkpoint is dropped. `mapped` tensors lie in the file until they are looked at: copy them, soon.
        Raises ValueError when there is none at this position.
        """
        import torch

        path = dict(reversed(self._readable())).get(position)
        if path is None:
            raise ValueError(f"{self.path} has no checkpoint at {position}")
        data = torch.load(str(path), map_location="cpu", weights_only=True, mmap=mapped)
        os.replace(path, self._checkpoint)
        self._rows = data["rows"]
        self._open_history()
        return data["state"]

    def restart(self) -> None:
        """Forget checkpoints and history: the run begins anew."""
        if self._history is not None:
            self._history.close()
        self._history, self._pending, self._columns, self._rows = None, b"", [], 0
        for path in (self._checkpoint, self._previous):
            path.unlink(missing_ok=True)

    def commit(self) -> None:
        """Drop the previous checkpoint: call it once all runs of the group have saved."""
        if self._checkpoint.exists():
            self._previous.unlink(missing_ok=True)

    def _identity(self) -> dict[str, Any]:
        key = asdict(self.key)
        names = {name: key[name] for name in ("module", "model", "system", "strategy")}
        axes = {a: {"name": key[f"{a}_name"], "value": key[f"{a}_value"]} for a in AXES}
        return {"schema": 1, **names, **axes, "seed": key["seed"]}

    def finish(
        self,
        *,
        status: str,
        stop_reason: str,
        train_loss: float,
        test_error: float,
        metrics: dict[str, Any],
        iterations: int,
        evaluations: int,
        seconds: float,
        environment: dict[str, Any],
        model: dict[str, Any] | None = None,
    ) -> None:
        """Write model.pt (if any) and then metrics.json, drop the checkpoints, release the claim.

        `status` is finished or diverged; a loss or error that is not finite means diverged.
        Raises OSError when the disk is full: the checkpoints stay and the run is not done.
        """
        if status not in ("finished", "diverged"):
            raise ValueError(f"status {status!r}: finished or diverged")
        result = self._identity() | {"train_loss": train_loss, "test_error": test_error}
        if strict(train_loss) is None or strict(test_error) is None:
            status = "diverged"
        result |= {"metrics": metrics, "status": status, "stop_reason": stop_reason}
        result |= {"iterations": iterations, "evaluations": evaluations, "seconds": seconds}
        result |= {"config": self.config, "environment": environment}
        self._write_rows(sync=True)
        if model is not None:
            atomic_write(self.path / "model.pt", tensor_writer(model))
        write_json(self.path / "metrics.json", result)
        for path in (self._checkpoint, self._previous):
            path.unlink(missing_ok=True)
        self.release()

    def tidy(self) -> None:
        """Remove what a process that was killed just after it had recorded the result left in the folder."""
        left = [path for pattern in ("checkpoint*.pt", "*.tmp", "failed.json") for path in self.path.glob(pattern)]
        with suppress(OSError, UsageError):
            if (left or (self.path / "claim").exists()) and self.claim():
                for path in left:
                    path.unlink(missing_ok=True)
                self.release()

    def fail(self, error: BaseException) -> None:
        """Note a run that raised in failed.json, keep its checkpoints and release the claim."""
        note = {"error": f"{type(error).__name__}: {error}", "config": self.config}
        note["traceback"] = "".join(traceback.format_exception(error))
        try:
            write_json(self.path / "failed.json", self._identity() | note)
        except OSError as reason:
            warn_once(f"cannot write {self.path}/failed.json: {reason}")
        self.release()


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Name the entries of nested dictionaries: {"opt_params": {"lr": 1}} is {"opt_params.lr": 1}."""
    flat = {}
    for name, value in config.items():
        flat |= {f"{name}.{k}": v for k, v in _flat(value).items()} if isinstance(value, dict) else {name: value}
    return flat


def claim_all(runs: Sequence[Run]) -> list[Run]:
    """Claim runs, watching doubtful claims at the same time; give those that are ours."""
    with ThreadPoolExecutor(32) as pool:
        return [run for run, ours in zip(runs, pool.map(Run.claim, runs), strict=True) if ours]


def begin(runs: Sequence[Run], force: bool, label: str) -> tuple[list[Run], bool]:
    """Prepare and claim the runs that are to be trained here; say which are not and why.

    Returns:
        The runs that are ours, and whether another process has some of the others.

    Raises:
        UsageError: for a folder that cannot be written or holds another configuration.
    """
    for run in runs:
        if force or not run.is_done():
            run.prepare(force)
        else:
            run.tidy()
    done = [run for run in runs if run.is_done()]
    if done:
        what = f"{done[0].path}" if len(done) == 1 else f"{len(done)} runs of {label}"
        print(f"already done, nothing to do: {what} (--force trains again)", file=sys.stderr)
    waiting = [run for run in runs if run not in done]
    ours = [run for run in claim_all(waiting) if not run.is_done()]
    others = [run for run in waiting if run not in ours and not run.is_done()]
    for run in others:
        print(f"left alone, another process is training it ({run.holder}): {run.path}", file=sys.stderr)
    return ours, bool(others)


def common_position(runs: Sequence[Run]) -> list[tuple[tuple[int, ...] | None, list[Run]]]:
    """Partition runs into groups that can go on together, each with its position.

    As many runs as share a checkpoint position go on from the newest that they share; runs
    without a checkpoint form the group None, which starts from the beginning.
    """
    left, groups = {run: set(run.positions()) for run in runs}, []
    while votes := Counter(position for positions in left.values() for position in positions):
        best = max(votes, key=lambda position: (votes[position], position))
        groups.append((best, [run for run, positions in left.items() if best in positions]))
        left = {run: positions for run, positions in left.items() if best not in positions}
    return [*groups, (None, list(left))] if left else groups
