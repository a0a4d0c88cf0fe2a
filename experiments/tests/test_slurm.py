"""Sweeps on a real SLURM of one node (slurm_cluster.sh), with its fake GPUs and arrays of at most four tasks.

Skipped where SLURM cannot be started, unless REQUIRE_SLURM is set.
"""

from __future__ import annotations

import os
import random
import re
import shlex
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from shell import SCRIPTS, bash, done, environ, wait_for

CLUSTER = Path(__file__).with_name("slurm_cluster.sh")
SWEEP, STATUS, AGAIN = (SCRIPTS / name for name in ("sweep_pinn.sh", "status.sh", "run_tasks.sh"))
SMALL = {"LAUNCH": "slurm", "CPUS": "1", "MEM": "500M", "TIME": "10"}


def two_free_ports() -> int:
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            try:
                second.bind(("127.0.0.1", first.getsockname()[1] + 1))
            except (OSError, OverflowError):
                continue
            return first.getsockname()[1]


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, str]]:
    """Start SLURM; return what its clients need in their environment."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # not tmp_path: too long for a socket
    folder.chmod(0o755)
    call = ["bash", str(CLUSTER), "start", str(folder), str(two_free_ports())]
    started = subprocess.run(call, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
    try:
        if started.returncode:
            assert not os.environ.get("REQUIRE_SLURM"), started.stderr
            pytest.skip(f"SLURM does not start here: {started.stderr[-300:]}")
        yield {"SLURM_CONF": str(folder / "slurm.conf")} | SMALL
    finally:
        subprocess.run([*call[:2], "stop", *call[3:]], timeout=60, stdin=subprocess.DEVNULL)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def slurm(cluster: dict[str, str]) -> Callable[..., str]:
    """Return a function that calls a client of SLURM; no job is left behind."""
    def client(*command: str) -> str:
        return subprocess.run(command, env=environ(**cluster), text=True, timeout=60, check=True,
                              stdout=subprocess.PIPE).stdout
    yield client
    client("scancel", "-u", str(os.getuid()))
    wait_for(lambda: not client("squeue", "-h"), 60)


@pytest.fixture
def tasks(away: Path) -> Callable[..., str]:
    """Return the text of a script that runs tasks, label=command, each with a run folder of its own."""
    def text(**commands: str) -> str:
        lines = ["set -euo pipefail", f"source {shlex.quote(str(SCRIPTS / 'lib.sh'))}", "check_launch slurm"]
        lines.append('new_tasks "$PWD/out"')
        for label, code in commands.items():
            folder = f"runs/{label}/s/b_1/n_1/seed_0"
            code = f"cd {shlex.quote(str(away))}; run=out/{folder}; mkdir -p $run; {code}"
            lines.append(f"add_task {label} {folder} bash -c {shlex.quote(code)}")
        return "\n".join([*lines, 'then_run bash -c "echo drawn"', "run_tasks"])
    return text


def status(results: Path, cluster: dict[str, str]) -> tuple[int, str]:
    result = bash(STATUS, results.parent, str(results), **cluster)
    return result.returncode, result.stdout


def start_requeued(slurm: Callable[..., str], waiting: dict[str, float]) -> None:
    """Start requeued jobs after three seconds; SLURM lets them wait for two minutes, so that they surely have ended."""
    for line in slurm("squeue", "-h", "-r", "-o", "%F_%K %r").splitlines():
        job, reason = line.split(maxsplit=1)
        if reason != "BeginTime":
            waiting.pop(job, None)
        elif time.monotonic() > waiting.setdefault(job, time.monotonic()) + 3:
            with suppress(subprocess.CalledProcessError):  # it has just started
                slurm("scontrol", "update", f"jobid={job}", "StartTime=now")


def test_restarted_task_does_not_begin_anew(away: Path) -> None:
    (away / "out/logs/slurm").mkdir(parents=True)
    (away / "out/logs/slurm/a.tasks").write_text("true  # other\nbash -c 'echo got $*' x --force --lr 1  # mine\n")
    said = []
    for restart in ("0", "1"):
        job = {"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "9", "SLURM_ARRAY_TASK_ID": "0", "SLURM_CPUS_PER_TASK": "1"}
        result = bash(SCRIPTS / "slurm_task.sh", away, str(away / "out/logs/slurm/a.tasks"), "1",
                      SLURM_RESTART_COUNT=restart, **job)
        assert result.returncode == 0, result.stdout
        said.append((away / "out/logs/mine.log").read_text().splitlines()[-1])
    assert said == ["got --force --lr 1", "got --lr 1"]


FINISH = "echo '{}' >$run/metrics.json"


def test_array_is_chunked_and_throttled_and_the_last_job_draws(
    tasks: Callable[..., str], slurm: Callable[..., str], cluster: dict[str, str], away: Path
) -> None:
    work = f"echo $(date +%s.%N) $CUDA_VISIBLE_DEVICES $OMP_NUM_THREADS; sleep 1.5; date +%s.%N; {FINISH}"
    commands = {f"t{k}": work for k in range(6)} | {"bad": "echo the reason; exit 7"}
    result = bash(tasks(**commands), away, MAX_PARALLEL="2", **cluster)
    assert result.returncode == 0, result.stdout
    assert "7 tasks: 0 done, 0 in the queue, 7 to submit" in result.stdout
    assert re.findall(r"array job \d+: tasks (\d) to (\d) of 7, at most 2", result.stdout) == [("1", "4"), ("5", "7")]
    code, text = status(away / "out", cluster)
    assert code == 75 and "runs/t0/s: 0 of 1 runs done" in text
    collected = away / "out/logs/collect.log"
    wait_for(lambda: collected.exists() and "drawn" in collected.read_text(), 90)

    times = []
    for k in range(6):
        first, end = (away / f"out/logs/t{k}.log").read_text().splitlines()[-2:]
        start, gpu, threads = first.split()
        assert threads == "1"
        times.append((float(start), float(end), gpu))
    together = [[gpu for begin, end, gpu in times if begin <= start < end] for start, _, _ in times]
    assert max(map(len, together)) == 2  # throttled, and not one after another
    assert all(len(set(gpus)) == len(gpus) for gpus in together)
    assert {gpu for _, _, gpu in times} == {"0", "1"}

    text = collected.read_text()
    assert "bad: exit code 7; 1 of 1 runs not done" in text and "    the reason" in text
    assert re.search(r"the rest again: bash \S*run_tasks.sh ", text)
    wait_for(lambda: not slurm("squeue", "-h"), 30)
    code, text = status(away / "out", cluster)
    assert code == 1 and "7 runs: 6 done, 1 failed" in text
    last = re.search(r"job (\d+) collects", result.stdout)
    assert last and "ExitCode=1:0" in slurm("scontrol", "show", "job", last[1])

    # Only what failed is submitted again; when all is done, nothing is, and the maps are drawn at once.
    result = bash(AGAIN, away, "out", **cluster)
    assert "7 tasks: 6 done, 0 in the queue, 1 to submit" in result.stdout
    folder = away / "out/runs/bad/s/b_1/n_1/seed_0"
    (folder / "metrics.json").write_text("{}")
    wait_for(lambda: not slurm("squeue", "-h"), 60)
    (away / "out/logs/bad.status").write_text("exit 0\n\n" + (away / "out/logs/bad.status").read_text().splitlines()[2])
    result = bash(AGAIN, away, "out", **cluster)
    assert result.stdout.splitlines()[-2:] == ["7 tasks: 7 done, 0 in the queue, 0 to submit", "drawn"]
    assert status(away / "out", cluster)[0] == 0


def test_settings_of_the_site_reach_sbatch(
    tasks: Callable[..., str], slurm: Callable[..., str], cluster: dict[str, str], away: Path
) -> None:
    refused = bash(tasks(t0=FINISH), away, **cluster, SBATCH_PARTITION="nowhere")
    assert refused.returncode == 2
    assert "invalid partition" in refused.stdout and "error: sbatch refused tasks 1 to 1" in refused.stdout
    assert not (away / "out/logs/slurm/jobs").exists() and not slurm("squeue", "-h")

    def job(**settings: str) -> str:
        result = bash(tasks(t0="sleep 60"), away, **{k: v for k, v in cluster.items() if k != "TIME"} | settings)
        number = re.search(r"array job (\d+)", result.stdout)[1]
        shown = slurm("scontrol", "show", "job", f"{number}_0")
        slurm("scancel", "-u", str(os.getuid()))
        wait_for(lambda: not slurm("squeue", "-h"), 30)
        return shown
    assert "TimeLimit=04:00:00" in job() and "TimeLimit=00:09:00" in job(TIME="9", SBATCH_TIMELIMIT="7")
    shown = job(SBATCH_TIMELIMIT="7", SBATCH_GRES="gpu:2")
    assert "TimeLimit=00:07:00" in shown and "gres:gpu:2" in shown
    assert "gpu" not in job(GRES="none")


def test_cancelled_half_is_submitted_again(
    tasks: Callable[..., str], slurm: Callable[..., str], cluster: dict[str, str], away: Path
) -> None:
    work = f"echo began >>began; until [[ -e go ]]; do sleep 0.2; done; {FINISH}"
    text = tasks(**{f"t{k}": work for k in range(4)})
    first = bash(text, away, MAX_PARALLEL="2", **cluster)
    job = re.search(r"array job (\d+)", first.stdout)[1]
    began = away / "began"
    wait_for(lambda: began.exists() and len(began.read_text().splitlines()) == 2, 30)
    slurm("scancel", f"{job}_1", f"{job}_3")  # one that runs, one that waits
    wait_for(lambda: f"{job}_1" not in slurm("squeue", "-h", "-r", "-o", "%F_%K"), 30)
    code, shown = status(away / "out", cluster)
    assert code == 1 and "4 runs: 2 running, 2 missing" in shown, shown
    again = bash(text, away, **cluster)
    assert "4 tasks: 0 done, 2 in the queue, 2 to submit" in again.stdout
    assert status(away / "out", cluster)[0] == 75
    nothing = bash(text, away, **cluster)
    assert "4 tasks: 0 done, 4 in the queue, 0 to submit" in nothing.stdout and "array job" not in nothing.stdout
    (away / "squeue").write_text("#!/bin/sh\nexit 1\n")
    (away / "squeue").chmod(0o755)
    blind = bash(text, away, PATH=f"{away}:{os.environ['PATH']}", **cluster)  # better nothing than all of it twice
    assert blind.returncode == 2 and "error: squeue does not tell what is queued" in blind.stdout
    assert "array job" not in blind.stdout
    (away / "go").touch()
    wait_for(lambda: status(away / "out", cluster)[0] == 0, 60)
    # t1 twice, the others once: nothing ran beside itself
    assert len(began.read_text().splitlines()) == 5
    wait_for(lambda: (away / "out/logs/collect.log").read_text().count("drawn") >= 2, 60)


def test_preempted_tasks_go_on_to_the_same_bits(
    slurm: Callable[..., str], cluster: dict[str, str], away: Path
) -> None:
    settings = {"SCALE": "smoke", "N_RES": "20 10", "VALUES": "5 40", "EXTRA": "--iterations 250 --log_every 10"}
    alone = bash(SWEEP, away, OUTDIR="alone", **settings)
    assert alone.returncode == 0, alone.stdout
    job = re.search(r"array job (\d+)", bash(SWEEP, away, OUTDIR="out", **settings, **cluster).stdout)[1]
    histories = [away / f"out/convection/lbfgs/beta_40/n_{n}/seed_0/history.csv" for n in (20, 10)]
    wait_for(lambda: all(path.exists() and len(path.read_text().splitlines()) > 3 for path in histories))
    slurm("scancel", "--batch", "--signal=USR1", f"{job}_0")  # what SLURM does before the time limit
    slurm("scontrol", "requeue", f"{job}_1")  # what it does on preemption: SIGTERM first
    restarted = re.compile(r"restart 1$", re.M)

    waiting: dict[str, float] = {}

    def all_done() -> bool:
        start_requeued(slurm, waiting)
        return status(away / "out", cluster)[0] == 0
    wait_for(all_done)
    for k, said in enumerate(("saved and put back into the queue", "exit code 75")):
        output = (away / f"out/logs/slurm/{job}_{k}.out").read_text()
        assert restarted.search(output) and said in output, output
    assert (away / "out/logs/slurm" / f"{job}_1.out").read_text().count("put back") == 0
    for run in done(away / "alone"):
        for name in ("model.pt", "history.csv"):
            # but for the seconds in the last column of the history
            first, second = ((away / folder / run / name).read_bytes() for folder in ("alone", "out"))
            if name == "history.csv":
                first, second = (re.sub(rb",[^,\n]*$", b"", text, flags=re.M) for text in (first, second))
            assert first == second, (run, name)
    collected = away / "out/logs/collect.log"
    wait_for(lambda: collected.exists() and "regime, n (rows)" in collected.read_text(), 60)
    assert (away / "out/regime_map.png").exists()


def test_sweep_that_is_killed_at_random_is_done_in_the_end(
    slurm: Callable[..., str], cluster: dict[str, str], away: Path
) -> None:
    settings = {"SCALE": "smoke", "N_RES": "10 20 30", "VALUES": "5 40", "EXTRA": "--iterations 300", "OUTDIR": "out"}
    chance, end, waiting = random.Random(1), time.monotonic() + 600, {}
    kinds = ["cancel", "requeue", "usr1", "kill"]
    chance.shuffle(kinds)
    bash(SWEEP, away, **settings, **cluster)
    while (code := status(away / "out", cluster)[0]) != 0:
        assert time.monotonic() < end, status(away / "out", cluster)[1]
        running = slurm("squeue", "-h", "-r", "-t", "R", "-o", "%F_%K").split()
        running = [job for job in running if "N/A" not in job]
        if kinds and running and chance.random() < 0.7:
            job = chance.choice(running)
            with suppress(subprocess.CalledProcessError):  # it has just ended
                match kinds.pop():
                    case "cancel":
                        slurm("scancel", job)
                    case "requeue":
                        slurm("scontrol", "requeue", job)
                    case "usr1":
                        slurm("scancel", "--batch", "--signal=USR1", job)
                    case "kill":
                        slurm("scancel", "--full", "--signal=KILL", job)
        elif code == 1:
            bash(AGAIN, away, "out", **cluster)
        time.sleep(chance.uniform(0.5, 4))
        start_requeued(slurm, waiting)
    assert len(kinds) < 4  # at least one disturbance; a fast machine is done before all of them
    assert len(done(away / "out")) == 6
