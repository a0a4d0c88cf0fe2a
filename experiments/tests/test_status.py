"""How a sweep stands: status.py on folders made by hand, and a sweep that is killed again and again."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from shell import SCRIPTS, bash, done, environ

SWEEP, STATUS, AGAIN = (SCRIPTS / name for name in ("sweep_pinn.sh", "status.sh", "run_tasks.sh"))


def status(results: Path, **settings: str) -> tuple[int, str]:
    result = bash(STATUS, results.parent, results.name, **settings)
    return result.returncode, result.stdout


@pytest.fixture
def results(away: Path) -> Path:
    """Return a results folder with three tasks, a row of four runs each, of which nothing is done."""
    folder = away / "out"
    (folder / "logs").mkdir(parents=True)
    pattern = "wave/adam/b_{5,10}/n_%s/seed_{0,1}"
    lines = [f"train --n {n}  # wave/adam n_{n} | {pattern % n}\n" for n in (100, 20, 3)]
    (folder / "tasks.sh").write_text("".join(lines) + "# then: draw\n")
    return folder


def put(results: Path, run: str, name: str = "metrics.json", text: str = '{"status": "finished"}') -> None:
    path = results / "wave/adam" / run / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def note(results: Path, n: int, text: str) -> Path:
    path = results / f"logs/wave_adam_n_{n}.status"
    path.write_text(f"{text}\n2026-01-01 00:00:00\ntrain --n {n}\n")
    return path


def fill(results: Path, n: int) -> None:
    for b in (5, 10):
        for seed in (0, 1):
            put(results, f"b_{b}/n_{n}/seed_{seed}")


def test_every_state_is_told_by_cell(results: Path) -> None:
    put(results, "b_5/n_100/seed_0")
    put(results, "b_5/n_100/seed_1", text='{"status": "diverged"}')
    put(results, "b_10/n_100/seed_0", text='{"status": "fini')  # half written by another program
    put(results, "b_10/n_100/seed_1", "failed.json", '{"error": "ValueError: too stiff"}')
    note(results, 100, "exit 75")
    put(results, "b_5/n_20/seed_0")
    put(results, "b_5/n_20/seed_1", "checkpoint.pt", "")
    note(results, 20, "exit 1")
    log = "--- first\nold words\n--- second\n1%\r2%\rthe reason\n\x1b[1mbold\n"
    (results / "logs/wave_adam_n_20.log").write_text(log)
    put(results, "b_5/n_3/seed_0", "checkpoint.pt", "")
    (results / "wave/adam/alien").mkdir()
    (results / "notes.txt").write_bytes(b"\xff")
    code, text = status(results)
    assert code == 1
    assert "3 tasks, 12 runs: 2 done, 1 diverged, 4 failed, 1 interrupted, 4 missing" in text
    rows = [line.split() for line in text.splitlines() if re.match(r" +\d+ +\d/", line)]
    assert [" ".join(row) for row in rows] == ["100 2/2 d1 0/2 F1 m1", "20 1/2 F1 0/2 F2", "3 0/2 i1 m1 0/2 m2"]
    assert re.search(r"^ +n +5 +10  b$", text, re.M)
    failed = text.partition("failed:")[2]
    assert "wave/adam n_100: interrupted; 2 of 4" in failed and "seed_1: ValueError: too stiff" in failed
    assert "wave/adam n_20: exit code 1; 3 of 4 runs not done" in failed
    assert "    the reason\n    bold\n" in failed and "old words" not in failed
    assert text.splitlines()[-1].endswith("run_tasks.sh out")


def test_all_done_is_exit_0_and_bad_input_exit_2(results: Path, away: Path) -> None:
    for n in (100, 20, 3):
        fill(results, n)
    note(results, 3, "exit 1")  # however it ended: its runs are there
    code, text = status(results)
    assert code == 0 and "12 runs: 12 done" in text and "failed" not in text and "run_tasks" not in text
    assert bash(STATUS, away, "nowhere").stdout == f"status: error: RESULTS: no such folder: {away}/nowhere\n"
    assert bash(STATUS, away).returncode == 2
    assert bash(AGAIN, away).stdout == "error: one results folder is needed, the OUTDIR of a sweep (--help)\n"
    again = bash(AGAIN, away, "nowhere")
    assert again.returncode == 2 and again.stdout == "error: RESULTS: no tasks.sh in nowhere; a sweep writes it\n"
    assert "LAUNCH" in bash(AGAIN, away, "--help").stdout
    (away / "empty").mkdir()
    result = bash(STATUS, away, "empty")
    assert result.returncode == 2 and "RESULTS: no run folder in" in result.stdout
    (results / "tasks.sh").unlink()
    code, text = status(results)
    assert code == 0 and "no tasks.sh here names runs" in text and "0 tasks, 12 runs: 12 done" in text


def test_running_is_told_from_what_was_killed(results: Path) -> None:
    fill(results, 3)
    fill(results, 20)
    host, sleeper = os.uname().nodename, subprocess.Popen(["sleep", "60"])
    try:
        path = note(results, 100, f"running on {host} as process {sleeper.pid}")
        assert status(results)[0] == 75
        # The number of an older note belongs to somebody else now.
        os.utime(path, (time.time() - 3600,) * 2)
        code, text = status(results)
        assert code == 1 and "wave/adam n_100: was killed; 4 of 4 runs not done" in text
        note(results, 100, f"running on {host} as process {sleeper.pid}")
    finally:
        sleeper.kill()
        sleeper.wait()
    assert status(results)[0] == 1
    # A process that was started by hand says so in its run folder; on another machine by the time of its sign.
    claim = {"host": "elsewhere/pid:[1]", "pid": 1, "start": "x 1"}
    put(results, "b_5/n_100/seed_0", "claim", json.dumps(claim))
    assert "8 done, 1 running, 3 missing" in status(results)[1]
    put(results, "b_5/n_100/seed_0", "claim", json.dumps(claim | {"host": f"{host}/pid:[1]", "pid": sleeper.pid}))
    assert "8 done, 4 missing" in status(results)[1]


def test_queue_is_read_where_jobs_were_submitted(results: Path, away: Path) -> None:
    fill(results, 3)
    slurm = results / "logs/slurm"
    slurm.mkdir()
    (slurm / "a.tasks").write_text("".join((results / "tasks.sh").read_text().splitlines(True)[:2]))
    (slurm / "jobs").write_text("7 0 1 a.tasks\n9 1 1 a.tasks\n")
    squeue = away / "bin/squeue"
    squeue.parent.mkdir()

    def answer(text: str) -> tuple[int, str]:
        squeue.write_text(f"#!/bin/sh\n{text}\n")
        squeue.chmod(0o755)
        return status(results, PATH=f"{squeue.parent}:{os.environ['PATH']}")
    code, text = answer("echo '7_0 RUNNING'; echo '9_0 PENDING'; echo '12_N/A PENDING'")
    assert code == 75 and "4 done, 4 running, 4 queued" in text
    note(results, 100, "running on node7 as job 7_0")
    (slurm / "7_0.out").write_text("slurmstepd: error: *** JOB 7 CANCELLED DUE TO NODE FAILURE ***\n")
    code, text = answer("echo '9_0 RUNNING'")
    assert code == 1 and "4 done, 4 running, 4 missing" in text
    assert "wave/adam n_100: was killed, job 7_0; 4 of 4" in text and "DUE TO NODE FAILURE" in text
    code, text = answer("exit 1")
    assert code == 1 and "warning: jobs were submitted, but squeue does not answer" in text


def test_tasks_file_keeps_what_earlier_calls_asked_for(away: Path) -> None:
    settings = {"SCALE": "smoke", "OUTDIR": "out", "N_RES": "20 10", "VALUES": "5", "EXTRA": "--iterations 2"}
    assert bash(SWEEP, away, **settings).returncode == 0
    assert bash(SWEEP, away, **settings | {"N_RES": "10 30", "VALUES": "5 7", "THRESHOLDS": "1,1"}).returncode == 0
    lines = (away / "out/tasks.sh").read_text().splitlines()
    assert [line.partition("  # ")[2] for line in lines[:-1]] == [
        "convection/lbfgs n_20 | convection/lbfgs/beta_5/n_20/seed_0",
        "convection/lbfgs n_10 | convection/lbfgs/beta_{5,7}/n_10/seed_0",
        "convection/lbfgs n_30 | convection/lbfgs/beta_{5,7}/n_30/seed_0",
    ]
    assert lines[-1].startswith("# then: ") and lines[-1].endswith(" --thresholds 1,1")
    assert status(away / "out")[0] == 0


def test_sweep_that_is_killed_at_random_is_done_in_the_end(away: Path) -> None:
    settings = {"SCALE": "smoke", "OUTDIR": "out", "N_RES": "20 10 30", "VALUES": "5 40", "EXTRA": "--iterations 200"}
    settings["JOBS"] = "1"
    chance, end, kills = random.Random(3), time.monotonic() + 900, 0
    command = ["bash", str(SWEEP)]
    while (code := status(away / "out")[0] if (away / "out/tasks.sh").exists() else 1) != 0:
        assert time.monotonic() < end, status(away / "out")[1]
        process = subprocess.Popen(command, cwd=away, env=environ(**settings), stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
        try:
            process.wait(timeout=chance.uniform(3, 9) if kills < 3 else 300)
        except subprocess.TimeoutExpired:
            kills += 1
            match kills:
                case 1:  # a task
                    subprocess.run(["pkill", "-KILL", "-f", f"run_experiment.py.*--save_path {re.escape(str(away))}"])
                    process.wait(timeout=300)
                case 2:  # the pool, whose tasks go on alone
                    process.kill()
                    process.wait()
                case _:
                    process.send_signal(signal.SIGTERM)
                    assert process.wait(timeout=60) in (75, -signal.SIGTERM)  # the latter before it began or after
        command = ["bash", str(AGAIN), "out"]
    assert kills and code == 0
    assert len(done(away / "out")) == 6
