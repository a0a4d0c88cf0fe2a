"""The scripts of FNOs, run as a user runs them, at tiny sizes, in folders with blanks, and the figures of FNOs."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from analysis import expected, figure_maps
from analysis.collect import write_csv
from analysis.figure_specs import FIGURES
from figure_runs import run
from shell import ROOT, SCRIPTS, bash, done, flag, printed, refusal

SWEEP, TRAINING = SCRIPTS / "sweep_fno.sh", SCRIPTS / "run_fno_training.sh"
POISSON = ["1-2.5", "2.5-5", "5-10", "10-20", "20-30", "30-50", "50-100", "100-200"]
ADVDIFF = ["0.2-0.4", "0.4-0.6", "0.6-0.8", "0.8-1", "1-1.3", "1.3-1.7", "1.7-2", "2-2.5"]
TINY = "--n 32 --ntrain 32 --nval 16 --ntest 16"


@pytest.mark.parametrize("script", [SWEEP, TRAINING], ids=lambda path: path.name)
def test_help_lists_the_variables(script: Path, away: Path) -> None:
    result = bash(script, away, "--help")
    assert result.returncode == 0
    assert "DATA_OPTIONS" in result.stdout and "5.4 GB" in result.stdout
    assert list(away.iterdir()) == []


@pytest.mark.parametrize(("script", "settings", "says"), [
    (SWEEP, {"SYSTEM": "darcy"}, "SYSTEM must be one of: poisson advdiff helmholtz all; got 'darcy'"),
    (SWEEP, {"SYSTEM": "all poisson"}, "SYSTEM: all stands alone"),
    (SWEEP, {"OPT": "adam lbfgs"}, "OPT must be one of: adam; got 'adam lbfgs'"),
    (SWEEP, {"SIZE": "64k"}, "SIZE must be one of: 64K 1M 16M; got '64k'"),
    (SWEEP, {"SCALE": "huge"}, "SCALE must be one of: smoke laptop paper"),
    (SWEEP, {"RANGES": "1-3"}, f"RANGES must be one of: {' '.join(POISSON)}; got '1-3'"),
    (SWEEP, {"RANGES": "1-2.5", "SYSTEM": "advdiff"}, f"RANGES must be one of: {' '.join(ADVDIFF)}; got '1-2.5'"),
    (SWEEP, {"RANGES": " "}, "RANGES is empty"),
    (SWEEP, {"RANGES": "1-2.5", "SYSTEM": "all"}, "RANGES needs a single SYSTEM; got 'all'"),
    (SWEEP, {"N": "64 100"}, "N must divide the 2048 rows of --ntrain; got '100'"),
    (SWEEP, {"N": "0"}, "N must divide the 2048 rows of --ntrain; got '0'"),
    (SWEEP, {"N": "64", "DATA_OPTIONS": "--n 32 --ntrain=96"}, "N must divide the 96 rows of --ntrain; got '64'"),
    (SWEEP, {"N": "many"}, "N: allowed are whole numbers"),
    (SWEEP, {"RANGES": "1-2.5 1-2.5"}, "RANGES: '1-2.5' is given twice"),
    (SWEEP, {"SYSTEM": "poisson poisson"}, "SYSTEM: 'poisson' is given twice"),
    (SWEEP, {"SEEDS": "-1"}, "SEEDS: allowed are whole numbers"),
    (SWEEP, {"DATA_OPTIONS": "--n 32"}, "DATA_OPTIONS needs --ntrain, the rows of which N are trained on; got"),
    (SWEEP, {"DATA_OPTIONS": "--ntrain 2048 --force"}, "DATA_OPTIONS: --force is not for a sweep"),
    (SWEEP, {"DATA_OPTIONS": "--ntrain 2048 --e1=3"}, "DATA_OPTIONS: --e1 is not for a sweep"),
    (SWEEP, {"DATA_OPTIONS": "--ntrain 2048 'x"}, "unbalanced quotes"),
    (SWEEP, {"THRESHOLDS": "table5", "SYSTEM": "poisson helmholtz"}, "the table has no row for helmholtz"),
    (SWEEP, {"EXTRA": "--subsample 4"}, "EXTRA: --subsample is given by this script"),
    (SWEEP, {"EXTRA": "--root-dir=x"}, "EXTRA: --root-dir is given by this script"),
    (TRAINING, {"SUBSAMPLE": "8 16"}, "SUBSAMPLE must be a single number"),
    (TRAINING, {"MAX_EPOCHS": "0"}, "MAX_EPOCHS must be auto or a whole number from 1; got '0'"),
    (TRAINING, {"LR": "fast"}, "LR: allowed are numbers"),
    (TRAINING, {"BATCH_SIZE": "1.5"}, "BATCH_SIZE: allowed are whole numbers"),
    (TRAINING, {"GPU": "a"}, "GPU: allowed are whole numbers"),
    (TRAINING, {"LAUNCH": "slurm"}, "LAUNCH must be one of: local print"),
    (TRAINING, {"EXTRA": "--lr 1"}, "EXTRA: --lr is given by this script"),
])  # fmt: skip
def test_bad_variable_is_one_line_and_exit_2(script: Path, settings: dict[str, str], says: str, away: Path) -> None:
    assert says in refusal(script, away, **settings)


def test_grids_are_those_of_the_paper_and_the_longest_tasks_come_first(away: Path) -> None:
    tasks = printed(SWEEP, away, SYSTEM="all", SCALE="paper", OUTDIR="out")
    assert len(tasks) == 2 * 8 * 8
    amounts = [128 * 2**k for k in range(8)]
    cells = [("poisson", f"k_{k}") for k in POISSON] + [("advdiff", f"psi_{psi}") for psi in ADVDIFF]
    assert [task.runs for task in tasks] == [
        tuple(f"fno_1M/{system}/adam/{physical}/n_{n}/seed_{seed}" for seed in range(2021, 2026))
        for n in amounts[::-1] for system, physical in cells
    ]  # fmt: skip
    assert {flag(task, "--data_dir") for task in tasks} == {str(ROOT / f"FNO/data/{s}") for s in ("poisson", "advdiff")}
    assert {flag(task, "--generate") for task in tasks} == {"--n 128 --ntrain 32768 --nval 4096 --ntest 4096"}
    for task in tasks:
        n = int(re.search(r"/n_(\d+)/", task.runs[0])[1])
        assert int(flag(task, "--subsample")) * n == 32768

    # Data of other sizes have the same file names: they go elsewhere.
    (other,) = printed(SWEEP, away, SCALE="paper", SYSTEM="helmholtz", N="0016", DATA_OPTIONS=TINY, OUTDIR="out")
    assert flag(other, "--data_dir") == str(away / "out/data/helmholtz") and flag(other, "--subsample") == "2"
    assert other.runs[0] == "fno_1M/helmholtz/adam/o_1-10/n_16/seed_2021"
    (other,) = printed(SWEEP, away, SIZE="16M", RANGES="50-100", N="64", DATA="my data", SEEDS="07")
    assert flag(other, "--root_dir") == str(ROOT / "results/fno_laptop_16M")
    assert flag(other, "--data_dir") == str(away / "my data/poisson") and flag(other, "--batch_size") == "4"
    assert other.runs == ("fno_16M/poisson/adam/k_50-100/n_64/seed_7",)


# ---- figures -----------------------------------------------------------------------------------------------------


def test_figures_ask_the_sweep(away: Path) -> None:
    panels = FIGURES[10].panels
    for panel, ranges in zip(panels, (POISSON, ADVDIFF), strict=True):
        asked = expected.ask(panel, "paper")
        assert (asked.physical, asked.data) == (ranges, [128.0 * 2**k for k in range(8)]) and not asked.problem
        assert asked.seeds(ranges[0], 128.0) == 5
    assert FIGURES[1].panels[1].system == "advdiff" and expected.ask(FIGURES[1].panels[1], "smoke").keys

    # A map with a hole at 10-20: columns by size, not by spelling; one row is missing; thresholds of Table 5.
    runs = [
        run("adam", k, float(n), 2021, 0.05 + 0.02 * j, 0.1 + 0.05 * j, model="FNO", system="poisson", name="k")
        for j, k in enumerate(POISSON) for n in (128, 256) if k != "10-20"
    ]  # fmt: skip
    asked = expected.ask(panels[0], "paper")
    lines = expected.format_missing(panels[0], asked, runs)
    assert lines[0] == "  (a) FNO, 2D Poisson, Adam: 14 of 320 runs there"
    assert lines[1].startswith("      missing by n: 128 (33 of 40), 256 (33 of 40), 512 (40 of 40)")
    drawn = figure_maps.prepare(panels[0], runs, asked, "table5")
    assert drawn.train.physical == POISSON and (drawn.limits.train, drawn.limits.test) == (5.96e-2, 0.192)
    gaps = [(expected.ask(panel, "smoke"), 4) for panel in panels]
    (line,) = expected.commands(gaps, "smoke")
    assert line.startswith('SYSTEM="poisson advdiff" OPT=adam SCALE=smoke bash ')
    assert line.endswith("sweep_fno.sh   # 8 of 8 runs missing")

    write_csv(runs, away / "runs.csv")
    call = [sys.executable, str(SCRIPTS / "figures.py"), "10", "--results", "runs.csv", "--scale", "paper",
            "--thresholds", "table5", "--out", "out", "--dpi", "50"]  # fmt: skip
    result = subprocess.run(call, cwd=away, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    assert "(b) FNO, 2D Advection-Diffusion, Adam: 0 of 320 runs there" in result.stdout
    rows = (away / "out/figure_10.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * 2 * 8 * 8


# ---- training ----------------------------------------------------------------------------------------------------


def test_every_command_trains_what_its_folder_says(away: Path) -> None:
    tasks = [task for scale in ("smoke", "laptop", "paper") for size in ("64K", "1M", "16M")
             for task in printed(SWEEP, away, SYSTEM="poisson advdiff helmholtz", SCALE=scale, SIZE=size, OUTDIR="a b")]
    assert len(tasks) == 3 * (5 * 2 + 9 * 4 + 17 * 8)
    parse = """import sys, json, shlex; sys.path.insert(0, sys.argv[1]); from fno.arguments import parse
from fno.generate import make_parser; from fno.systems import SYSTEMS
for command in json.load(sys.stdin):
    args, config = parse(command)
    data = make_parser(SYSTEMS[config.system]).parse_args(shlex.split(args.generate))
    print(json.dumps([args.root_dir, args.budget, config.size, config.system, config.optimizer, config.range,
                      data.ntrain, args.subsamples, args.seeds, data.sparse]))"""
    commands = [shlex.split(task.command) for task in tasks]
    assert {tuple(command[:2]) for command in commands} == {(sys.executable, str(ROOT / "FNO/train.py"))}
    result = subprocess.run([sys.executable, "-c", parse, ROOT / "FNO"], text=True, check=True, stdout=subprocess.PIPE,
                            input=json.dumps([command[2:] for command in commands]))
    for task, line in zip(tasks, result.stdout.splitlines(), strict=True):
        root, budget, size, system, optimizer, limits, rows, (subsample,), seeds, sparse = json.loads(line)
        assert root == str(away / "a b") and budget == flag(task, "--budget") and sparse
        physical = {"poisson": "k", "advdiff": "psi", "helmholtz": "o"}[system] + "_{:g}-{:g}".format(*limits)
        cell = f"fno_{size}/{system}/{optimizer}/{physical}/n_{rows // subsample}"
        assert task.runs == tuple(f"{cell}/seed_{seed}" for seed in seeds)
    assert list(away.iterdir()) == []


def test_smoke_sweep_and_its_map(away: Path) -> None:
    settings = {"SYSTEM": "advdiff", "SCALE": "smoke", "SEEDS": "0 1", "OUTDIR": "my results"}
    result = bash(SWEEP, away, **settings, THRESHOLDS="table5")
    assert result.returncode == 0, result.stdout
    results = away / "my results"
    assert done(results) == sorted(f"fno_64K/advdiff/adam/psi_{psi}/n_{n}/seed_{k}"
                                   for psi in ("0.2-0.4", "2-2.5") for n in (16, 64) for k in (0, 1))  # fmt: skip
    assert (results / "regime_map.png").stat().st_size > 10_000
    assert len(list((results / "data/advdiff").glob("*.h5"))) == 2 * 3
    assert "T_train = 6.670e-02, T_test = 2.580e-01 (Table 5 of the paper)" in result.stdout
    assert "regime, n (rows) by psi (columns)" in result.stdout
    assert sorted(path.name for path in away.iterdir()) == ["my results"]
    again = bash(SWEEP, away, **settings)
    assert "start " not in again.stdout and "tasks done 4/4" in again.stdout


def test_tasks_that_need_the_same_data_make_them_once(away: Path) -> None:
    settings = {"SYSTEM": "helmholtz", "N": "16 8", "DATA_OPTIONS": TINY, "SCALE": "smoke", "JOBS": "2"}
    result = bash(SWEEP, away, **settings, OUTDIR="out", DATA="my data", THRESHOLDS="1,1")
    assert result.returncode == 0, result.stdout
    assert done(away / "out") == [f"fno_64K/helmholtz/adam/o_1-10/n_{n}/seed_0" for n in (16, 8)]
    assert len(list((away / "my data/helmholtz").glob("*.h5"))) == 3
    logs = "".join(path.read_text() for path in (away / "out/logs").glob("*.log"))
    assert len(re.findall(r"_train_o1_10_32k.h5: \d+ samples in", logs)) == 1
    assert (away / "out/regime_map.png").exists()


def test_single_training_prints_its_result(away: Path) -> None:
    settings = {"DATA_OPTIONS": TINY, "SUBSAMPLE": "2", "MAX_EPOCHS": "2", "GPU": "7", "OUTDIR": "out"}
    result = bash(TRAINING, away, **settings)
    assert result.returncode == 0, result.stdout
    folder = "fno_64K/poisson/adam/k_1-2.5/n_16/seed_0"
    assert done(away / "out") == [folder]
    metrics = json.loads((away / "out" / folder / "metrics.json").read_text())
    shown = f"{metrics['train_loss']:.4g}  {metrics['test_error']:.4g}"
    last = result.stdout.splitlines()[-1]
    assert " ".join(last.split()).startswith(" ".join(shown.split())) and last.endswith(folder)
