# Twin of PINN/pinn/files.py - edit there and run: python experiments/twins.py --fix
"""Files that survive kills and full disks, and folders that processes share without colliding.

What must be whole is written to `*.tmp`, synced and moved into place (atomic_write, write_json). A folder belongs to
the process whose `claim` file lies in it (Claimable): the process touches the file every HEARTBEAT seconds, and when it
is dead the next one takes the claim over. torch is imported only to write tensors.
"""

from __future__ import annotations

import atexit
import fcntl
import json
import math
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from io import BytesIO
from pathlib import Path, PurePath
from typing import Any, BinaryIO

HEARTBEAT = 20.0  # seconds between two signs of life of a claim


class UsageError(Exception):
    """Bad input: the command line prints `error: <text>` in one line and exits with 2."""


# ---- files -------------------------------------------------------------------------------------


def atomic_write(path: Path, writer: Callable[[BinaryIO], object], previous: Path | None = None) -> None:
    """Write a file so that a kill at any point leaves the old content or the new, never a part.

    `writer` gets the open temporary file; with `previous`, the file to be replaced moves there.
    Raises what the writer or the file system raise (OSError), after removing the temporary file.
    """
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with open(temporary, "xb") as file:
            writer(file)
            file.flush()
            os.fsync(file.fileno())
        if previous is not None and path.exists():
            os.replace(path, previous)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    with suppress(OSError):  # some network file systems cannot sync a folder
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def strict(obj: Any) -> Any:
    """Turn into what strict JSON can hold: NaN and Inf to None, tensors and arrays to numbers."""
    if isinstance(obj, float):
        return float(obj) if math.isfinite(obj) else None
    if isinstance(obj, Mapping):
        return {str(key): strict(value) for key, value in obj.items()}
    if isinstance(obj, (list, tuple, range)):
        return [strict(value) for value in obj]
    if hasattr(obj, "tolist"):  # torch tensors, numpy arrays and scalars
        return strict(obj.tolist())
    return str(obj) if isinstance(obj, PurePath) else obj


def write_json(path: Path, obj: Any) -> None:
    """Write strict JSON atomically. Raises OSError, and TypeError for what JSON cannot hold."""
    text = json.dumps(strict(obj), indent=2, allow_nan=False) + "\n"
    atomic_write(path, lambda file: file.write(text.encode()))


def read_text(path: Path) -> str | None:
    """Read a file; None when there is none."""
    with suppress(FileNotFoundError, NotADirectoryError):
        return path.read_text(encoding="utf-8")
    return None


def tensor_writer(obj: Any) -> Callable[[BinaryIO], object]:
    """What writes an object as torch.save does, straight to a file: a state may be as large as the memory left.

    Raises TypeError for what torch.load(weights_only=True) would refuse: that must not replace what can be read back.
    """
    import torch

    types = _types(obj)
    try:  # it depends on the types alone, so a copy without the numbers tells
        if not types <= _readable_types:
            buffer = BytesIO()
            torch.save(_each_tensor(obj, lambda tensor: tensor.new_empty(0, device="cpu")), buffer)
            buffer.seek(0)
            torch.load(buffer, weights_only=True)
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise TypeError(f"save tensors, numbers, strings and containers only: {reason}") from error
    _readable_types.update(types)

    def write(file: BinaryIO) -> None:
        sink = _Sink(file)
        torch.save(_each_tensor(obj, _compact), sink)
        if sink.error is not None:
            raise sink.error

    return write


class _Sink:
    """A file for torch.save, which would turn the error of a full disk into another: it is kept for afterwards."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.error = file, None

    def write(self, data: Any) -> int:
        """All of it is taken; what comes after an error is dropped."""
        if self.error is None:
            try:
                self.file.write(data)
            except OSError as error:
                self.error = error
        return len(data)

    def flush(self) -> None:
        """The file is flushed when it is whole."""


def _compact(tensor: Any) -> Any:
    """A copy of a slice: stacked weights would be saved with the storage of all runs."""
    tensor = tensor.detach()
    whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return tensor if whole else tensor.clone()


def _each_tensor(obj: Any, change: Callable[[Any], Any]) -> Any:
    """A nested structure with its tensors replaced."""
    if hasattr(obj, "detach"):
        return change(obj)
    if isinstance(obj, Mapping):
        return {key: _each_tensor(value, change) for key, value in obj.items()}
    if isinstance(obj, (list, tuple)):
        copies = [_each_tensor(value, change) for value in obj]
        return copies if isinstance(obj, list) else tuple(copies)
    return obj


_readable_types: set[Any] = set()


def _types(obj: Any) -> set[Any]:
    """Types in a nested structure, with the dtypes of tensors."""
    if isinstance(obj, Mapping):
        inner = [*obj.keys(), *obj.values()]
    else:
        inner = obj if isinstance(obj, (list, tuple)) else ()
    return {(type(obj), getattr(obj, "dtype", None))}.union(*map(_types, inner))


_warned: set[str] = set()


def warn_once(text: str, topic: str = "") -> None:
    """Print one warning line on stderr, once per process and topic (by default the text)."""
    if (topic or text) not in _warned:
        _warned.add(topic or text)
        tqdm = sys.modules.get("tqdm")  # a bar may be on the screen: print above it
        write = tqdm.tqdm.write if hasattr(tqdm, "tqdm") else print
        write(f"warning: {text}", file=sys.stderr)


# ---- claims ------------------------------------------------------------------------------------

_held: set[Claimable] = set()  # the folders that this process has
_heart: threading.Thread | None = None


def _beat() -> None:
    while True:
        time.sleep(HEARTBEAT)
        for folder in tuple(_held):
            with suppress(OSError):
                os.utime(folder.path / "claim")


@atexit.register
def _release_all() -> None:
    for folder in tuple(_held):
        folder.release()


os.register_at_fork(after_in_child=_held.clear)  # a forked worker must not release our claims


def _process(pid: int) -> str | None:
    """Identify a process by its start: "" where that cannot be known, None when it is dead."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if state in "ZX" else f"{boot} {fields[18]}"  # field 22 of proc(5): starttime
    except OSError:  # dead, hidden from us, or not Linux
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            pass
        return ""


def _whoami() -> dict[str, Any]:
    host, environ = socket.gethostname(), os.environ
    with suppress(OSError):  # process numbers mean something within one namespace only
        host += "/" + os.readlink("/proc/self/ns/pid")
    return {
        "host": host,
        "pid": os.getpid(),
        "start": _process(os.getpid()),
        "slurm_job": [environ.get("SLURM_JOB_ID"), environ.get("SLURM_ARRAY_TASK_ID")],
        "slurm_restarts": int(environ.get("SLURM_RESTART_COUNT") or 0),
        "time": time.strftime("%Y-%m-%d %H:%M:%S"),
        "token": uuid.uuid4().hex,
    }


def _is_alive(path: Path, text: str, owner: dict[str, Any], me: dict[str, Any]) -> bool:
    """Tell whether the owner of a claim lives; on another host, by watching for a sign."""
    if owner.get("host") == me["host"]:
        return _process(owner["pid"]) in ("", owner["start"])
    same_job = me["slurm_job"][0] and me["slurm_job"] == owner.get("slurm_job")
    if same_job and me["slurm_restarts"] > owner["slurm_restarts"]:
        return False  # we are its requeue
    print(f"{path}: {owner.get('host')} had it, does it still?", file=sys.stderr, flush=True)
    end, before = time.monotonic() + 1.5 * HEARTBEAT, None
    with suppress(FileNotFoundError):  # released meanwhile
        while time.monotonic() < end:
            with open(path) as file:  # opened anew: network file systems cache a mere stat
                now = file.read(), os.fstat(file.fileno()).st_mtime_ns
            if now[0] != text or before not in (None, now):
                return True
            before = now
            time.sleep(HEARTBEAT / 20)
    return False


def _take_over(path: Path, text: str, mine: str) -> bool:
    """Replace a stale claim; False when another newcomer was quicker."""
    with suppress(FileNotFoundError), open(path, "r+") as stale:
        with suppress(OSError):  # a file system without locks: a gap of microseconds remains
            fcntl.flock(stale, fcntl.LOCK_EX)
        if read_text(path) == text:
            atomic_write(path, lambda file: file.write(mine.encode()))
            return True
    return False


class Claimable:
    """A folder in which one process works at a time."""

    def __init__(self, path: Path) -> None:
        """Describe the folder; nothing is touched on disk."""
        self.path = path
        self.holder = ""  # after a refused claim: who has the folder
        self._claim = ""

    def claim(self) -> bool:
        """Take the folder (made when absent); False (see `holder`) when a living process has it.

        The claim of a dead process is taken over. Raises OSError where the folder cannot be written.
        """
        global _heart
        path, me = self.path / "claim", _whoami()
        mine = json.dumps(me)
        self.path.mkdir(parents=True, exist_ok=True)
        while self not in _held:
            try:
                with open(path, "x") as file:
                    file.write(mine)
            except FileExistsError:
                text = read_text(path)
                if text is None:  # released between the two looks
                    continue
                owner = json.loads(text) if text.endswith("}") else {}  # {}: cut short
                if _is_alive(path, text, owner, me):
                    self.holder = f"process {owner.get('pid')} on {owner.get('host')}"
                    return False
                if not _take_over(path, text, mine):
                    continue
            except OSError:  # a full disk: leave no half claim
                path.unlink(missing_ok=True)
                raise
            self._claim = mine
            _held.add(self)
        if _heart is None or not _heart.is_alive():
            _heart = threading.Thread(target=_beat, name="claims", daemon=True)
            _heart.start()
        return True

    def release(self) -> None:
        """Give the claim back, if it is ours."""
        if self in _held:
            _held.discard(self)
            with suppress(OSError):
                if read_text(self.path / "claim") == self._claim:
                    (self.path / "claim").unlink()
