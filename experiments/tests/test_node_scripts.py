"""The scripts of neural ODEs, run as a user runs them, at tiny sizes, in folders with blanks."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from analysis.tasks import parse_line
from shell import ROOT, SCRIPTS, bash, done, environ, refusal, wait_for

SWEEP, COMPARISON = SCRIPTS / "sweep_node.sh", SCRIPTS / "run_node_optimizer_comparison.sh"
PINODE = "adam alm alm_data cl lbfgs nncg region_lbfgs"
NODE = "adam lbfgs sphere_adam"
DTS = ["--fixed-dt 0.1", "--fixed_dt=.025"]
TINY = {"SCALE": "smoke", "INV_B": "1 8", "HORIZONS": "0.5 1"}


@pytest.mark.parametrize("script", [SWEEP, COMPARISON], ids=lambda path: path.name)
def test_help_lists_the_variables(script: Path, away: Path) -> None:
    result = bash(script, away, "--help")
    assert result.returncode == 0
    assert "LOSS_SCALE" in result.stdout
    assert list(away.iterdir()) == []


@pytest.mark.parametrize(("script", "settings", "says"), [
    (SWEEP, {"MODEL": "ode"}, "MODEL must be one of: node pinode all; got 'ode'"),
    (SWEEP, {"MODEL": "node pinode"}, "MODEL must be one of"),
    (SWEEP, {"OPT": "sgd"}, f"OPT of MODEL=pinode must be one of: {PINODE} all; got 'sgd'"),
    (SWEEP, {"MODEL": "all", "OPT": "adam cl"}, f"OPT of MODEL=node must be one of: {NODE} all; got 'cl'"),
    (SWEEP, {"OPT": " "}, "OPT of MODEL=pinode is empty"),
    (SWEEP, {"OPT": "adam all"}, "OPT: all stands alone"),
    (SWEEP, {"SCALE": "huge"}, "SCALE must be one of: smoke laptop paper"),
    (SWEEP, {"LAUNCH": "no"}, "LAUNCH must be one of: auto slurm local print"),
    (SWEEP, {"EXTRA": "--alm-target data"}, "EXTRA: --alm-target is given by this script"),
    (SWEEP, {"EXTRA": "--out_dir=x"}, "EXTRA: --out_dir is given by this script"),
    (SWEEP, {"EXTRA": "--fixed-dt=small"}, "EXTRA: --fixed-dt: allowed are numbers; got 'small'"),
    (SWEEP, {"JOBS": "-1"}, "JOBS must be"),
    (SWEEP, {"INV_B": "1,2"}, "INV_B: allowed are numbers"),
    (SWEEP, {"HORIZONS": "long"}, "HORIZONS: allowed are numbers"),
    (SWEEP, {"SEEDS": "0.5"}, "SEEDS: allowed are whole numbers"),
    (SWEEP, {"LOSS_SCALE": "2"}, "LOSS_SCALE must be one of: unit paper"),
    (SWEEP, {"THRESHOLDS": "5"}, "THRESHOLDS must be percentile, table5, common or"),
    (SWEEP, {"THRESHOLDS": "table5", "OPT": "adam region_lbfgs"}, "the table has no row for pinode region_lbfgs"),
    (SWEEP, {"EXTRA": "'"}, "unbalanced quotes"),
    (COMPARISON, {"INV_B": "4 8"}, "INV_B must be a single number"),
    (COMPARISON, {"HORIZON": "x"}, "HORIZON: allowed are numbers"),
    (COMPARISON, {"SEED": "0 1"}, "SEED must be a single number"),
    (COMPARISON, {"GPU": "a"}, "GPU: allowed are whole numbers"),
    (COMPARISON, {"BUDGET": "none"}, "BUDGET must be one of: smoke laptop paper"),
    (COMPARISON, {"OPTS": "adam sphere_adam"}, f"OPTS must be one of: {PINODE}; got 'sphere_adam'"),
    (COMPARISON, {"LOSS_SCALE": "one"}, "LOSS_SCALE must be one of: unit paper"),
    (COMPARISON, {"EXTRA": "--fixed-dt=0.1"}, "EXTRA: --fixed-dt goes with sweep_node.sh"),
])  # fmt: skip
def test_bad_variable_is_one_line_and_exit_2(script: Path, settings: dict[str, str], says: str, away: Path) -> None:
    assert says in refusal(script, away, **settings)


def test_every_command_trains_what_its_folder_says(away: Path) -> None:
    scales = [{"SCALE": scale, "MODEL": "all", "OPT": "all"} for scale in ("smoke", "laptop", "paper")]
    calls = [(SWEEP, settings, 6) for settings in scales]  # the maps of the paper's Table 5
    calls += [(SWEEP, {"OPT": PINODE}, 7), (SWEEP, {"MODEL": "node", "OPT": NODE, "LOSS_SCALE": "paper"}, 3)]
    calls += [(COMPARISON, {"OPTS": PINODE, "BUDGET": budget}, 7) for budget in ("smoke", "laptop", "paper")]
    calls += [(COMPARISON, {"INV_B": "4", "HORIZON": "40"}, 6)]
    commands = []
    calls += [(SWEEP, {"HORIZONS": "0.15 .52 1e1", "INV_B": "5e-3 2.50", "EXTRA": dt}, 1) for dt in DTS]
    for script, settings, count in calls:
        shown = bash(script, away, LAUNCH="print", OUTDIR="a b", **settings).stdout
        tasks = [task for task in map(parse_line, shown.splitlines()) if task]
        assert len(tasks) == count, shown
        commands += [(*shlex.split(task.command), task, settings) for task in tasks]
    assert {command[:2] for command in commands} == {(sys.executable, str(ROOT / "NeuralODE/run_sweep.py"))}
    parse = """import sys, json; sys.path.insert(0, sys.argv[1]); from node.arguments import parse
for command in json.load(sys.stdin):
    sweep = parse(command); s = sweep.settings
    runs = [str(s.run(*cell).path) for cell in sweep.cells]
    print(json.dumps([str(s.save_path), s.model, s.strategy, s.problem.scale, s.budget, sweep.cells, runs]))"""
    result = subprocess.run([sys.executable, "-c", parse, ROOT / "NeuralODE"], text=True, check=True,
                            input=json.dumps([command[2:-2] for command in commands]), stdout=subprocess.PIPE)
    for (*_, task, settings), line in zip(commands, result.stdout.splitlines(), strict=True):
        folder, model, strategy, scale, budget, cells, runs = json.loads(line)
        assert sorted(runs) == sorted(str(away / "a b" / run) for run in task.runs)
        assert Path(folder) == away / "a b" / f"{model.lower()}_{strategy}"
        assert scale == settings.get("LOSS_SCALE", "unit")
        default = "paper" if "HORIZON" in settings else "laptop"
        assert budget == settings.get("SCALE", settings.get("BUDGET", default))
        if settings.get("SCALE") == "paper":
            assert len(cells) == 8 * 9 * 3 and cells[-1] == [15, 400, 2]
        elif "HORIZON" in settings:
            assert cells == [[4, 800, 0]]
    assert list(away.iterdir()) == []


def test_smoke_sweep_of_both_models_and_their_maps(away: Path) -> None:
    result = bash(SWEEP, away, MODEL="all", OPT="adam", OUTDIR="my results", EXTRA="--epochs 2", **TINY)
    assert result.returncode == 0, result.stdout
    results = away / "my results"
    cells = [f"pendulum/adam/inv_b_{inv_b}/n_{n}/seed_0" for inv_b in (1, 8) for n in (10, 20)]
    assert done(results) == sorted(f"{model}_adam/{model}/{cell}" for model in ("node", "pinode") for cell in cells)
    for model in ("NODE", "PINODE"):
        assert (results / f"regime_map_{model}_pendulum_adam.png").stat().st_size > 10_000
        assert json.loads((results / f"{model.lower()}_adam/sweep_results.json").read_text())["model"] == model
        assert len(list((results / f"{model.lower()}_adam").glob("*_matrix.npy"))) == 9
    assert result.stdout.count("regime, n (rows) by inv_b (columns)") == 2
    assert sorted(path.name for path in away.iterdir()) == ["my results"]

    before = {path: path.stat().st_mtime_ns for path in results.rglob("metrics.json")}
    line = (results / "tasks.sh").read_text().splitlines()[0]
    assert bash(line, away.parent).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in results.rglob("metrics.json")} == before


def test_maps_that_fail_are_named_and_the_others_drawn(away: Path) -> None:
    extra = {"EXTRA": "--alm-outer-iters 1", "THRESHOLDS": "table5"}
    result = bash(SWEEP, away, OPT="lbfgs alm_data", OUTDIR="out", **extra, **TINY)
    assert result.returncode == 2
    assert "failed with exit code 2: PINODE/lbfgs" in result.stdout
    assert "--alm-outer-iters goes with" in result.stdout
    assert len(done(away / "out/pinode_alm_data")) == 4
    assert "T_train = 6.880e-09, T_test = 1.310e+00 (Table 5 of the paper)" in result.stdout


def test_sweep_goes_on_after_an_interruption(away: Path) -> None:
    settings = {"OPT": "adam lbfgs", "JOBS": "1", "OUTDIR": "out", "EXTRA": "--log-every 13", **TINY}
    process = subprocess.Popen(["bash", SWEEP], cwd=away, env=environ(**settings), stdout=subprocess.PIPE, text=True)
    history = away / "out/pinode_adam/pinode/pendulum/adam/inv_b_8/n_20/seed_0/history.csv"
    wait_for(lambda: history.exists() and len(history.read_text().splitlines()) > 2)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 75, out
    assert "run the same command again to go on" in out
    assert (history.parent / "checkpoint.pt").exists()
    assert not list((away / "out").glob("*.png"))

    rows = history.read_text().splitlines()
    result = bash(SWEEP, away, **settings)
    assert result.returncode == 0, result.stdout
    assert len(done(away / "out")) == 8
    assert history.read_text().splitlines()[: len(rows) - 1] == rows[:-1]
    assert len(list((away / "out").glob("regime_map_pendulum_*.png"))) == 2


def test_comparison_of_all_optimizers(away: Path) -> None:
    # The cell of the published example.
    settings = {"INV_B": "4", "HORIZON": "40", "BUDGET": "smoke", "OUTDIR": "my results", "GPU": "7", "OPTS": PINODE}
    other = away / "my results/pinode_adam/pinode/pendulum/adam/inv_b_4/n_800/seed_0/config.json"
    other.parent.mkdir(parents=True)
    other.write_text('{"inv_b": 5}')
    result = bash(COMPARISON, away, **settings)
    assert result.returncode == 2
    assert "failed with exit code 2: PINODE/adam" in result.stdout
    assert len(done(away / "my results")) == 6
    assert re.search(r"^adam +unfinished$", result.stdout, re.M)

    other.unlink()
    result = bash(COMPARISON, away, **settings)
    assert result.returncode == 0, result.stdout
    table = result.stdout.partition("strategy ")[2].splitlines()[1:8]
    assert sorted(line.split()[0] for line in table) == PINODE.split()
    assert (away / "my results/comparison.png").stat().st_size > 10_000


@pytest.mark.parametrize(("horizon", "n"), [("0.15", 3), (".52", 11)])  # neither is 0.05 n in floating point
def test_comparison_finds_the_cell_of_any_horizon(horizon: str, n: int, away: Path) -> None:
    settings = {"HORIZON": horizon, "BUDGET": "smoke", "OUTDIR": "out", "OPTS": "adam", "EXTRA": "--epochs 1"}
    result = bash(COMPARISON, away, **settings)
    assert result.returncode == 0, result.stdout
    assert re.search(r"^adam .* finished", result.stdout, re.M)
    assert done(away / "out") == [f"pinode_adam/pinode/pendulum/adam/inv_b_8/n_{n}/seed_0"]
