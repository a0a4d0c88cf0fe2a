"""Run folders: kills at every point, full disks, resume and strict JSON."""

from __future__ import annotations

import errno
import json
import math
import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from folders import clean, finish, make, prepared, read_strict, rows, spawn  # noqa: F401

from pinn import files, record
from pinn.files import UsageError
from pinn.record import RunKey

pytestmark = pytest.mark.usefixtures("clean")

KEYS = """schema module model system strategy physical data seed train_loss test_error metrics
status stop_reason iterations evaluations seconds config environment""".split()


# ---- names, configuration, results -------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [(30.0, "30"), (30, "30"), (0.5, "0.5"), (1e-5, "1e-05"), (1000000, "1000000"), (-2.0, "-2")],
)
def test_folder_prints_values_shortest(value: float, text: str) -> None:
    """The folder is the contract's, whatever the type of the number."""
    key = RunKey("pinn", "mlp", "wave", "nncg", "beta", value, "n", 1000, 3)
    assert key.folder() == Path(f"wave/nncg/beta_{text}/n_1000/seed_3")


def test_finished_run_has_exactly_the_keys_and_files(tmp_path: Path) -> None:
    """A finished run leaves its result and no checkpoint, claim or temporary file."""
    run = prepared(tmp_path)
    assert not run.is_done()
    run.log({"iteration": 0, "train_loss": torch.tensor(0.5)})
    run.save((0, 1), {"w": torch.zeros(2)})
    result = finish(run, model={"w": torch.ones(2)}, train_loss=torch.tensor(0.25))
    assert list(result) == KEYS and result["schema"] == 1
    assert result["physical"] == {"name": "beta", "value": 30.0}
    assert (result["status"], result["train_loss"]) == ("finished", 0.25)
    files = {path.name for path in run.path.iterdir()}
    assert files == {"config.json", "history.csv", "model.pt", "metrics.json"}
    assert torch.load(run.path / "model.pt", weights_only=True)["w"].sum() == 2
    assert make(tmp_path).is_done()


@pytest.mark.parametrize("name", ["train_loss", "test_error"])
@pytest.mark.parametrize(
    "value", [math.nan, math.inf, torch.tensor(-math.inf), numpy.float32("nan")]
)
def test_not_finite_is_diverged_and_null(tmp_path: Path, name: str, value: Any) -> None:
    """A result that is not finite is recorded as divergence, in strict JSON."""
    result = finish(prepared(tmp_path), **{name: value}, metrics={"psi": [math.nan, 1.0]})
    assert (result["status"], result[name]) == ("diverged", None)
    assert result["metrics"] == {"psi": [None, 1.0]}


def test_unknown_status_is_refused(tmp_path: Path) -> None:
    """Only the two words of the contract are statuses."""
    with pytest.raises(ValueError, match="finished or diverged"):
        finish(prepared(tmp_path), status="ok")


def test_strict() -> None:
    """Numbers of every library become plain ones; what JSON cannot hold is an error."""
    given = {1: (torch.tensor([1, 2]), numpy.float32(0.5)), "p": Path("a/b"), "t": True, "n": None}
    given |= {"i": numpy.int64(3), "x": torch.tensor(math.nan), "s": "text"}
    plain = {"1": [[1, 2], 0.5], "p": "a/b", "t": True, "n": None, "i": 3, "x": None, "s": "text"}
    assert files.strict(given) == plain
    with pytest.raises(TypeError):
        files.write_json(Path("never"), {"a": object()})


def test_config_mismatch_names_argument_and_both_values(tmp_path: Path) -> None:
    """Other arguments in the same folder are refused before anything changes, done or not."""
    run = prepared(tmp_path)
    for _ in range(2):
        other = make(tmp_path, config={"lr": 0.5, "ic": "hard"})
        for refused in (other.check_config, other.prepare):
            with pytest.raises(UsageError) as error:
                refused()
            for word in ("lr 1.0 -> 0.5", "ic (absent) -> hard", "--save_path", "--force"):
                assert word in str(error.value)
            assert "\n" not in str(error.value)
        if not run.is_done():
            finish(run)


def test_config_is_compared_after_json(tmp_path: Path) -> None:
    """Neither a tuple for a list, 5 for 5.0, nor a volatile argument is another configuration."""
    make(tmp_path, config={"hidden": (50, 50), "beta": 5, "device": "cpu"}).prepare()
    config = {"hidden": [50, 50], "beta": 5.0, "device": "cuda", "nan": math.nan}
    make(tmp_path, config=config, volatile=("device", "nan")).check_config()


def test_force_redoes_and_keeps_foreign_files(tmp_path: Path) -> None:
    """With force only the files of the contract go, and other arguments are accepted."""
    run = prepared(tmp_path)
    run.log({"iteration": 0})
    run.save((0, 1), {})
    finish(run, model={})
    (run.path / "notes.txt").write_text("mine")
    again = make(tmp_path, config={"lr": 0.1})
    again.prepare(force=True)
    assert {p.name for p in run.path.iterdir()} == {"notes.txt", "config.json", "claim"}
    assert read_strict(run.path / "config.json") == {"lr": 0.1}
    assert again.positions() == [] and not again.is_done()


def test_force_leaves_a_run_that_another_process_has(tmp_path: Path) -> None:
    """Force does not pull the folder from under a living process."""
    run = prepared(tmp_path)
    run.save((0, 1), {})
    (run.path / "checkpoint.pt.abc.tmp").write_text("being written")
    other = make(tmp_path)
    other.prepare(force=True)
    assert not other.claim() and f"process {os.getpid()}" in other.holder
    assert {"checkpoint.pt", "checkpoint.pt.abc.tmp"} <= {p.name for p in run.path.iterdir()}


def test_start_removes_temporary_files_and_the_note_of_a_failure(tmp_path: Path) -> None:
    """A failed run says why, keeps its checkpoint and is forgotten by the next start."""
    run = prepared(tmp_path)
    run.save((0, 7), {"w": torch.ones(1)})
    try:
        raise RuntimeError("out of memory")
    except RuntimeError as error:
        run.fail(error)
    note = read_strict(run.path / "failed.json")
    assert note["error"] == "RuntimeError: out of memory" and "Traceback" in note["traceback"]
    assert note["config"] == {"lr": 1.0} and not run.is_done()
    (run.path / "checkpoint.pt.abc.tmp").write_text("half")
    again = prepared(tmp_path)
    assert {p.name for p in run.path.iterdir()} == {"config.json", "checkpoint.pt", "claim"}
    assert again.positions() == [(0, 7)]


def test_unwritable_save_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A save path that cannot be written is bad input, found before any work."""
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="--save_path .*file"):
        make(tmp_path / "file").prepare()

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(UsageError, match="--save_path .*Permission denied"):
        make(tmp_path / "other").prepare()


def test_finished_run_is_recognised_without_torch(tmp_path: Path) -> None:
    """Re-running a finished run is fast: torch is not even loaded."""
    finish(prepared(tmp_path))
    code = "assert run.is_done(); run.check_config(); assert 'torch' not in sys.modules"
    assert spawn(code, tmp_path).wait() == 0


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


def test_sigkill_in_a_loop_of_saves(tmp_path: Path) -> None:
    """A process killed at random moments always leaves checkpoints that load, and its rows."""
    code = """
import torch

def work():
    run.prepare(); assert run.claim()
    k = 0
    if run.positions():
        k = run.positions()[0][0]; run.load((k,))
    print(os.getpid(), flush=True)
    while True:
        k += 1
        run.log({"iteration": k, "loss": 1 / k})
        run.save((k,), {"k": torch.full((20000,), k)})
        if k % 2: run.commit()

while True:  # torch is loaded once: each victim is forked
    if pid := os.fork():
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
        sys.stdin.readline()
    else:
        work()
"""
    rng, last = random.Random(0), 0
    with spawn(code, tmp_path, stdin=subprocess.PIPE) as nursery:
        assert nursery.stdin is not None and nursery.stdout is not None
        try:
            for _ in range(8):
                victim = int(nursery.stdout.readline())
                time.sleep(0.05 + 0.2 * rng.random())
                os.kill(victim, signal.SIGKILL)
                assert int(nursery.stdout.readline()) == -signal.SIGKILL
                run = make(tmp_path)
                positions = run.positions()
                assert positions and positions[0][0] >= last
                last = positions[0][0]
                assert run.load(positions[0])["k"][0] == last
                assert [int(row["iteration"]) for row in rows(run)] == list(range(1, last + 1))
                run.release()
                nursery.stdin.write("next\n")
                nursery.stdin.flush()
        finally:
            nursery.kill()
    assert last > 8


def test_truncated_checkpoint_is_skipped_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
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
    with pytest.raises(UsageError, match="--save_path .*No space left"):
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
