"""Checkpoints and history of a run: kills at every point, full disks and resume."""

from __future__ import annotations

import errno
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

from pinn import files, record  # noqa: E402
from pinn.files import UsageError  # noqa: E402
from run_folders import clean, finish, make, prepared, rows, spawn  # noqa: E402, F401

pytestmark = pytest.mark.usefixtures("clean")

Nursery = tuple[Path, "subprocess.Popen[str]"]


@pytest.fixture(scope="module", autouse=True)  # from the start: it loads torch while other tests run
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    """A folder and a process that forks one to save in it for each line, telling its number and its end."""
    code = """
import torch

def work():
    run.prepare(); assert run.claim()
    start = k = 0
    if run.positions():
        start = k = run.positions()[0][0]; run.load((k,))
    while True:
        k += 1
        run.log({"iteration": k, "loss": 1 / k})
        run.save((k,), {"k": torch.full((20000,), k)})
        if k == start + 1: print(os.getpid(), flush=True)
        if k % 2: run.commit()

while sys.stdin.readline():
    if pid := os.fork():
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
    else:
        work()
"""
    path = tmp_path_factory.mktemp("nursery")
    with spawn(code, path, stdin=subprocess.PIPE) as process:
        yield path, process
        process.kill()


# ---- checkpoints -------------------------------------------------------------------------------


def test_state_round_trip_is_bit_equal(tmp_path: Path) -> None:
    """Everything that a trainer keeps comes back, random streams included."""
    generator, rng = torch.Generator().manual_seed(3), numpy.random.default_rng(5)
    net = torch.nn.Linear(2, 2)
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    state = {"model": net.state_dict(), "optimizer": optimizer.state_dict(), "mu": (1, 2.5, None)}
    state |= {"torch": generator.get_state(), "numpy": rng.bit_generator.state, "nan": math.nan}
    run = prepared(tmp_path)
    assert run.save((1, 20), state)
    expected = torch.rand(3, generator=generator), rng.random()
    loaded = run.load((1, 20))
    generator.set_state(loaded["torch"])
    rng.bit_generator.state = loaded["numpy"]
    assert torch.equal(torch.rand(3, generator=generator), expected[0])
    assert rng.random() == expected[1]
    assert loaded["mu"] == (1, 2.5, None) and math.isnan(loaded["nan"])
    torch.nn.Linear(2, 2).load_state_dict(loaded["model"])
    torch.optim.Adam(net.parameters()).load_state_dict(loaded["optimizer"])
    with pytest.raises(ValueError, match="no checkpoint"):
        run.load((9, 9))


def test_slice_of_a_stack_is_saved_alone(tmp_path: Path) -> None:
    """One run's slice of stacked weights does not drag the other runs' storage along."""
    run = prepared(tmp_path)
    run.save((0, 0), {"w": torch.zeros(500, 1000)[3]})
    assert (run.path / "checkpoint.pt").stat().st_size < 20_000


def test_state_that_could_not_be_read_back_is_refused(tmp_path: Path) -> None:
    """An unreadable checkpoint never replaces a readable one."""
    run = prepared(tmp_path)
    run.save((0, 1), {})
    with pytest.raises(TypeError, match="tensors, numbers"):
        run.save((0, 2), {"rng": random.Random()})
    assert run.positions() == [(0, 1)]


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


@pytest.mark.parametrize("committed", [True, False])
@pytest.mark.parametrize("point", ["half way", "fsync", "replace 1", "replace 2", "after"])
def test_a_kill_at_any_point_of_save_leaves_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str, committed: bool
) -> None:
    """Dying half way through torch.save, at the sync or at either move loses nothing."""
    run = prepared(tmp_path)
    for k in (1, 2):
        run.save((0, k), {"k": torch.tensor(k)})
    if committed:
        run.commit()
    replace, calls = os.replace, []

    def dying_replace(source: Any, target: Any) -> None:
        calls.append(target)
        if point == f"replace {len(calls)}":
            raise Killed
        replace(source, target)

    def dying_save(obj: Any, file: Any, *args: Any, **kwargs: Any) -> None:
        file.write(b"PK half of a file")
        raise Killed

    def dying_fsync(fd: int) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", lambda self, missing_ok=False: None)  # no time to tidy up
        patch.setattr(os, "replace", dying_replace)
        if point == "half way":
            patch.setattr(torch, "save", dying_save)
        if point == "fsync":
            patch.setattr(os, "fsync", dying_fsync)
        if point == "after":
            run.save((0, 3), {"k": torch.tensor(3)})
        else:
            with pytest.raises(Killed):
                run.save((0, 3), {"k": torch.tensor(3)})
    run.release()
    after = prepared(tmp_path)
    newest = after.positions()[0]
    assert newest == ((0, 3) if point == "after" else (0, 2))
    assert after.load(newest)["k"] == newest[1]
    assert not list(run.path.glob("*.tmp"))
    assert after.save((0, 4), {}) and after.positions()[0] == (0, 4)


def test_sigkill_in_a_loop_of_saves(nursery: Nursery) -> None:
    """A process killed at random moments always leaves checkpoints that load, and its rows."""
    path, process = nursery
    assert process.stdin is not None and process.stdout is not None
    rng, last = random.Random(0), 0
    for _ in range(8):
        process.stdin.write("another\n")
        process.stdin.flush()
        victim = int(process.stdout.readline())
        time.sleep(0.15 * rng.random())
        os.kill(victim, signal.SIGKILL)
        assert int(process.stdout.readline()) == -signal.SIGKILL
        run = make(path)
        positions = run.positions()
        assert positions and positions[0][0] > last
        last = positions[0][0]
        assert run.load(positions[0])["k"][0] == last
        assert [int(row["iteration"]) for row in rows(run)] == list(range(1, last + 1))
        run.release()
    assert last > 16


def test_truncated_checkpoint_is_skipped_with_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Files cut short, empty or foreign are skipped; the one before them is used."""
    run = prepared(tmp_path)
    for k in (1, 2):
        run.save((0, k), {"w": torch.ones(1000)})
    whole = (run.path / "checkpoint.pt").read_bytes()
    for content in (whole[: len(whole) // 2], whole[:-1], b"", b"not a checkpoint"):
        (run.path / "checkpoint.pt").write_bytes(content)
        files._warned.clear()
        assert run.positions() == [(0, 1)]
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "checkpoint.pt cannot be read" in error
    assert run.load((0, 1))["w"].sum() == 1000
    assert run.positions() == [(0, 1)] and not (run.path / "checkpoint.prev.pt").exists()


def test_common_position(tmp_path: Path) -> None:
    """Groups go on from the newest position they share; strangers and newcomers go alone."""
    a, b, c, d, e, f = (prepared(tmp_path, seed) for seed in range(6))
    for run in (a, b, c):
        run.save((0, 10), {"k": 10})
    assert record.common_position([a, b, c]) == [((0, 10), [a, b, c])]
    for run in (a, b):  # killed before c saved
        run.save((1, 5), {"k": 15})
    assert record.common_position([a, b, c]) == [((0, 10), [a, b, c])]
    assert record.common_position([a, b]) == [((1, 5), [a, b])]
    d.save((2, 0), {"k": 20})
    groups = record.common_position([e, d, c, b, a, f])
    assert groups == [((0, 10), [c, b, a]), ((2, 0), [d]), (None, [e, f])]
    assert record.common_position([e, f]) == [(None, [e, f])]
    assert record.common_position([]) == []
    # Going back drops the newer checkpoint, so a second kill in the same place is no worse.
    assert [run.load((0, 10))["k"] for run in (a, b, c)] == [10] * 3
    a.save((1, 5), {"k": 15})
    assert record.common_position([a, b, c]) == [((0, 10), [a, b, c])]
    for run in (b, c):
        run.save((1, 5), {"k": 15})
    for run in (a, b, c):
        run.commit()
        assert run.positions() == [(1, 5)]


def full_disk(*args: Any, **kwargs: Any) -> Any:
    """Stand in for a system call on a full disk."""
    raise OSError(errno.ENOSPC, "No space left on device")


def test_full_disk_while_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The old checkpoint stays, one line warns, training goes on, and later saves work again."""
    run, other = prepared(tmp_path), prepared(tmp_path, 1)
    run.save((0, 1), {})
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_disk)
        for k in (2, 3):
            assert run.save((0, k), {}) is False
            assert other.save((0, k), {}) is False
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "checkpoint.pt" in error and "No space left" in error
    assert run.positions() == [(0, 1)] and not list(tmp_path.rglob("*.tmp"))
    assert run.save((0, 4), {}) and run.positions() == [(0, 4), (0, 1)]


def test_full_disk_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """finish() raises, with the checkpoint kept and no half result."""
    run = prepared(tmp_path)
    run.save((0, 1), {})
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_disk)
        with pytest.raises(OSError, match="No space left"):
            finish(run, model={"w": torch.ones(1)})
    assert {p.name for p in run.path.iterdir()} == {"config.json", "claim", "checkpoint.pt"}
    finish(run)
    assert run.is_done()


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """A disk of 256 KiB, where one may be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no tmpfs can be mounted here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_really_full_disk(small_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On a disk that is full neither log nor save stops the run; freed, nothing is missing."""
    run = prepared(small_disk)
    assert run.save((0, 1), {"w": torch.zeros(1000)})
    run.log({"iteration": 0, "loss": 0.5})
    with pytest.raises(OSError), open(small_disk / "filler", "wb") as filler:
        while True:
            filler.write(bytes(1024))
            filler.flush()
    for k in range(1, 600):
        run.log({"iteration": k, "loss": 1 / k})
    assert run.save((0, 2), {"w": torch.zeros(50_000)}) is False
    assert capsys.readouterr().err.count("warning") == 2
    assert run.positions() == [(0, 1)] and not list(run.path.glob("*.tmp"))
    with pytest.raises(OSError):
        finish(run)
    assert not run.is_done()
    with pytest.raises(UsageError, match=r"--save_path .*No space left"):
        make(small_disk, 1).prepare()
    assert not (make(small_disk, 1).path / "claim").exists()
    (small_disk / "filler").unlink()
    finish(run)
    assert [int(row["iteration"]) for row in rows(run)] == list(range(600))


# ---- history -----------------------------------------------------------------------------------


def test_history_of_a_resumed_run_equals_the_uninterrupted_one(tmp_path: Path) -> None:
    """Rows after the checkpoint, half a row and a late column leave no trace."""

    def row(k: int) -> dict[str, Any]:
        late = {"lambda_max": torch.tensor(2.0)} if k >= 3 else {}
        return {"iteration": k, "stage": 'a,"b"', "loss": 1 / (k + 1), **late}

    whole = prepared(tmp_path / "whole")
    for k in range(6):
        whole.log(row(k))
    run = prepared(tmp_path / "killed")
    for k in range(5):
        run.log(row(k))
        if k == 1:
            run.save((0, k), {})
    with open(run.path / "history.csv", "a") as file:
        file.write("5,adam,0.1")
    run.release()
    again = prepared(tmp_path / "killed")
    again.load((0, 1))
    assert [r["iteration"] for r in rows(again)] == ["0", "1"]
    for k in range(2, 6):
        again.log(row(k))
    assert (again.path / "history.csv").read_bytes() == (whole.path / "history.csv").read_bytes()
    assert [r["lambda_max"] for r in rows(again)] == ["", "", "", "2.0", "2.0", "2.0"]
    assert rows(again)[0]["stage"] == 'a,"b"'


def test_history_starts_anew_without_a_checkpoint(tmp_path: Path) -> None:
    """A run that was killed before its first checkpoint does not keep its rows."""
    run = prepared(tmp_path)
    run.log({"iteration": 0})
    run.release()
    again = prepared(tmp_path)
    again.log({"iteration": 0, "loss": math.nan})
    assert rows(again) == [{"iteration": "0", "loss": "nan"}]


def test_checkpoint_before_the_first_row(tmp_path: Path) -> None:
    """A checkpoint without rows cuts everything."""
    run = prepared(tmp_path)
    run.save((0, 0), {})
    run.log({"iteration": 0})
    run.load((0, 0))
    run.log({"step": 5})
    assert rows(run) == [{"step": "5"}]
