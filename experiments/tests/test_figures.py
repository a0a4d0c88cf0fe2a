"""figures.py: which runs are missing and what makes them, and the command as a whole."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import figures
import pytest
from analysis import expected
from analysis.collect import build_grid, read_csv, write_csv
from analysis.expected import Expected
from analysis.figure_specs import Panel
from figure_runs import EDGES, PAPER, POINTS, run, sweep, table
from shell import SCRIPTS

PINN = Panel("a", "PINN", "convection", "lbfgs", "PINN")
UNKNOWN = Expected("sweep_pinn.sh", "PDE=convection OPT=lbfgs", problem="not asked")


def known(strategy: str, physical: list, data: list, seeds: int = 1) -> Expected:
    keys = frozenset((x, n, k) for x in physical for n in data for k in range(seeds))
    return Expected("sweep_pinn.sh", f"PDE=convection OPT={strategy}", keys, "beta", "n")


# what is missing


def test_sweep_scripts_say_what_is_expected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("N_RES", "7")  # a setting of the caller's is not the grid of the paper
    monkeypatch.setenv("SEEDS", "9")
    panel = Panel("a", "PINN", "reaction", "ropinn", "")
    asked = expected.ask(panel, "paper")
    assert (asked.physical, asked.data) == (PAPER["reaction"][1], POINTS) and not asked.problem
    assert (asked.physical_name, asked.data_name, asked.seeds(1.0, 100.0)) == ("rho", "n", 5)
    node = expected.ask(Panel("d", "NODE", "pendulum", "adam", ""), "smoke")
    assert node.keys == {(b, n, 0) for b in (1.0, 8.0) for n in (20.0, 100.0)}
    assert expected.ask(Panel("e", "PINODE", "pendulum", "cl", ""), "smoke").keys == node.keys
    # A model whose script comes later: known by its absence, read once it is there, and told when it fails.
    (tmp_path / "experiments").mkdir()
    (tmp_path / "requirements.txt").write_text("torch==1\n# test\npytest==1\n")
    fno = Panel("a", "FNO", "poisson", "adam", "")
    absent = expected.ask(fno, "paper", tmp_path / "experiments")
    assert not absent.exists and absent.problem == "FNO is not in the repository yet" and not absent.keys
    script = tmp_path / "experiments/sweep_fno.sh"
    script.write_text("""[[ $LAUNCH == print && $PYTHON && $CHECKED_PYTHON == "$PYTHON torch" ]] || exit 3
        echo "python run.py  # $SYSTEM/$OPT | fno/$SYSTEM/$OPT/k_{1-2.5,$SCALE}/n_128/seed_{0,1}" """)
    there = expected.ask(fno, "paper", script.parent)
    assert there.keys == {(k, 128.0, seed) for k in ("1-2.5", "paper") for seed in (0, 1)}
    for text, problem in (("echo bad >&2; exit 2", "sweep_fno.sh: bad"), ("exit 1", "failed without a word"),
                          ("echo 'run  # label'", "names no run folder for SYSTEM=poisson OPT=adam")):  # fmt: skip
        script.write_text(text)
        failed = expected.ask(fno, "paper", script.parent)
        assert problem in failed.problem and failed.exists and not failed.keys
        assert expected.missing_runs(failed, []) == []


def test_listing_and_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = known("lbfgs", [10.0, 20.0, 30.0], [100.0, 200.0], 3)
    runs = [run("lbfgs", x, n, k, 1.0, 1.0) for x, n, k in asked.keys if (x, n, k) != (20.0, 200.0, 1)]
    beyond = run("lbfgs", 99.0, 100.0, 0, 1.0, 1.0)
    assert expected.format_missing(PINN, asked, [*runs, beyond]) == [
        "  (a) PINN, 1D Convection, L-BFGS: 17 of 18 runs there, and 1 beyond the grid of this scale",
        "      missing: beta 20 n 200 seed 1",
    ]
    few = [one for one in runs if one.data_value == 100.0 and one.seed == 0]
    assert expected.format_missing(PINN, asked, few)[1:] == ["      missing by n: 100 (6 of 9), 200 (9 of 9)"]
    assert len(expected.format_missing(PINN, asked, [])) == 1
    assert "not known, not asked" in expected.format_missing(PINN, UNKNOWN, few)[0]
    gaps = [(replace(asked, variables=f"PDE={system} OPT={strategy}"), count) for system, strategy, count in (
        ("convection", "alm", 3), ("convection", "nncg", 18), ("wave", "alm", 2), ("wave", "nncg", 2),
        ("reaction", "alm", 1), ("reaction", "cl", 0), ("convection", "alm", 3))]  # fmt: skip
    gaps += [(replace(asked, script="sweep_node.sh", variables="MODEL=node OPT=adam"), 5)]
    gaps += [(replace(asked, script="sweep_pino.sh", variables="OPT=adam"), 7), (replace(asked, exists=False), 4)]
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "it is/experiments"
    assert expected.commands(gaps, "paper", folder) == [
        "PDE=\"convection wave\" OPT=\"alm nncg\" SCALE=paper bash 'it is/experiments/sweep_pinn.sh'   "
        "# 25 of 72 runs missing",
        "PDE=reaction OPT=alm SCALE=paper bash 'it is/experiments/sweep_pinn.sh'   # 1 of 18 runs missing",
        "MODEL=node OPT=adam SCALE=paper bash 'it is/experiments/sweep_node.sh'   # 5 of 18 runs missing",
        "OPT=adam SCALE=paper bash 'it is/experiments/sweep_pino.sh'   # 7 of 18 runs missing",
    ]


# the command


def command(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    call = [sys.executable, str(SCRIPTS / "figures.py"), *map(str, arguments)]
    return subprocess.run(call, cwd=cwd, capture_output=True, text=True, timeout=600, check=False)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_command_draws_what_exists_and_lists_the_rest(away: Path) -> None:
    runs = [r for r in sweep("convection", EDGES, noise=0.1) if r.physical_value in (5.0, 25.0, 50.0, 60.0)]
    first, rest = runs[:100], runs[100:]
    write_csv(first, away / "record/results.csv")
    write_csv(rest, away / "rest.csv")
    options = "--results", "record", "rest.csv", "--scale", "smoke", "--out", "out", "--dpi", 50
    done = command(3, 4, 10, *options, cwd=away)
    assert done.returncode == 0, done.stderr
    says = done.stdout.splitlines()
    assert "record: 100 runs" in says and f"rest.csv: {len(rest)} runs" in says
    # smoke: beta 5 and 50, n 100 and 200, seed 0; n 200 is not among the runs.
    assert ("  (b) PINN, 1D Convection, L-BFGS: 2 of 4 runs there, and 82 beyond the grid of this scale") in says
    assert "      missing: beta 5 n 200 seed 0" in says
    path = r"bash \S*experiments/sweep_"
    assert re.search(rf'PDE=convection OPT="ropinn lbfgs alm nncg cl" SCALE=smoke {path}pinn.sh   # 10 of 20 runs',
                     done.stdout)  # fmt: skip
    assert re.search(rf'MODEL=pinode OPT="adam lbfgs alm nncg cl" SCALE=smoke {path}node.sh   # 20 of 20', done.stdout)
    assert re.search(rf' OPT="adam lbfgs alm nncg cl" SCALE=smoke {path}pino.sh   # 20 of 20', done.stdout)
    assert "(g) PINO, Darcy Flow, L-BFGS: 0 of 4 runs there" in done.stdout
    assert "nothing to draw" in says[-1] and "training loss: most wins in every regime" in done.stdout
    names = ["_boundaries.csv", "_common.csv", "_common.pdf", "_common.png", "_common_boundaries.csv", "_paired.csv",
             "_positions.csv", "_positions.pdf", "_positions.png", "_wins.csv", ".csv", ".pdf", ".png"]  # fmt: skip
    four = [".csv", ".pdf", ".png", "_boundaries.csv", "_mean_of_ratios.pdf", "_mean_of_ratios.png"]
    found = sorted(path.name for path in (away / "out").iterdir())
    assert found == sorted([f"figure_3{name}" for name in names] + [f"figure_4{name}" for name in four])

    # The numbers are those of the runs.
    grid = build_grid(runs, "train_loss", system="convection", strategy="alm")
    limits = {}
    for name in ("figure_3", "figure_3_common"):
        rows = rows_of(away / f"out/{name}.csv")
        alm = [row for row in rows if (row["panel"], row["metric"]) == ("c", "train_loss")]
        assert len(alm) == len(grid.physical) * (len(grid.data) + 1)  # and n = 200
        for row in alm:
            if row["data_value"] == "200":
                assert (row["mean"], row["seeds"], row["regime"]) == ("nan", "0", "")
                assert row["expected_seeds"] == ("1" if row["physical_value"] in ("5", "50") else "0")
            else:
                i, j = grid.data.index(float(row["data_value"])), grid.physical.index(float(row["physical_value"]))
                assert float(row["mean"]) == grid.values[i, j] and int(row["seeds"]) == 3
        limits[name] = {row["strategy"]: row["T_train"] for row in rows if row["model"] == "PINN"}
    assert len(set(limits["figure_3"].values())) == 5 and len(set(limits["figure_3_common"].values())) == 1
    assert limits["figure_3_common"]["alm"] == limits["figure_3"]["lbfgs"]
    improvement = rows_of(away / "out/figure_4.csv")
    assert {row["system"] for row in improvement} == {"convection"} and len(improvement) == 2 * 4 * 7
    assert {row["shift"] for row in rows_of(away / "out/figure_4_boundaries.csv")} == {""}
    assert {row["shift"] for row in rows_of(away / "out/figure_3_boundaries.csv")} == {"", "-20 %", "+20 %"}
    positions = rows_of(away / "out/figure_3_positions.csv")
    assert Counter(row["strategy"] for row in positions) == {name: 2 * 7 for name in EDGES}
    assert {row["threshold"] for row in positions if row["metric"] == "train_loss"} == {limits["figure_3"]["lbfgs"]}
    assert {row["second"] for row in rows_of(away / "out/figure_3_paired.csv")} == set(EDGES) - {"lbfgs"}


def test_tables_of_an_earlier_call_do_not_stay(away: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(away)
    write_csv(table("lbfgs", [[1.0, 2.0]]), Path("runs.csv"))
    Path("out").mkdir()
    for name in ("wins", "paired", "other"):
        Path(f"out/figure_3_{name}.csv").write_text("of two strategies\n")
    assert figures.main(["3", "--results", "runs.csv", "--scale", "smoke", "--out", "out", "--dpi", "30"]) == 0
    found = {path.name for path in Path("out").glob("*.csv")}
    names = ("", "_boundaries", "_common", "_common_boundaries", "_positions", "_other")
    assert found == {f"figure_3{name}.csv" for name in names}


def test_command_without_runs_still_lists_the_commands(away: Path) -> None:
    (away / "empty").mkdir()
    done = command("10", "2", "--results", "empty", "--scale", "smoke", "--out", "out", cwd=away)
    assert done.returncode == 1 and not (away / "out").exists()
    assert 'PDE="convection reaction wave reaction_diffusion" OPT=lbfgs SCALE=smoke bash' in done.stdout
    assert "# 16 of 16 runs missing" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["17"], "N: invalid choice: '17'"),
        ([], "the following arguments are required: N"),
        (["2", "--scale", "large"], "--scale: invalid choice"),
        (["2", "--results", "nowhere"], "--results: no such folder or results.csv: nowhere"),
        (["2", "--results", "text.csv"], "--results: text.csv is not a table of runs: columns are missing"),
        (["2", "--results", "runs.csv", "runs.csv"], "--results: same cell and seed twice: runs.csv: "),
        (["2", "--results", "short.csv"], "--results: short.csv is not a table of runs: line 2: more or fewer cells"),
        (["3", "--results", "below.csv"], "--results: train_loss is negative in places"),
        (["2", "--thresholds", "high"], "--thresholds: 'high' is not one of percentile, common, table5"),
        (["2", "--thresholds", "common", "--perturbation", "percentile"], "--perturbation: percentile is allowed"),
        (["4", "--perturbation", "value"], "--perturbation: figure 4 has no"),
        (["2", "--base", "switch"], "--base: goes with figure 4"),
        (["2", "--models", "PINN"], "--models: goes with figure 3 only"),
        (["1", "--strategies", "lbfgs"], "--strategies: goes with figure 3 only"),
        (["3", "--models", "FNO"], "--models: invalid choice: 'FNO'"),
        (["3", "--strategies", "lbfgs alm"], "--strategies: 'lbfgs alm' is not the name of a strategy"),
        (["3", "--strategies", "alm", "alm"], "--strategies: a name occurs twice"),
        (["2", "--results", "runs.csv", "--out", "text.csv"], "--out: cannot write"),
        (["2", "--dpi", "nan"], "--dpi: 'nan' is not a number from 30"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_two(
    arguments: list[str], named: str, away: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(away)
    Path("text.csv").write_text("a,b\n")
    write_csv(table("lbfgs", [[1.0, 2.0]]), Path("runs.csv"))
    write_csv(table("lbfgs", [[1.0, 2.0]]) + table("alm", [[1.0, -2.0]]), Path("below.csv"))
    Path("short.csv").write_text(Path("runs.csv").read_text().splitlines()[0] + "\nPINN\n")
    with pytest.raises(SystemExit) as stop:
        figures.main([*arguments, *(["--scale", "smoke"] if "--scale" not in arguments else [])])
    said = capsys.readouterr()
    assert stop.value.code == 2 and said.err.count("\n") == 1
    assert said.err.startswith(f"figures.py: error: {named}"), said.err
    assert sorted(path.name for path in away.iterdir()) == [
        "below.csv", "runs.csv", "short.csv", "text.csv"]  # fmt: skip


def test_figure_three_of_chosen_rows_and_columns(away: Path) -> None:
    runs = table("lbfgs", [[1.0, 2.0], [0.1, 0.2]]) + table("mine", [[0.5, 3.0], [0.1, 0.1]])
    write_csv(runs, away / "runs.csv")
    options = "--results", "runs.csv", "--scale", "smoke", "--out", "out", "--dpi", 50
    done = command("3", "--models", "PINN", "--strategies", "lbfgs", "mine", *options, cwd=away)
    assert done.returncode == 0, done.stderr
    assert "(b) PINN, 1D Convection, mine: 4 runs there" in done.stdout
    assert "sweep_pinn.sh: error: OPT must be one of" in done.stdout  # what a new strategy has to be added to
    assert "PINN convection: cells won" in done.stdout and "PINO" not in done.stdout
    with (away / "out/figure_3.csv").open() as file:
        assert {row["strategy"] for row in csv.DictReader(file)} == {"lbfgs", "mine"}


def test_maps_command_with_common_thresholds(away: Path) -> None:
    runs = table("lbfgs", [[1.0, 2.0, 3.0]]) + table("alm", [[10.0, 20.0, 30.0]])
    write_csv(runs, away / "results.csv")
    for more, pictures in (([], 2), (["--strategy", "alm"], 1)):
        call = [sys.executable, str(SCRIPTS / "analysis/maps.py"), "results.csv", "--thresholds", "common",
                "--out", f"{pictures}/map.png", "--dpi", "40", *more]  # fmt: skip
        done = subprocess.run(call, cwd=away, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, done.stderr
        said = [line for line in done.stdout.splitlines() if line.startswith("T_train")]
        source = "percentiles 65 (train) and 75 (test) of the L-BFGS map, for all"
        assert said.count(f"T_train = 2.300e+00, T_test = 2.500e+00 ({source})") == pictures
        assert len(said) == pictures
        kinds = Counter(path.suffix for path in (away / str(pictures)).iterdir())
        assert kinds == {".png": pictures, ".pdf": pictures, ".csv": 1}
    assert len(read_csv(away / "1/results.csv")) == 6
