"""A sweep dealt out to processes ends as it does in one, also when it is interrupted or loses a process."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from node.arguments import parse
from node.workers import deal

SCRIPT = Path(__file__).resolve().parents[1] / "run_sweep.py"
SWEEP = ("--optimizer", "Adam", "--physics-mode", "pinn", "--inv-b-values", "1", "4", "8", "--horizon-values", "0.5",
         "2", "--seeds", "0", "1", "--hidden", "6", "--test-horizon", "1", "--device", "cpu")


def start(path, *flags, **more):
    return subprocess.Popen([sys.executable, str(SCRIPT), *SWEEP, "--out-dir", str(path), *flags], cwd=path.parent,
                            stderr=subprocess.PIPE, text=True, **more)


def losses(path):
    found = {}
    for metrics in path.rglob("metrics.json"):
        found[str(metrics.parent.relative_to(path))] = json.loads(metrics.read_text())["train_loss"]
    return found


def children(pid):
    """Workers of the process: its children but for those that multiprocessing keeps for itself."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(p) for p in found if b"spawn_main" in Path(f"/proc/{p}/cmdline").read_bytes()]


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def begun(path):
    return len(list(path.rglob("checkpoint.pt"))) == 12


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    path = tmp_path_factory.mktemp("alone") / "out"
    process = start(path, "--budget", "smoke")
    assert process.wait() == 0, process.stderr.read()
    return losses(path)


def test_shares_are_even_and_keep_chains_whole():
    sweep = parse([*SWEEP, "--workers", "2"])
    runs = [sweep.settings.run(*cell) for cell in sweep.cells]
    shares = deal(sweep.settings, runs, 2)
    assert sorted(map(id, sum(shares, []))) == sorted(map(id, runs))
    assert sum(run.key.data_value for run in shares[0]) == sum(run.key.data_value for run in shares[1])
    assert [len(share) for share in deal(sweep.settings, runs, 99)] == [1] * 12 and deal(sweep.settings, [], 3) == []
    sweep = parse([*SWEEP[2:], "--cl-warmup", "--workers", "3"])
    runs = [sweep.settings.run(*cell) for cell in sweep.cells]
    shares = deal(sweep.settings, runs, 3)
    chains = [{(run.key.data_value, run.key.seed) for run in share} for share in shares]
    assert len(chains) == 3 and sum(map(len, chains)) == 4  # none is in two shares


def test_like_one_process(alone, tmp_path):
    path = tmp_path / "out"
    process = start(path, "--budget", "smoke", "--workers", "3")
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert losses(path) == pytest.approx(alone, rel=1e-4) and len(alone) == 12
    assert (path / "sweep_results.json").exists()
    assert len([line for line in errors.splitlines() if "PINODE/adam" in line]) == 1  # one worker shows its progress
    process = start(path, "--budget", "smoke", "--workers", "3")
    _, errors = process.communicate()
    assert process.returncode == 0 and errors.count("already done") == 1, errors


def test_interrupted_workers_save(tmp_path):
    """A signal to the parent, or the parent killed: its workers save and end."""
    for number, send in enumerate((signal.SIGUSR1, signal.SIGKILL)):
        path = tmp_path / f"out{number}"
        process = start(path, "--epochs", "100000", "--workers", "2")
        wait_for(lambda path=path: begun(path))
        workers = children(process.pid)
        assert len(workers) == 2
        process.send_signal(send)
        process.wait()
        assert process.returncode == (75 if send == signal.SIGUSR1 else -send)
        wait_for(lambda workers=workers: not any(Path(f"/proc/{pid}/fd/0").exists() for pid in workers))
        assert not list(path.rglob("claim")), "given back by those that ended in good order"
        assert begun(path)


def test_lost_worker_is_reported(tmp_path):
    path = tmp_path / "out"
    process = start(path, "--epochs", "300", "--workers", "2")
    wait_for(lambda: begun(path))
    os.kill(children(process.pid)[0], signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == 1 and "signal 9" in errors, errors
    assert len(losses(path)) == 6
    process = start(path, "--epochs", "300", "--workers", "2")
    assert process.wait() == 0, process.stderr.read()
    assert len(losses(path)) == 12
