"""landscapes.sh and in_turn.py: what is trained and looked at, what is passed on, and a smoke run of a PINN."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from analysis import diagnoses
from analysis.tasks import Task
from shell import CHECKED, ROOT, SCRIPTS, bash, flag, printed, refusal, wait_for

SCRIPT, IN_TURN = SCRIPTS / "landscapes.sh", SCRIPTS / "in_turn.py"
PLAIN = {name: "" for name in ("FIGURE", "FNO_DATA", "CNN_DATA")}


def tools(task: Task) -> list[list[str]]:
    """Return program and first argument of each command of a task."""
    words = shlex.split(task.command)
    commands = [part.split() for part in " ".join(word for word in words if " " not in word).split(" -- ")]
    found = []
    for command in commands:
        program = next(k for k, word in enumerate(command) if word.endswith(".py") and not word.endswith("in_turn.py"))
        found.append([Path(command[program]).name, *command[program + 1 : program + 2]])
    return found


# ---- what is trained and looked at -------------------------------------------------------------------------------


@pytest.mark.parametrize(("settings", "says"), [
    ({"FIGURE": "8"}, "FIGURE must be one of: 5 6 7 11 12 13 14 15 16 all; got '8'"),
    ({"FIGURE": "all 5"}, "FIGURE: all stands alone"),
    ({"FIGURE": "5 5"}, "FIGURE: '5' is given twice"),
    ({"SCALE": "tiny"}, "SCALE must be one of: smoke laptop paper"),
    ({"SEEDS": "a"}, "SEEDS: allowed are whole numbers; got 'a'"),
    ({"SEEDS": "1 01"}, "SEEDS: '1' is given twice"),
])  # fmt: skip
def test_bad_variable_is_one_line_and_exit_2(settings: dict[str, str], says: str, away: Path) -> None:
    assert says in refusal(SCRIPT, away, **PLAIN | settings)


def test_figures_share_their_runs(away: Path) -> None:
    settings = PLAIN | {"OUTDIR": "a b", "SCALE": "paper", "SEEDS": "3 4"}
    five, both = (printed(SCRIPT, away, **settings | {"FIGURE": name}) for name in ("5", "5 6"))
    assert [task.runs for task in five] == [task.runs for task in both]
    assert [task.runs[0] for task in five] == [
        "convection/lbfgs/beta_5/n_100/seed_3", "convection/lbfgs/beta_50/n_500/seed_3",
        "fno_1M/poisson/adam/k_2.5-5/n_256/seed_3", "fno_1M/poisson/adam/k_100-200/n_16384/seed_3",
        "resnet18/cifar10/sgd/lr_0.1/n_50000/seed_3",
    ]  # fmt: skip
    assert [tools(task)[1:] for task in five] == [[["diagnose.py", "landscape"]]] * 5
    assert [tools(task)[1:] for task in both] == [[["diagnose.py", "hessian"], ["diagnose.py", "landscape"]]] * 5
    assert [tools(task)[0][0] for task in five] == ["run_experiment.py"] * 2 + ["train.py"] * 2 + ["run_exp.py"]
    for task in both:
        folder = str(away / "a b" / task.runs[0])
        assert shlex.split(task.command).count(folder) == 2
        assert ("--hessian_every log" in task.command) == ("PINN" in task.command)
        assert flag(task, "--budget") == "paper"

    # With those of Figure 12 a run is trained once, for all seeds; the shorter tools come first.
    tasks = printed(SCRIPT, away, **settings | {"FIGURE": "5 7 12 16"})
    runs = [run for task in tasks for run in task.runs]
    assert len(runs) == len(set(runs))
    assert {run for run in runs if run.endswith("seed_4")} == {
        f"convection/lbfgs/beta_{beta}/n_{n}/seed_4" for n in (100, 1000) for beta in (5, 50)
    } | {"convection/lbfgs/beta_5/n_15000/seed_4"}
    assert [tools(task)[1:] for task in tasks if task.runs[0].endswith("beta_5/n_100/seed_3")] == [
        [["diagnose.py", "hessian"], ["diagnose.py", "landscape"]]]  # fmt: skip


def test_paths_steps_and_maps(away: Path) -> None:
    settings = PLAIN | {"OUTDIR": "out", "SCALE": "paper", "SEEDS": "0"}
    (path,) = printed(SCRIPT, away, **settings | {"FIGURE": "15"})
    assert path.runs == tuple(f"convection/{name}/beta_40/n_10000/seed_0" for name in ("alm", "lbfgs"))
    assert tools(path) == [["run_experiment.py", "--pde"]] * 2 + [["diagnose.py", "connectivity"]]
    words = shlex.split(path.command)
    assert [words[k + 1] for k, word in enumerate(words) if word == "--opt"] == ["alm", "lbfgs"]
    at = words.index("connectivity")
    assert words[at + 1 : at + 3] == [str(away / "out" / run) for run in path.runs[::-1]]

    steps = printed(SCRIPT, away, **settings | {"FIGURE": "14", "SCALE": "laptop"})
    assert [task.runs[0].split("/")[2] for task in steps[:2]] == ["beta_5", "beta_20"]
    assert [tools(task)[-1] for task in steps[:2]] == [["diagnose.py", "steps"]] * 2
    assert flag(steps[0], "--loss") == "5e-2"
    assert {tools(task)[0][0] for task in steps[2:]} == {"train_trajectories.py"}

    maps = printed(SCRIPT, away, **settings | {"FIGURE": "11"})
    assert len(maps) == 64 + 7 and all(run.startswith("maps/") for task in maps for run in task.runs)
    assert {flag(task, "--hessian_every") for task in maps} == {"log:1"}
    assert {flag(task, "--data_dir") for task in maps if "train.py" in task.command} == {str(ROOT / "FNO/data/poisson")}
    assert flag(maps[-1], "--save_path") == str(away / "out/maps")


def test_every_tool_takes_its_flags(away: Path) -> None:
    tasks = [task for scale in ("smoke", "laptop")
             for task in printed(SCRIPT, away, **PLAIN | {"OUTDIR": "out", "SCALE": scale, "FIGURE": "5 6 14 15"})]
    looks = []
    for task in tasks:
        for command in task.command.split(" -- "):
            program, *words = shlex.split(command)[1:]
            if program.endswith("/diagnose.py"):  # the flags of the tools are those of any module, but for the data
                looks.append(words[:-2] if "--data_dir" in words else words)
                assert "CNN" not in program or "float32" in words
    parse = """import sys, json; sys.path.insert(0, sys.argv[1]); import diagnose
for words in json.load(sys.stdin): diagnose.make_parser().parse_args(words)"""
    assert {words[0] for words in looks} == {"hessian", "landscape", "connectivity", "steps"}
    command = [sys.executable, "-c", parse, ROOT / "PINN"]
    subprocess.run(command, input=json.dumps(looks), text=True, check=True, cwd=away)


def test_figures_ask_the_script() -> None:
    cases, problem = diagnoses.ask(12, "smoke")
    assert not problem and [(case.letter, case.physical, case.data) for case in cases] == [
        ("a", 5.0, 100.0), ("b", 50.0, 100.0), ("c", 5.0, 200.0), ("d", 50.0, 200.0)]  # fmt: skip
    assert cases[0].title == "PINN, $N_f$ = 100, β = 5" and cases[0].seeds == (0,)


# ---- one after another -------------------------------------------------------------------------------------------


def python(text: str) -> list[str]:
    return [sys.executable, "-c", text]


def in_turn(*commands: list[str], cwd: Path) -> subprocess.Popen[str]:
    words = [word for command in commands for word in ["--", *command]]
    return subprocess.Popen([sys.executable, IN_TURN, *words], cwd=cwd, text=True, stderr=subprocess.PIPE)


def test_in_turn_goes_on_and_ends_as_the_gravest(away: Path) -> None:
    mark = "open({!r}, 'x')".format

    def ends(code: int) -> list[str]:
        return ["sh", "-c", f"exit {code}"]

    assert in_turn(python(mark("a")), python(mark("b")), cwd=away).wait() == 0
    assert in_turn(ends(3), ends(2), python(mark("c")), cwd=away).wait() == 3
    assert in_turn(ends(2), ends(1), ends(3), cwd=away).wait() == 1 and in_turn(ends(2), ends(0), cwd=away).wait() == 2
    assert in_turn(ends(1), ends(75), python(mark("d")), cwd=away).wait() == 75
    assert in_turn(["sh", "-c", "kill -9 $$"], ends(3), cwd=away).wait() == 137
    assert sorted(path.name for path in away.iterdir()) == ["a", "b", "c"]
    missing = in_turn(["no_such_program"], cwd=away)
    assert "no_such_program" in missing.communicate()[1] and missing.returncode == 2
    assert in_turn(cwd=away).wait() == 2


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_in_turn_passes_an_interruption_on(number: signal.Signals, away: Path) -> None:
    """What is at work saves and ends with 75; if it finishes instead, nothing further is started."""
    waits = """import signal, sys, time, pathlib
def save(number, _):
    pathlib.Path("saved").write_text(str(number)); sys.exit({})
signal.signal(signal.{}, save); pathlib.Path("began").touch(); time.sleep(60)"""
    for code in (75, 0):
        task = in_turn(python(waits.format(code, number.name)), python("open('next', 'x')"), cwd=away)
        wait_for((away / "began").exists, 30)
        task.send_signal(number)
        assert task.wait(30) == 75
        assert (away / "saved").read_text() == str(int(number)) and not (away / "next").exists()
        (away / "began").unlink()
    deaf = in_turn(python("import time, pathlib; pathlib.Path('began').touch(); time.sleep(60)"), cwd=away)
    wait_for((away / "began").exists, 30)
    time.sleep(0.1)
    deaf.send_signal(number)
    assert deaf.wait(30) == 75


# ---- the pool, with programs that only leave their files ----------------------------------------------------------

STAND_IN = r"""#!/bin/bash
# Trains and diagnoses nothing: notes the call, leaves the files, fails as the file `code` says.
[[ $1 != *figures.py ]] || exit 0
[[ $1 == *run_experiment.py || $1 == *diagnose.py ]] || exec {python} "$@"
echo "$1 $2" >>{away}/calls
code=0
if [[ $1 == *diagnose.py ]]; then
    [[ ! -e {away}/code ]] || code=$(<{away}/code)
    [[ $code != 0 ]] || touch "$3/$2.json"
else
    while [[ $1 != --save_path ]]; do shift; done
    mkdir -p "$2/convection/lbfgs/beta_5/n_100/seed_0"
    echo '{{}}' >"$2/convection/lbfgs/beta_5/n_100/seed_0/metrics.json"
fi
exit "$code"
"""


def test_tasks_are_done_when_all_their_results_are_there(away: Path) -> None:
    program = away / "python"
    program.write_text(STAND_IN.format(python=shlex.quote(sys.executable), away=shlex.quote(str(away))))
    program.chmod(0o755)
    needed = CHECKED["CHECKED_PYTHON"].removeprefix(sys.executable)
    # One task is enough: of Figure 5, that of the first PINN.
    script = away / "one.sh"
    text = SCRIPT.read_text().replace('case_studies landscape ;;', 'pinn landscape convection lbfgs 5 100 0 ;;')
    script.write_text(text.replace('HERE=$(CDPATH=', f'HERE={shlex.quote(str(SCRIPTS))} #'))
    settings = PLAIN | {"FIGURE": "5", "SCALE": "smoke", "OUTDIR": "out", "JOBS": "1", "PYTHON": str(program),
                        "CHECKED_PYTHON": f"{program}{needed}"}  # fmt: skip

    def calls() -> list[str]:
        path = away / "calls"
        found = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        path.unlink(missing_ok=True)
        return [Path(program).name for program, _ in found]

    (away / "code").write_text("75")
    assert bash(script, away, **settings).returncode == 75
    assert calls() == ["run_experiment.py", "diagnose.py"]
    (away / "code").write_text("1")
    failed = bash(script, away, **settings)
    assert failed.returncode == 1 and "FAILED" in failed.stdout
    (away / "code").unlink()
    assert "tasks done 1/1" in bash(script, away, **settings).stdout and len(calls()) == 4
    assert "tasks done 1/1" in bash(script, away, **settings).stdout and calls() == []
    (result,) = away.glob("out/convection/**/landscape.json")
    result.unlink()
    assert "tasks done 1/1" in bash(script, away, **settings).stdout and len(calls()) == 2 and result.exists()
