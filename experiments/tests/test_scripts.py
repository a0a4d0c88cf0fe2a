"""The shell scripts, run as a user runs them, at tiny sizes, from another working directory, in folders with blanks."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from analysis.tasks import parse_line
from shell import ROOT, SCRIPTS, bash, done, environ, refusal, wait_for

ALL = sorted(SCRIPTS.glob("*.sh")) + [ROOT / ".ci" / "run"]
SWEEP, COMPARISON, QUICKSTART = (
    SCRIPTS / name for name in ("sweep_pinn.sh", "run_pinn_optimizer_comparison.sh", "quickstart.sh")
)


def process_is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.fixture
def pool(away: Path) -> Callable[..., str]:
    """Return the text of a script that runs tasks, given as label=command."""
    def text(**tasks: str) -> str:
        adds = [f"add_task {shlex.quote(label)} '' bash -c {shlex.quote(code)}" for label, code in tasks.items()]
        lines = ["set -euo pipefail", f"source {shlex.quote(str(SCRIPTS / 'lib.sh'))}", 'new_tasks "$PWD/out"']
        return "\n".join([*lines, *adds, "code=0", "run_tasks || code=$?", 'exit "$code"'])
    return text


# ---- form --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", ALL, ids=lambda path: path.name)
def test_script_parses(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)


def test_pins_of_the_modules_are_those_of_the_repository() -> None:
    def pins(path: Path) -> set[str]:
        return set(re.findall(r"^[\w.-]+==\S+", path.read_text(), re.M))
    for module in ("PINN", "NeuralODE", "FNO", "PINO", "CNN"):
        assert pins(ROOT / module / "requirements.txt") <= pins(ROOT / "requirements.txt")


@pytest.mark.parametrize("script", [SWEEP, COMPARISON, QUICKSTART], ids=lambda path: path.name)
def test_help_lists_the_variables(script: Path, away: Path) -> None:
    result = bash(script, away, "--help")
    assert result.returncode == 0
    assert "OUTDIR" in result.stdout
    assert list(away.iterdir()) == []


@pytest.mark.parametrize(("script", "settings", "says"), [
    (SWEEP, {"PDE": "heat"}, "PDE must be one of: convection reaction wave reaction_diffusion all; got 'heat'"),
    (SWEEP, {"OPT": "lbfgs sgd"}, "OPT must be one of"),
    (SWEEP, {"OPT": "all adam"}, "OPT: all stands alone"),
    (SWEEP, {"SCALE": "huge"}, "SCALE must be one of: smoke laptop paper"),
    (SWEEP, {"LAUNCH": "cloud"}, "LAUNCH must be one of: auto slurm local print; got 'cloud'"),
    (SWEEP, {"LAUNCH": "slurm", "PATH": "/usr/bin:/bin", "SLURM_CONF": "/none"}, "LAUNCH=slurm: "),
    (SWEEP, {"JOBS": "0"}, "JOBS must be"),
    (SWEEP, {"MAX_PARALLEL": "many"}, "MAX_PARALLEL must be a whole number from 1 to 9999; got 'many'"),
    (SWEEP, {"GRES": "gpu 1"}, "GRES must be none or as sbatch's --gres"),
    (SWEEP, {"CPUS": "-1"}, "CPUS must be a whole number"),
    (SWEEP, {"MEM": "32 GB"}, "MEM must be none or a size"),
    (SWEEP, {"TIME": "4h"}, "TIME must be none or a limit"),
    (SWEEP, {"TIME": "0:04:59"}, "of 5 minutes or more"),
    (SWEEP, {"EXTRA": "--num_res=5"}, "EXTRA: --num_res is given by this script"),
    (SWEEP, {"EXTRA": "--save_path x"}, "EXTRA: --save_path is given by this script"),
    (SWEEP, {"THRESHOLDS": "1e,2"}, "THRESHOLDS must be"),
    (SWEEP, {"THRESHOLDS": "table5", "OPT": "lbfgs adam"}, "the table has no row for convection adam"),
    (SWEEP, {"THRESHOLDS": "low"}, "THRESHOLDS must be percentile, table5, common or T_TRAIN,T_TEST"),
    (SWEEP, {"VALUES": "5 high"}, "VALUES: allowed are"),
    (SWEEP, {"VALUES": "5", "PDE": "all"}, "VALUES needs a single PDE"),
    (SWEEP, {"N_RES": "1e3"}, "N_RES: allowed are"),
    (SWEEP, {"SEEDS": "-1"}, "SEEDS: allowed are"),
    (SWEEP, {"EXTRA": "--opt_params '{"}, "unbalanced quotes"),
    (SWEEP, {"PYTHON": "no-such-python"}, "PYTHON=no-such-python: no such program"),
    (QUICKSTART, {"BETAS": " "}, "BETAS is empty"),
    (QUICKSTART, {"ITERATIONS": "many"}, "ITERATIONS: allowed are"),
    (COMPARISON, {"LAUNCH": "slurm"}, "LAUNCH must be one of: local print"),
    (COMPARISON, {"BETA": "5 10"}, "BETA must be a single number"),
    (COMPARISON, {"BUDGET": "none"}, "BUDGET must be one of: smoke laptop paper"),
    (COMPARISON, {"OPTS": "sgd"}, "OPTS must be one of"),
])  # fmt: skip
def test_bad_variable_is_one_line_and_exit_2(script: Path, settings: dict[str, str], says: str, away: Path) -> None:
    assert says in refusal(script, away, **settings)


@pytest.mark.parametrize(("settings", "launch", "says"), [
    ({"SLURM_JOB_ID": "5"}, "local", "inside SLURM job 5, training here"),
    ({"SLURM_CONF": "/none"}, "local", "no SLURM answers, training here"),
    ({}, "slurm", "SLURM answers, submitting to it"),
])  # fmt: skip
def test_auto_says_where_it_launches(settings: dict[str, str], launch: str, says: str, away: Path) -> None:
    for name in ("sbatch", "squeue", "sinfo"):
        (away / name).write_text('#!/bin/sh\ntest "$SLURM_CONF" != /none\n')
        (away / name).chmod(0o755)
    text = f"source {shlex.quote(str(SCRIPTS / 'lib.sh'))}; check_launch auto; echo $LAUNCH"
    result = bash(text, away, PATH=f"{away}:{os.environ['PATH']}", LAUNCH="", **settings)
    assert result.stdout.splitlines()[-1] == launch and says in result.stdout


# ---- the pool ----------------------------------------------------------------------------------------------------


def test_failing_task_leaves_the_others_and_is_named(pool: Callable[..., str], away: Path) -> None:
    tasks = {"wave/adam n_1": "echo fine", "bad one": "echo the reason; exit 1", "held": "exit 3", "last": "echo fine"}
    result = bash(pool(**tasks), away, JOBS="1")
    assert result.returncode == 1
    assert "tasks done 2/4, failed 2" in result.stdout
    assert "failed with exit code 1: bad one" in result.stdout and "    the reason" in result.stdout
    assert "held by another process: held" in result.stdout
    assert (away / "out/logs/wave_adam_n_1.log").read_text().endswith("fine\n")
    for exits, code in {"exit 0": 0, "exit 2": 2, "exit 3": 3}.items():
        assert bash(pool(task=exits), away).returncode == code


def test_lines_of_the_tasks_file_run_anywhere(pool: Callable[..., str], away: Path, tmp_path: Path) -> None:
    code = "echo \"it's\" '{\"beta\": [5]}' '$HOME' \\\\"
    shown = bash(pool(quoting=code), away, LAUNCH="print")
    assert not (away / "out").exists()
    bash(pool(quoting=code), away)
    line = (away / "out/tasks.sh").read_text()
    assert shown.stdout == line and line.endswith("  # quoting\n")
    assert bash(line, tmp_path).stdout == "it's {\"beta\": [5]} $HOME \\\n"


@pytest.mark.parametrize("visible", ["3,5", None])
def test_tasks_get_threads_and_gpus(pool: Callable[..., str], away: Path, visible: str | None) -> None:
    tasks = {f"task {k}": "echo $CUDA_VISIBLE_DEVICES $OMP_NUM_THREADS; sleep 1" for k in range(4)}
    (away / "nvidia-smi").write_text("#!/bin/sh\nprintf '3\\n5\\n'\n")
    (away / "nvidia-smi").chmod(0o755)
    settings = {"PATH": f"{away}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    bash(pool(**tasks), away, **settings, **({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}))
    logs = [log.read_text().splitlines()[-1].split() for log in sorted((away / "out/logs").glob("*.log"))]
    assert [gpu for gpu, _ in logs[:2]] == ["3", "5"] and {gpu for gpu, _ in logs[2:]} <= {"3", "5"}
    assert {int(threads) for _, threads in logs} == {max(len(os.sched_getaffinity(0)) // 2, 1)}


@pytest.mark.parametrize(("number", "times"), [(signal.SIGTERM, 1), (signal.SIGHUP, 1), (signal.SIGINT, 2)])
def test_signals_reach_the_tasks(pool: Callable[..., str], away: Path, number: int, times: int) -> None:
    # Asked once, a task saves and exits with 75; a second Ctrl-C ends one that does not listen.
    listens = "trap 'echo saved; exit 75' TERM; touch up; while :; do sleep 0.1; done"
    deaf = "trap '' TERM; echo $$ >up; while :; do sleep 0.1; done"
    text = pool(first=listens if times == 1 else deaf, second="touch never")
    # Started in the background or by nohup, the tests ignore these signals, and so would a shell that they start.
    process = subprocess.Popen(["bash", "-c", text], cwd=away, env=environ(JOBS="1"), stdout=subprocess.PIPE, text=True,
                               preexec_fn=lambda: signal.signal(number, signal.SIG_DFL))
    wait_for((away / "up").exists)
    time.sleep(0.3)
    for _ in range(times):
        process.send_signal(number)
        time.sleep(1.5)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 75
    assert out.count("asking the running tasks to save and end") == 1
    assert out.count("ending the running tasks") == times - 1
    assert "run the same command again to go on" in out
    assert not (away / "never").exists()
    if times == 1:
        assert (away / "out/logs/first.log").read_text().endswith("saved\n")
    else:
        assert not process_is_alive(int((away / "up").read_text()))


def test_interrupted_task_stops_the_pool(pool: Callable[..., str], away: Path) -> None:
    result = bash(pool(first="exit 75", second="touch never"), away, JOBS="1")
    assert result.returncode == 75
    assert "tasks done 0/2, failed 0" in result.stdout
    assert not (away / "never").exists()


def test_terminal_shows_the_last_line_of_each_running_task(pool: Callable[..., str], away: Path) -> None:
    text = pool(**{"row 1": 'echo "row 1: 10/20 iterations, every ${PROGRESS_EVERY}"; sleep 3', "row 2": "sleep 3"})
    parent, child = pty.openpty()
    process = subprocess.Popen(["bash", "-c", text], cwd=away, env=environ(JOBS="2", TERM="xterm"), stdin=child,
                               stdout=child, stderr=child)
    os.close(child)
    shown = b""
    try:
        while chunk := os.read(parent, 4096):
            shown += chunk
    except OSError:  # Linux: the other end is closed
        pass
    os.close(parent)
    assert process.wait() == 0
    screen = shown.decode()
    assert "tasks done 0/2, failed 0" in screen and "tasks done 2/2, failed 0" in screen
    assert "  row 1: 10/20 iterations, every 2\r\n" in screen
    assert "  row 2: starting\r\n" in screen
    assert "\x1b[3A\x1b[J" in screen


# ---- sweeps ------------------------------------------------------------------------------------------------------


def test_every_command_of_the_sweeps_is_accepted_and_makes_the_runs_it_names(away: Path) -> None:
    lines = []
    for scale, rows in {"smoke": 2, "laptop": 4, "paper": 7}.items():
        shown = bash(SWEEP, away, PDE="all", OPT="all", SCALE=scale, LAUNCH="print", OUTDIR="a b").stdout.splitlines()
        shown = [line for line in shown if line.startswith(("/", "'"))]
        assert len(shown) == (5 + 4 + 3 + 3) * rows  # the maps of the paper's Table 5
        lines += shown
    odd = {"VALUES": "5.0 1e-5 .25 2e1", "N_RES": "0100 7", "SEEDS": "00 12"}
    for script, settings in [(COMPARISON, {}), (QUICKSTART, {}), (SWEEP, odd)]:
        lines += bash(script, away, LAUNCH="print", OUTDIR="a b", **settings).stdout.splitlines()
    tasks = [task for task in map(parse_line, lines) if task]
    commands = [shlex.split(task.command) for task in tasks]
    assert len(commands) > 200
    assert {tuple(command[:2]) for command in commands} == {(sys.executable, str(ROOT / "PINN/run_experiment.py"))}
    parse = """import sys, json; sys.path.insert(0, sys.argv[1]); from pinn.arguments import parse
for command in json.load(sys.stdin):
    rows, physical, seeds = parse(command)
    print(json.dumps([str(run.path) for row in rows for run in row.runs(physical, seeds)]))"""
    result = subprocess.run([sys.executable, "-c", parse, ROOT / "PINN"], input=json.dumps([c[2:] for c in commands]),
                            text=True, check=True, stdout=subprocess.PIPE)
    for task, made in zip(tasks, result.stdout.splitlines(), strict=True):
        assert sorted(json.loads(made)) == sorted(str(away / "a b" / run) for run in task.runs)
    assert list(away.iterdir()) == []


def test_smoke_sweep_and_its_map(away: Path) -> None:
    result = bash(SWEEP, away, SCALE="smoke", OUTDIR="my results")
    assert result.returncode == 0, result.stdout
    results = away / "my results"
    cells = [f"convection/lbfgs/beta_{beta}/n_{n}/seed_0" for beta in (5, 50) for n in (100, 200)]
    assert done(results) == sorted(cells)
    assert (results / "regime_map.png").stat().st_size > 10_000
    assert "regime, n (rows) by beta (columns)" in result.stdout
    assert sorted(path.name for path in away.iterdir()) == ["my results"]

    def times() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in results.rglob("metrics.json")}

    before = times()
    line = (results / "tasks.sh").read_text().splitlines()[0]
    assert bash(line, away.parent).returncode == 0
    again = bash(SWEEP, away, SCALE="smoke", OUTDIR="my results")
    assert "start " not in again.stdout and "tasks done 2/2" in again.stdout and "regime, n (rows)" in again.stdout
    assert times() == before
    # Other settings are not taken for done: the runs refuse them.
    other = bash(SWEEP, away, SCALE="smoke", OUTDIR="my results", EXTRA="--iterations 7")
    assert other.returncode == 2 and "holds a run with other arguments" in other.stdout
    # What is missing, and nothing else.
    (results / cells[0] / "metrics.json").unlink()
    again = bash(SWEEP, away, SCALE="smoke", OUTDIR="my results")
    assert done(results) == sorted(cells) and "start " in again.stdout


def test_rows_that_fail_are_named_and_the_others_drawn(away: Path) -> None:
    held = away / "out/convection/lbfgs/beta_5/n_20/seed_0"
    held.mkdir(parents=True)
    (held / "config.json").write_text('{"pde": "wave"}')
    result = bash(SWEEP, away, SCALE="smoke", OUTDIR="out", N_RES="20 10", VALUES="5", EXTRA="--iterations 5")
    assert result.returncode == 2
    assert "failed with exit code 2: convection/lbfgs n_20" in result.stdout
    assert "cell by cell: bash " in result.stdout
    assert "holds a run with other arguments" in result.stdout
    assert done(away / "out") == ["convection/lbfgs/beta_5/n_10/seed_0"]
    assert (away / "out/regime_map.png").exists()


def test_sweep_goes_on_after_an_interruption(away: Path) -> None:
    settings = {"SCALE": "smoke", "OUTDIR": "out", "N_RES": "20 10", "VALUES": "5 40", "JOBS": "2"}
    settings["EXTRA"] = "--opt_params '{\"iterations\": 150}' --log_every 10"
    process = subprocess.Popen(["bash", SWEEP], cwd=away, env=environ(**settings), stdout=subprocess.PIPE, text=True)
    history = away / "out/convection/lbfgs/beta_40/n_20/seed_0/history.csv"
    wait_for(lambda: history.exists() and len(history.read_text().splitlines()) > 3)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 75, out
    assert "run the same command again to go on" in out
    assert (history.parent / "checkpoint.pt").exists()
    assert not (away / "out/regime_map.png").exists()

    rows = history.read_text().splitlines()
    result = bash(SWEEP, away, **settings)
    assert result.returncode == 0, result.stdout
    assert len(done(away / "out")) == 4
    assert history.read_text().splitlines()[: len(rows) - 1] == rows[:-1]
    assert (away / "out/regime_map.png").exists()


def test_quickstart(away: Path) -> None:
    settings = {"BETAS": "5 30", "N_RES": "10 20", "ITERATIONS": "20", "OUTDIR": "out"}
    result = bash(QUICKSTART, away, **settings)
    assert result.returncode == 0, result.stdout
    assert len(done(away / "out")) == 4
    assert (away / "out/regime_map.png").exists()
    assert "T_train = " in result.stdout


def test_comparison_of_all_optimizers(away: Path) -> None:
    settings = {"BUDGET": "smoke", "N_RES": "20", "BETA": "5", "OUTDIR": "out", "GPU": "7"}
    other = away / "out/convection/adam/beta_5/n_20/seed_0/config.json"
    other.parent.mkdir(parents=True)
    other.write_text('{"pde": "wave"}')
    result = bash(COMPARISON, away, **settings)
    assert result.returncode == 2
    assert "failed with exit code 2: convection/adam n_20" in result.stdout
    assert len(done(away / "out")) == 6
    assert re.search(r"^adam +unfinished$", result.stdout, re.M)

    other.unlink()
    result = bash(COMPARISON, away, **settings)
    assert result.returncode == 0, result.stdout
    table = result.stdout.partition("strategy ")[2].splitlines()[1:8]
    assert {line.split()[0] for line in table} == {"lbfgs", "alm", "nncg", "cl", "adam_lbfgs", "ropinn", "adam"}
    assert (away / "out/comparison.png").stat().st_size > 10_000
