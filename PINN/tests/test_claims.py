"""Claims of run folders: living, dead, foreign and contested owners."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

from pinn import files, record  # noqa: E402
from pinn.record import Run  # noqa: E402
from run_folders import clean, make, prepared, spawn  # noqa: E402, F401

pytestmark = pytest.mark.usefixtures("clean")

HOLD = "assert run.claim(); print('claimed', flush=True); time.sleep(60)"
TRY = "sys.exit(0 if run.claim() else 3)"


def rewrite(run: Run, **changes: Any) -> Path:
    """Change who the claim says has the run."""
    claim = run.path / "claim"
    claim.write_text(json.dumps(json.loads(claim.read_text()) | changes))
    return claim


def test_second_process_is_refused_and_a_killed_one_succeeded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A living process keeps its run; a killed one loses it at once, even before it is reaped."""
    holder = spawn(HOLD, tmp_path)
    assert holder.stdout is not None and holder.stdout.readline() == "claimed\n"
    try:
        assert spawn(TRY, tmp_path).wait() == 3
        assert not make(tmp_path).claim()
    finally:
        os.kill(holder.pid, signal.SIGKILL)
    os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)  # a zombie from here
    run = make(tmp_path)
    assert run.claim() and "does it still" not in capsys.readouterr().err
    holder.wait()
    assert spawn(TRY, tmp_path).wait() == 3
    run.release()
    assert spawn(TRY, tmp_path).wait() == 0
    assert not (run.path / "claim").exists(), "released at exit"


def test_claims_of_one_process(tmp_path: Path) -> None:
    """The same run twice on one command line is claimed once; release removes only our own."""
    run, twin = prepared(tmp_path), make(tmp_path)
    assert run.claim() and not twin.claim()
    twin.release()
    assert (run.path / "claim").exists()
    rewrite(run, token="another")
    run.release()
    assert (run.path / "claim").exists()


def test_reused_process_number(tmp_path: Path) -> None:
    """A living process with the number of a dead one does not count as the owner."""
    run = prepared(tmp_path)
    files._held.clear()
    rewrite(run, start="another boot 123")
    assert make(tmp_path).claim()


@pytest.fixture
def own_heart(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next claim starts a heart: that of an earlier test may sleep for long."""
    monkeypatch.setattr(files, "_heart", None)


@pytest.mark.usefixtures("own_heart")
def test_claim_on_another_host_with_a_heartbeat_is_respected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another host touches is alive; the heartbeat of this process, one for all its runs, does touch."""
    threads = threading.enumerate()
    run, _ = prepared(tmp_path), prepared(tmp_path, 1)
    assert [thread.name for thread in threading.enumerate() if thread not in threads] == ["claims"]
    claim = rewrite(run, host="elsewhere")
    before = claim.stat().st_mtime_ns
    monkeypatch.setattr(files, "HEARTBEAT", 2.0)  # patience, for a busy machine
    assert not make(tmp_path).claim()
    assert claim.stat().st_mtime_ns > before


@pytest.mark.parametrize("content", ["foreign", "empty", "cut short"])
def test_claim_without_a_heartbeat_is_taken_over(tmp_path: Path, content: str) -> None:
    """Still for a little over one interval: dead, whatever is left of it."""
    run = prepared(tmp_path)
    files._held.clear()
    claim = rewrite(run, host="elsewhere")
    if content != "foreign":
        claim.write_text("" if content == "empty" else claim.read_text()[:20])
    start, taker = time.monotonic(), make(tmp_path)
    assert taker.claim() and time.monotonic() - start >= files.HEARTBEAT
    assert json.loads(claim.read_text())["pid"] == os.getpid()
    assert {p.name for p in run.path.iterdir()} == {"config.json", "claim"}


@pytest.mark.usefixtures("own_heart")
def test_requeued_job_takes_its_own_claim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same SLURM job restarted on another host need not wait for itself."""
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "4")
    run = prepared(tmp_path)
    rewrite(run, host="elsewhere")
    monkeypatch.setattr(files, "HEARTBEAT", 2.0)
    assert not make(tmp_path).claim(), "a second task of the running job must not take it"
    assert "does it still" in capsys.readouterr().err
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert make(tmp_path).claim() and "does it still" not in capsys.readouterr().err


def test_two_takers_of_a_stale_claim(tmp_path: Path) -> None:
    """Of many newcomers in the same instant exactly one gets the run, each time."""
    run = prepared(tmp_path)
    files._held.clear()
    stale = json.dumps(json.loads((run.path / "claim").read_text()) | {"start": "dead"})
    code = """
for k in range(40):
    while not Path(sys.argv[1], f"go{k}").exists(): pass
    print(int(run.claim()), flush=True)
    while not Path(sys.argv[1], f"end{k}").exists(): time.sleep(1e-3)
    run.release()
    print("released", flush=True)
"""
    takers = [spawn(code, tmp_path) for _ in range(3)]
    outputs = [taker.stdout for taker in takers if taker.stdout is not None]
    try:
        for k in range(40):
            (run.path / "claim").write_text(stale)
            (tmp_path / f"go{k}").touch()
            assert sorted(out.readline() for out in outputs) == ["0\n", "0\n", "1\n"]
            (tmp_path / f"end{k}").touch()
            assert [out.readline() for out in outputs] == ["released\n"] * 3
    finally:
        for taker in takers:
            taker.kill()
            taker.wait()


def test_claim_all_watches_at_the_same_time(tmp_path: Path) -> None:
    """Ten doubtful claims take as long as one."""
    runs = [make(tmp_path, seed) for seed in range(10)]
    for run in runs[:8]:
        run.prepare()
    files._held.clear()
    for run in runs[:8]:
        rewrite(run, host="elsewhere")
    busy = make(tmp_path, 9)
    assert busy.claim()
    start = time.monotonic()
    assert record.claim_all(runs) == runs[:9]
    assert time.monotonic() - start < 8 * files.HEARTBEAT, "one by one it is 12"


def test_forked_child_does_not_release(tmp_path: Path) -> None:
    """A worker process that exits normally leaves the claim to its parent."""
    code = """
run.claim()
if os.fork() == 0:
    sys.exit(0)
os.wait()
sys.exit(0 if (run.path / "claim").exists() else 1)
"""
    assert spawn(code, tmp_path).wait() == 0
