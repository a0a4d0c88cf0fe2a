# Twin of PINN/tests/forked.py - edit there and run: python experiments/twins.py --fix
"""Runs of the module's entry point in forks of one warm process, so that a start costs no import of torch.

The warm process never calls backward itself: autograd does not survive a fork after that. A fork can be told to die
like a power cut after so many seconds or at its n-th file operation, or to be sent a signal there.
"""

from __future__ import annotations

import atexit
import csv
import importlib
import json
import os
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

MODULE = Path(__file__).resolve().parents[1]
(ENTRY,) = [*MODULE.glob("run_*.py"), *MODULE.glob("scripts/*_sweep.py")]
(PACKAGE,) = (path.parent.name for path in MODULE.glob("*/files.py"))
FOREIGN = ("seconds", "environment", "config")  # may differ between two executions of one run


_warm: Warm | None = None


class Warm:
    """The warm process, seen from a test."""

    def __init__(self, folder: Path) -> None:
        """Start it; its forks work in `folder`."""
        self.folder = folder
        self.process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True, cwd=folder, env=os.environ | {"OMP_NUM_THREADS": "1"})

    def run(self, *argv: object, alarm: float = 0, at: int = 0, send: str = "SIGKILL") -> dict[str, Any]:
        """Execute the entry point with these arguments: exit status, standard error, number of file operations.

        alarm: seconds after which the process is killed; at: file operation before which it is sent `send`.
        """
        request = {"argv": [str(a) for a in argv], "alarm": alarm, "at": at, "send": send}
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        """End it."""
        self.process.communicate()


def warm(tmp_path_factory: Any) -> Warm:
    """For a fixture of module scope; one process serves all test files."""
    global _warm
    if _warm is None:
        _warm = Warm(tmp_path_factory.mktemp("elsewhere"))
        atexit.register(_warm.close)
    return _warm


def outcome(path: Path) -> dict[str, Any]:
    """What two executions of the same runs must have in common, bit for bit, and that nothing else is left."""
    import torch

    found: dict[str, Any] = {}
    for metrics in sorted(path.rglob("metrics.json")):
        files = {p.name for p in metrics.parent.iterdir()}
        assert files == {"config.json", "history.csv", "metrics.json", "model.pt"}, files
        result = {k: v for k, v in json.loads(metrics.read_text()).items() if k not in FOREIGN}
        result["metrics"].pop("runs_side_by_side")  # less, when it went on after others were done
        with open(metrics.with_name("history.csv"), newline="") as file:
            result["history"] = [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]
        weights = torch.load(metrics.with_name("model.pt"), weights_only=True)["params"]
        result["weights"] = [w.numpy().tobytes() for w in weights]
        found[str(metrics.parent.relative_to(path))] = result
    summary = {p.name for p in path.rglob("*") if p.is_file() and str(p.parent.relative_to(path)) not in found}
    assert all(name == "sweep_results.json" or name.endswith("_matrix.npy") for name in summary), summary
    return found


def _serve() -> None:
    sys.path[:0] = [str(MODULE), str(ENTRY.parent)]
    import torch
    import torch._dynamo  # the first optimizer imports it

    torch.set_num_threads(1)
    entry = importlib.import_module(ENTRY.stem)
    for line in sys.stdin:
        request = json.loads(line)
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(read)
            _child(entry.main, request, write)
        os.close(write)
        with open(read, encoding="utf-8") as pipe:
            *text, last = [*pipe.read().split("\0"), ""][:2] + [""]
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        operations = int(text[1]) if len(text) > 1 and text[1] else 0
        print(json.dumps({"rc": status, "err": text[0] + last, "operations": operations}), flush=True)


def _child(main: Any, request: dict[str, Any], write: int) -> None:
    count = 0

    def counted(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == request["at"]:
                os.kill(os.getpid(), signal.Signals[request["send"]])
            return function(*args, **kwargs)

        return call

    os.dup2(write, 2)
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    for name in ("fsync", "replace", "unlink"):
        setattr(os, name, counted(getattr(os, name)))
    sys.argv = [ENTRY.name, *request["argv"]]
    if request["alarm"]:
        signal.setitimer(signal.ITIMER_REAL, request["alarm"])
    code = 1
    try:
        code = main()
    except SystemExit as leave:
        code = leave.code
    except BaseException:
        traceback.print_exc()
    importlib.import_module(f"{PACKAGE}.files")._release_all()  # as at exit
    os.write(2, f"\0{count}".encode())
    os._exit(code)


if __name__ == "__main__":
    _serve()
