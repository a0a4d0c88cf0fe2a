"""The process that trains: signals, the machine, progress and Weights & Biases."""

from __future__ import annotations

import fcntl
import json
import math
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
import types
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

from pinn import files, session  # noqa: E402
from pinn.files import UsageError  # noqa: E402
from pinn.session import Progress, Signals, Wandb  # noqa: E402
from run_folders import clean, make  # noqa: E402, F401

pytestmark = pytest.mark.usefixtures("clean")


def test_signals_set_a_flag_and_handlers_come_back() -> None:
    """Each signal only asks; a second Ctrl-C interrupts; afterwards all is as before."""
    numbers = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    for number in numbers:
        with Signals() as signals:
            assert signals.requested is None
            os.kill(os.getpid(), number)
            assert signals.requested == number.name
    with pytest.raises(KeyboardInterrupt), Signals():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
    assert [signal.getsignal(number) for number in numbers] == before
    thread = threading.Thread(target=lambda: Signals().__enter__().__exit__())
    thread.start()
    thread.join()


def test_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It names the machine; the commit is that of this file's checkout, or None."""
    described = session.environment("cpu")
    assert {"python", "torch", "numpy", "platform", "device", "threads"} < set(described)
    assert described["device"].startswith("cpu (") and json.dumps(described)
    copy = tmp_path / "session.py"
    monkeypatch.setattr(session, "__file__", str(copy))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert session.environment("cpu")["git_commit"] is None

    def git(*arguments: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", str(tmp_path), *who, *arguments], check=True,
                       capture_output=True)  # fmt: skip

    copy.write_text("1")
    git("init")
    assert session.environment("cpu")["git_commit"] is None, "no commit yet"
    git("add", ".")
    git("commit", "-m", "first")
    git("tag", "v1")
    commit = session.environment("cpu")["git_commit"]
    assert len(commit) == 40 and int(commit, 16)
    copy.write_text("2")
    assert session.environment(torch.device("cpu"))["git_commit"] == commit + "-dirty"
    monkeypatch.setenv("PATH", "")
    assert session.environment("cpu")["git_commit"] is None


def test_progress_switched_off(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """PROGRESS_EVERY=0: not even the last line."""
    monkeypatch.setenv("PROGRESS_EVERY", "0")
    progress = Progress("convection/lbfgs n_1000")
    progress.update(1000, 40000)
    progress.close()
    assert capsys.readouterr().err == ""


def test_progress_in_a_log_file(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal: plain lines, not too often, and the last one at the end."""
    progress = Progress("convection/lbfgs n_1000", every=0.05)
    progress.update(1000, 40000)
    time.sleep(0.06)
    progress.update(1500, 40000, active=(7, 9), loss=2.1e-3)
    progress.update(1501, 40000, active=(7, 9), loss=2.0e-3)
    progress.update(40000, 40000, stage="nncg")
    progress.close()
    first, last = capsys.readouterr().err.splitlines()
    start = "convection/lbfgs n_1000: 1500/40000 iterations, 7 of 9 runs active, loss 2.1e-03, "
    assert first.startswith(start) and "it/s, about" in first and first.endswith(" left")
    assert last.startswith("convection/lbfgs n_1000: 40000/40000 iterations, stage nncg")
    Progress("nothing").close()
    assert capsys.readouterr().err == ""


def test_progress_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal of 80 columns: a bar with rate, time left and loss, that a warning does not break."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with open(theirs, "w", encoding="utf-8") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        progress = Progress("convection/lbfgs n_1000")
        for done in (5000, 5100):  # resumed
            progress.update(done, 40000, active=(7, 9), loss=2.1e-3)
        files.warn_once("the disk is full")
        progress.update(5200, 40000, active=(7, 9), loss=2.0e-3)
        progress.close()
    out = b""
    with suppress(OSError):  # a read may bring a part only; the end is an error
        while piece := os.read(ours, 100_000):
            out += piece
    os.close(ours)
    lines = [line.rstrip("\r").rpartition("\r")[2] for line in out.decode().rstrip().split("\n")]
    assert "warning: the disk is full" in lines
    bar = lines[-1]
    assert bar.startswith("convection/lbfgs n_1000 |") and "5200/40000, " in bar
    assert "it/s, " in bar and " left, loss 2.0e-03" in bar and len(bar) <= 80


def test_wandb_missing_or_misspelt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking for what is not there is bad input; disabled needs nothing."""
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UsageError, match="--wandb offline needs wandb"):
        Wandb("offline")
    monkeypatch.setitem(sys.modules, "wandb", types.ModuleType("wandb"))
    with pytest.raises(UsageError, match="--wandb online needs wandb"):
        Wandb("online")
    with pytest.raises(UsageError, match="disabled, offline or online"):
        Wandb("on")
    run = make(Path("never"))
    disabled = Wandb()
    disabled.log(run, {"loss": 1.0})
    disabled.finish(run, {})


class FakeRun:
    """What wandb.init gives, as far as it is used."""

    def __init__(self, broken: bool, **settings: Any) -> None:
        """Keep the settings."""
        self.settings, self.rows, self.summary, self.done = settings, [], {}, False
        self.broken = broken

    def log(self, row: dict[str, Any]) -> None:
        """Take a row."""
        if self.broken:
            raise ConnectionError("no network")
        self.rows.append(row)

    def finish(self) -> None:
        """End."""
        self.done = True


@pytest.mark.parametrize("broken", [False, True])
def test_wandb_with_a_fake_module(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    broken: bool,
) -> None:
    """Each run gets its own wandb run in the group; errors warn once and stop nothing."""
    made: list[FakeRun] = []
    fake: Any = types.ModuleType("wandb")
    fake.init = lambda **settings: made.append(FakeRun(broken, **settings)) or made[-1]
    monkeypatch.setitem(sys.modules, "wandb", fake)
    wandb, runs = Wandb("offline", group="sweep"), [make(tmp_path, seed) for seed in (0, 1)]
    for run in runs:
        wandb.log(run, {"iteration": 0, "loss": torch.tensor(0.5)})
    wandb.log(runs[0], {"iteration": 1, "loss": math.nan})
    wandb.finish(runs[0], {"train_loss": 0.5})
    if broken:
        assert len(made) == 1
        assert capsys.readouterr().err.count("warning: wandb stopped") == 1
        return
    first, second = made
    assert (first.settings["group"], first.settings["mode"]) == ("sweep", "offline")
    assert first.settings["config"] == {"lr": 1.0}
    assert first.settings["id"] != second.settings["id"]
    assert first.rows == [{"iteration": 0, "loss": 0.5}, {"iteration": 1, "loss": None}]
    assert first.summary == {"train_loss": 0.5} and first.done and not second.done
