"""The scripts of PINOs, run as a user runs them, at tiny sizes, in folders with blanks, and the figures of PINOs."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from analysis import expected
from analysis.comparison import read_history
from analysis.figure_specs import FIGURES
from analysis.tasks import Task
from shell import ROOT, SCRIPTS, bash, done, printed, refusal

SWEEP, COMPARISON = SCRIPTS / "sweep_pino.sh", SCRIPTS / "run_pino_optimizer_comparison.sh"
STRATEGIES = "adam lbfgs adam_lbfgs alm alm_data nncg cl"
MAPS = "cl nncg alm lbfgs adam"
PAPER_R, PAPER_N = [1, 2, 3, 4, 5, 6, 8, 10], [5, 10, 20, 50, 100, 200, 500, 1000]
TINY = "--N 61 --data_sub 4 --test_num 6"


def flags(task: Task) -> dict[str, str]:
    """The command's flags with their values, several joined by blanks."""
    words = re.split(r"(?<=\s)(--\w+)", " ".join(shlex.split(task.command)) + " ")[1:]
    return {name: value.strip() for name, value in zip(words[::2], words[1::2], strict=True)}


@pytest.mark.parametrize("script", [SWEEP, COMPARISON], ids=lambda path: path.name)
def test_help_lists_the_variables(script: Path, away: Path) -> None:
    result = bash(script, away, "--help")
    assert result.returncode == 0
    assert "PRESET" in result.stdout and "adam_lbfgs" in result.stdout
    assert list(away.iterdir()) == []


@pytest.mark.parametrize(("script", "settings", "says"), [
    (SWEEP, {"OPT": "adam sgd"}, f"OPT must be one of: {STRATEGIES} all; got 'sgd'"),
    (SWEEP, {"OPT": "all adam"}, "OPT: all stands alone"),
    (SWEEP, {"SCALE": "huge"}, "SCALE must be one of: smoke laptop paper"),
    (SWEEP, {"PRESET": "large"}, "PRESET must be one of: tiny small paper; got 'large'"),
    (SWEEP, {"VALUES": "1 0.5"}, "VALUES: a contrast is at least 1; got '0.5'"),
    (SWEEP, {"VALUES": "4 high"}, "VALUES: allowed are numbers; got 'high'"),
    (SWEEP, {"VALUES": "4 4.0"}, "VALUES: '4' is given twice"),
    (SWEEP, {"N": "5 0"}, "N must be at least 1; got '0'"),
    (SWEEP, {"N": "1e3"}, "N: allowed are whole numbers; got '1e3'"),
    (SWEEP, {"SEEDS": "0 00"}, "SEEDS: '0' is given twice"),
    (SWEEP, {"THRESHOLDS": "table5", "OPT": "adam alm_data"}, f"the table has no row for alm_data; it has {MAPS}"),
    (SWEEP, {"EXTRA": "--data_dir=x"}, "EXTRA: --data_dir is given by this script"),
    (SWEEP, {"EXTRA": "--alm_cons_item data"}, "EXTRA: --alm_cons_item is given by this script"),
    (SWEEP, {"LAUNCH": "cloud"}, "LAUNCH must be one of: auto slurm local print"),
    (SWEEP, {"GRES": "gpu 1"}, "GRES must be none or as sbatch's --gres"),
    (COMPARISON, {"R": "5 10"}, "R must be a single number"),
    (COMPARISON, {"N_SAMPLES": "many"}, "N_SAMPLES: allowed are whole numbers"),
    (COMPARISON, {"GPU": "a"}, "GPU: allowed are whole numbers"),
    (COMPARISON, {"ALM_RHO": "x"}, "ALM_RHO: allowed are numbers; got 'x'"),
    (COMPARISON, {"ALM_OUTER": "1.5"}, "ALM_OUTER: allowed are whole numbers"),
    (COMPARISON, {"BUDGET": "none"}, "BUDGET must be one of: smoke laptop paper"),
    (COMPARISON, {"OPTS": "adam all"}, f"OPTS must be one of: {STRATEGIES}; got 'all'"),
    (COMPARISON, {"LAUNCH": "slurm"}, "LAUNCH must be one of: local print"),
    (COMPARISON, {"EXTRA": "--steps 5"}, "EXTRA: --steps is given by this script"),
    (COMPARISON, {"OPTS": "lbfgs nncg"}, "OPTS: nncg starts from a finished Adam run, and there is none in"),
    (COMPARISON, {"CKPT_DIR": "other"}, "/other/darcy/adam/r_10/n_1000/seed_0; add adam to OPTS, or name"),
])  # fmt: skip
def test_bad_variable_is_one_line_and_exit_2(script: Path, settings: dict[str, str], says: str, away: Path) -> None:
    assert says in refusal(script, away, **settings)


# ---- commands ----------------------------------------------------------------------------------------------------


def test_grids_are_those_of_the_paper_and_the_longest_tasks_come_first(away: Path) -> None:
    strategies = [task.runs[0].split("/")[1] for task in printed(SWEEP, away, OPT="all", SCALE="smoke", OUTDIR="out")]
    assert strategies == ["cl"] * 2 + [strategy for strategy in MAPS.split()[1:] for _ in range(4)]

    tasks = printed(SWEEP, away, OPT="cl alm_data", SCALE="paper", OUTDIR="out")
    name = "darcy/{}/r_{}/n_{}/seed_{}".format
    assert [task.runs for task in tasks] == [
        *(tuple(name("cl", r, n, seed) for r in PAPER_R) for n in PAPER_N[::-1] for seed in range(3)),
        *(tuple(name("alm_data", r, n, seed) for seed in range(3)) for n in PAPER_N[::-1] for r in PAPER_R),
    ]  # fmt: skip
    for task in tasks:
        given = flags(task)
        assert given["--data_dir"] == str(ROOT / "PINO/data") and given["--data_rows"] == "1000"

    (task,) = printed(SWEEP, away, VALUES="2.50", N="0020", SEEDS="07", PRESET="tiny", EXTRA="--residual flux")
    assert task.runs == ("darcy/adam/r_2.5/n_20/seed_7",) and flags(task)["--residual"] == "flux"
    assert flags(task)["--outdir"] == str(ROOT / "results/pino_laptop_tiny")
    assert flags(task)["--data_dir"] == str(ROOT / "results/pino_laptop_tiny/data")
    (task,) = printed(SWEEP, away, VALUES="4", N="20", DATA="my data", OUTDIR="out")
    assert flags(task)["--data_dir"] == str(away / "my data")
    (task,) = printed(SWEEP, away, SCALE="smoke", VALUES="4", N="20", EXTRA="--piececonst_dir 'my files'")
    assert flags(task)["--piececonst_dir"] == "my files" and not {"--data_rows", "--N"} & set(flags(task))


def test_every_command_trains_what_its_folder_says(away: Path) -> None:
    calls = [("smoke", STRATEGIES), ("laptop", "adam cl"), ("paper", "cl")]
    tasks = [task for scale, opt in calls
             for task in printed(SWEEP, away, SCALE=scale, OPT=opt, PRESET="tiny", OUTDIR="a b")]
    assert len(tasks) == (6 * 2 * 2 + 2) + (4 * 4 + 4) + 8 * 3
    commands = [shlex.split(task.command) for task in tasks]
    program = str(ROOT / "PINO/scripts/darcy_sweep.py")
    assert {tuple(command[:2]) for command in commands} == {(sys.executable, program)}
    parse = """import sys, json; sys.path.insert(0, sys.argv[1]); from pino.arguments import parse
for command in json.load(sys.stdin):
    sweep = parse(command)
    keys = [one.key(one.strategy, r, seed) for one in sweep.settings for r in sweep.contrasts for seed in sweep.seeds]
    one = sweep.settings[0]
    runs = [str(one.save_path / key.folder()) for key in keys]
    print(json.dumps([runs, one.budget, one.source.recipe.size, one.source.recipe.stride, sweep.data_rows]))"""
    result = subprocess.run([sys.executable, "-c", parse, ROOT / "PINO"], text=True, check=True, cwd=away,
                            input=json.dumps([command[2:] for command in commands]), stdout=subprocess.PIPE)
    grids = {"smoke": (61, 4, 20), "laptop": (421, 7, 200), "paper": (421, 7, 1000)}
    for task, line in zip(tasks, result.stdout.splitlines(), strict=True):
        runs, budget, *grid = json.loads(line)
        assert sorted(runs) == sorted(str(away / "a b" / run) for run in task.runs)
        assert tuple(grid) == grids[budget] and budget == flags(task)["--budget"]
    assert list(away.iterdir()) == []


def test_comparison_passes_all_published_variables_on(away: Path) -> None:
    alm = {"--alm_mu": "2", "--alm_rho": "1.05"}
    tasks = printed(COMPARISON, away, R="5", N_SAMPLES="500", SEED="1", GPU="2", OPTS=STRATEGIES, OUTDIR="out")
    given = {task.runs[0].split("/")[1]: flags(task) for task in tasks}
    assert list(given) == STRATEGIES.split()
    assert {run for task in tasks for run in task.runs} == {
        f"darcy/{strategy}/r_5/n_500/seed_1" for strategy in given
    }  # fmt: skip
    assert given["adam"]["--steps"] == "15000" and "--data_dir" not in given["adam"]
    for strategy in ("alm", "alm_data"):
        assert given[strategy].items() >= (alm | {"--alm_outer_iters": "50", "--alm_inner_step": "500"}).items()
    assert given["nncg"]["--full_block"] == "8"
    begin = [strategy for strategy, one in given.items() if one.get("--ckpt_dir") == str(away / "out")]
    assert begin == ["adam_lbfgs", "alm", "alm_data", "nncg"]

    settings = {"ALM_MU": "3", "ALM_RHO": "1.5", "NNCG_FB_CHUNK": "0", "ADAM_STEPS": "7", "BUDGET": "laptop"}
    tasks = printed(COMPARISON, away, **settings, OUTDIR="out", DATA="my data", EXTRA="--residual flux")
    given = {task.runs[0].split("/")[1]: flags(task) for task in tasks}
    assert given["adam"]["--steps"] == "7" and given["nncg"]["--full_block"] == "0"
    assert (given["alm"]["--alm_mu"], given["alm"]["--alm_rho"]) == ("3", "1.5")
    assert not {"--alm_outer_iters", "--alm_inner_step"} & set(given["alm"])  # those of the budget
    for one in given.values():
        assert (one["--preset"], one["--data_dir"], one["--residual"]) == ("small", str(away / "my data"), "flux")


def test_figures_ask_the_sweep() -> None:
    panels = [panel for panel in (*FIGURES[3].panels, FIGURES[1].panels[2]) if panel.model == "PINO"]
    assert [panel.strategy for panel in panels] == ["adam", "lbfgs", "alm", "nncg", "cl", "lbfgs"]
    asked = expected.ask(panels[1], "paper")
    assert not asked.problem and (asked.physical, asked.data) == (PAPER_R, PAPER_N)
    assert (asked.physical_name, asked.data_name, len(asked.keys)) == ("r", "n", 8 * 8 * 3)
    gaps = [(expected.ask(panel, "smoke"), 1) for panel in panels[:5]]
    (line,) = expected.commands(gaps, "smoke")
    assert line.startswith('OPT="adam lbfgs alm nncg cl" SCALE=smoke bash ')
    assert line.endswith("sweep_pino.sh   # 5 of 20 runs missing")


# ---- training ----------------------------------------------------------------------------------------------------


def test_smoke_sweep_and_its_maps(away: Path) -> None:
    settings = {"SCALE": "smoke", "OUTDIR": "my results", "THRESHOLDS": "table5"}
    result = bash(SWEEP, away, **settings, JOBS="2")
    assert result.returncode == 0, result.stdout
    results = away / "my results"
    cells = [f"darcy/adam/r_{r}/n_{n}/seed_0" for r in (1, 10) for n in (5, 20)]
    assert done(results) == sorted(cells)
    assert (results / "regime_map.png").stat().st_size > 10_000
    assert "T_train = 2.110e-01, T_test = 1.610e-01 (Table 5 of the paper)" in result.stdout
    assert "regime, n (rows) by r (columns)" in result.stdout
    # Cells of one contrast share its data.
    files = {path.name for path in (results / "data").glob("*.h5")}
    ends = ("n16_r{}_f1_sub4_test.h5", "n20_r{}_f1_sub4_seed0.h5")
    assert files == {"darcy_N61_" + end.format(r) for end in ends for r in (1, 10)}
    logs = "".join(path.read_text() for path in (results / "logs").glob("*.log"))
    assert len(re.findall(r"_seed0.h5: 20 samples in", logs)) == 2
    assert sorted(path.name for path in away.iterdir()) == ["my results"]

    before = {path: path.stat().st_mtime_ns for path in results.rglob("metrics.json")}
    again = bash(SWEEP, away, **settings, OPT="adam cl", N="20")
    assert again.returncode == 0, again.stdout
    assert again.stdout.count("start ") == 1 and "tasks done 3/3" in again.stdout
    chain = [f"darcy/cl/r_{r}/n_20/seed_0" for r in (1, 10)]
    assert done(results) == sorted(cells + chain)
    assert before.items() <= {path: path.stat().st_mtime_ns for path in results.rglob("metrics.json")}.items()
    between = {f"darcy_N61_n20_r{r}_f1_sub4_seed0.h5" for r in (4, 7)}  # stages of the chain
    assert {path.name for path in (results / "data").glob("*.h5")} == files | between
    for strategy in ("adam", "cl"):
        assert (results / f"regime_map_darcy_{strategy}.png").stat().st_size > 10_000


def test_comparison_runs_adam_first_and_goes_on_where_it_was(away: Path) -> None:
    settings = {"N_SAMPLES": "5", "BUDGET": "smoke", "OUTDIR": "my results", "DATA": "my data", "EXTRA": TINY}
    settings |= {"GPU": "7", "OPTS": "alm lbfgs adam", "ALM_MU": "3", "ALM_RHO": "1.5", "ALM_OUTER": "3"}
    settings |= {"ALM_INNER": "2", "ADAM_STEPS": "4"}
    results = away / "my results"
    other = results / "darcy/adam/r_10/n_5/seed_0/config.json"
    other.parent.mkdir(parents=True)
    other.write_text('{"r": 5}')
    result = bash(COMPARISON, away, **settings)
    assert result.returncode == 2
    assert result.stdout.index("FAILED   darcy/adam") < result.stdout.index("start    darcy/lbfgs")
    assert "alm is left out: the Adam run that it starts from failed" in result.stdout
    assert "start    darcy/alm" not in result.stdout
    assert done(results) == ["darcy/lbfgs/r_10/n_5/seed_0"]

    other.unlink()
    result = bash(COMPARISON, away, **settings)
    assert result.returncode == 0, result.stdout
    assert "start    darcy/lbfgs" not in result.stdout
    table = result.stdout.partition("strategy ")[2].splitlines()[1:4]
    assert {line.split()[0] for line in table} == {"adam", "lbfgs", "alm"}
    assert (results / "comparison.png").stat().st_size > 10_000
    metrics = {path.parts[-5]: json.loads(path.read_text()) for path in results.rglob("metrics.json")}
    assert metrics["adam"]["iterations"] == 4
    assert metrics["alm"]["iterations"] == 3 * 2  # no Adam of its own
    options = metrics["alm"]["config"]["options"]
    assert (options["mu"], options["factor"], options["outer"], options["inner_steps"]) == (3, 1.5, 3, 2)
    history = results / "darcy/alm/r_10/n_5/seed_0/history.csv"
    losses = read_history(history)["train_loss"]
    assert losses[0] == metrics["adam"]["train_loss"]
    assert len(losses) < len(history.read_text().splitlines()) - 1  # lines without losses between
