"""The command line: published commands, what each flag changes, run folders, and things that go wrong."""

from __future__ import annotations

import csv
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

import forked  # noqa: E402
from forked import Warm  # noqa: E402
from node import files, matrices, session  # noqa: E402
from node import train as training  # noqa: E402
from node.arguments import parse  # noqa: E402
from node.flags import OPTIMIZERS  # noqa: E402
from node.objective import MODES, Objective  # noqa: E402
from test_bad_input import AT_LEAST_0, AT_LEAST_1, BAD, POSITIVE  # noqa: E402

warm = pytest.fixture(scope="module")(forked.warm)

TINY = "--budget smoke --hidden 6 --test-horizon 2"
ONE = f"{TINY} --inv-b-values 8 --horizon-values 0.5 --seeds 0"
GRID = f"{TINY} --inv-b-values 4 8 --horizon-values 0.5 1 --seeds 0"
COLUMNS = ("iteration stage train_loss loss_data loss_physics loss_total test_error grad_norm evaluations "
           "seconds").split()
KEYS = ("schema module model system strategy physical data seed train_loss test_error metrics "
        "status stop_reason iterations evaluations seconds config environment")
FILES = {"config.json", "history.csv", "metrics.json", "model.pt"}

#: Flags of a method -> its folder. All that are allowed with a penalty, and each kind of the others.
METHODS = {
    **{f"--optimizer {optimizer} --physics-mode {mode}":
       {"sphere": "sphere_", "pinn_region": "region_"}.get(mode, "") + kind
       for optimizer, kind in OPTIMIZERS.items() for mode in MODES if mode != "pinn_alm"},
    "--optimizer Adam_LBFGS_NNCG --physics-mode pinn --epochs 2": "nncg",
    "--optimizer Adam --physics-mode pinn --training rollout": "adam",
    "--optimizer LBFGS --physics-mode none --state raw --integrator rk4 --training rollout --lbfgs-max-iter 5": "lbfgs",
    "--optimizer LBFGS --physics-mode pinn --loss-scale paper --integrator dopri5": "lbfgs",
    "": "alm", "--optimizer Adam": "alm_adam", "--optimizer SGD --alm-target data": "alm_data_sgd",
    "--alm-target data --alm-warmup-epochs 1": "alm_data",
    "--physics-mode sphere --constraint-method alm": "sphere_alm",
    "--physics-mode sphere --constraint-method alm --optimizer Adam --alm-outer-iters 2": "sphere_alm_adam",
    "--physics-mode pinn --cl-warmup": "cl", "--physics-mode none --cl-warmup --optimizer Adam": "cl_adam",
    "--physics-mode sphere --cl-warmup --optimizer SGD": "sphere_cl_sgd",
    "--physics-mode pinn_region --cl-warmup": "region_cl",
    "--cl-warmup --cl-inv-delta 4": "alm_cl", "--cl-warmup --cl-inv-delta 4 --optimizer Adam": "alm_cl_adam",
}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the numbers of metrics.json that no history has: they take most of the time of a short run."""
    monkeypatch.setattr(Objective, "results", lambda *_: {})


def train(arguments: str, path: Path) -> int:
    """Run in this process; exit code."""
    sweep = parse([*shlex.split(arguments), "--out-dir", str(path)])
    code = training.train(sweep.settings, [sweep.settings.run(*cell) for cell in sweep.cells])
    if sweep.matrices:
        matrices.write(sweep.settings)
    return code


def read_strict(path: Path) -> dict[str, Any]:
    """Parse JSON and refuse NaN and Infinity."""
    def refuse(text: str) -> None:
        raise AssertionError(text)
    return json.loads(path.read_text(), parse_constant=refuse)


def results(path: Path) -> list[dict[str, Any]]:
    """All results below a folder, in the order of their paths."""
    return [read_strict(p) for p in sorted(path.rglob("metrics.json"))]


def by_cell(path: Path) -> dict[tuple[float, int, int], dict[str, Any]]:
    """All results below a folder, by 1/b, number of samples and seed."""
    return {(r["physical"]["value"], r["data"]["value"], r["seed"]): r for r in results(path)}


def result(arguments: str, path: Path) -> dict[str, Any]:
    """The result of a single tiny run."""
    assert train(f"{ONE} {arguments}", path) == 0
    return results(path)[0]


def numbers(result: dict[str, Any]) -> list[Any]:
    """What a run has found."""
    return [result["train_loss"], result["test_error"], result["metrics"], result["iterations"], result["evaluations"]]


# ---- what a run leaves -------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_every_method(tmp_path: Path, request: pytest.FixtureRequest, method: str) -> None:
    """Results are complete and strict, and are what the saved weights give."""
    mode = next((m for m in MODES if method.endswith(f"mode {m}") or f"mode {m} " in method), "pinn_alm")
    all_numbers = mode in ("pinn", "sphere") and "LBFGS" not in method
    if not all_numbers:
        request.getfixturevalue("quick")
    assert train(f"{GRID} {method}", tmp_path) == 0
    model = "NODE" if mode in ("none", "sphere") else "PINODE"
    cells = by_cell(tmp_path)
    assert list(cells) == [(v, n, 0) for v in (4, 8) for n in (10, 20)]
    settings = parse([*shlex.split(f"{GRID} {method}")]).settings
    objective = Objective(settings.problem, [v for v, _, _ in cells], [n / 20 for _, n, _ in cells])
    folders = [tmp_path / model.lower() / "pendulum" / METHODS[method] / f"inv_b_{v:g}" / f"n_{n}" / "seed_0"
               for v, n, _ in cells]
    loaded = [torch.load(folder / "model.pt", weights_only=True)["params"] for folder in folders]
    params = [torch.stack(weights) for weights in zip(*loaded, strict=True)]
    again = objective.columns(params, torch.arange(4))
    for k, (folder, found) in enumerate(zip(folders, cells.values(), strict=True)):
        assert " ".join(found) == KEYS and found["status"] == "finished" and found["stop_reason"]
        assert [found[key] for key in KEYS.split()[1:5]] == ["NeuralODE", model, "pendulum", METHODS[method]]
        assert found["physical"]["name"] == "inv_b" and found["data"]["name"] == "n"
        assert found["config"] == read_strict(folder / "config.json") and found["config"]["physics_mode"] == mode
        assert found["config"]["horizon"] == found["data"]["value"] / 20
        assert {"python", "torch", "device", "git_commit"} <= set(found["environment"])
        assert {p.name for p in folder.iterdir()} == FILES
        with open(folder / "history.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        assert list(rows[0])[:len(COLUMNS)] == COLUMNS and rows[0]["iteration"] == "0"
        kind = METHODS[method].split("_")
        assert ("mu" in rows[0]) == bool({"alm", "nncg"} & {*kind})
        assert ("physical_value" in rows[0]) == ("cl" in kind and "alm" not in kind)
        assert int(rows[-1]["iteration"]) == found["iterations"] > 0
        assert found["evaluations"] >= found["iterations"] * ("nncg" not in kind)
        result = found | found["metrics"]
        last = {name: float(rows[-1][name]) for name in COLUMNS[2:8]}  # often a line of before: in other company
        assert last == pytest.approx({name: result[name] for name in last}, rel=1e-6)
        assert result["loss_total"] == pytest.approx(result["loss_data"] + result["loss_physics"])
        if all_numbers:
            assert result["test_rollout_l2"] == pytest.approx(result["test_error"], rel=1e-4)
        if all_numbers and "rollout" not in method:
            assert result["train_mse"] == pytest.approx(result["train_loss"], rel=1e-3, abs=3e-11)
        for name in COLUMNS[2:7]:
            assert again[name][k] == pytest.approx(result[name], rel=1e-3), name
        assert float(rows[-1]["loss_total"]) < float(rows[0]["loss_total"]) or {"alm", "cl"} & {*kind}


#: Lists, and one of their runs by itself or in other company; float64, T of different lengths.
COMPANY = {
    "--physics-mode pinn --optimizer Adam --epochs 3": "--horizon-values 0.5 2.5",
    "--physics-mode pinn --optimizer Adam --updates-per-epoch own --epochs 4": "--horizon-values 0.5 2.5",
    "--physics-mode none --optimizer SGD --learning-rate 0.1 --epochs 3": "--horizon-values 0.5 2.5",
    "--physics-mode pinn --lbfgs-max-iter 8": "--horizon-values 0.5 2.5",
    "--physics-mode pinn --lbfgs-max-iter 8 --loss-scale paper": "--horizon-values 0.5 2.5",
    "--alm-outer-iters 2 --lbfgs-max-iter 4 --alm-bootstrap-lbfgs-max-iter 4": "--horizon-values 0.5 2.5",
    "--optimizer Adam --alm-target data --alm-outer-iters 3 --alm-bootstrap-lbfgs-max-iter 2":
        "--horizon-values 0.5 2.5",
    "--physics-mode pinn --cl-warmup --cl-inv-init 4 --cl-inv-delta 4 --lbfgs-max-iter 4": "--horizon-values 0.5 2.5",
    "--cl-warmup --cl-inv-init 4 --cl-inv-delta 4 --lbfgs-max-iter 4 --alm-outer-iters 2": "--horizon-values 0.5 1",
    "--physics-mode pinn --cl-warmup --cl-inv-init 4 --cl-inv-delta 4 --optimizer Adam --cl-inner-epochs 2":
        "--horizon-values 0.5 2.5",
    "--physics-mode pinn --optimizer NNCG": "--horizon-values 0.5 1",
    "--physics-mode pinn_region --optimizer Adam --epochs 2": "--horizon-values 0.5 2.5",
    "--physics-mode pinn_region --lbfgs-max-iter 4": "--horizon-values 0.5 2.5",
    "--physics-mode pinn --training rollout --lbfgs-max-iter 4": "--horizon-values 0.5 1",
}


@pytest.mark.parametrize("method", COMPANY)
def test_lists_are_the_product_and_company_changes_nothing(tmp_path: Path, quick: None, method: str) -> None:
    """In float64 a run gives the same alone, among others and in another order."""
    flags = f"{TINY} --precision float64 {method}"
    longest = COMPANY[method].split()[-1]
    n = round(20 * float(longest))
    assert train(f"{flags} {COMPANY[method]} --inv-b-values 8 4 --seeds 1 0", tmp_path / "all") == 0
    cells = by_cell(tmp_path / "all")
    assert set(cells) == {(v, k, seed) for v in (4, 8) for k in (10, n) for seed in (0, 1)}
    assert len({r["train_loss"] for r in cells.values()}) == 8
    for name, rest in {"alone": f"--inv-b-values 4 --horizon-values {longest} --seeds 0",
                       "other": f"--inv-b-values 4 6 8 --horizon-values 0.5 {longest} --seeds 1"}.items():
        assert train(f"{flags} {rest}", tmp_path / name) == 0
        for cell, other in by_cell(tmp_path / name).items():
            if cell in cells:
                assert other["train_loss"] == pytest.approx(cells[cell]["train_loss"], rel=1e-9), cell
                assert other["test_error"] == pytest.approx(cells[cell]["test_error"], rel=1e-9), cell
                assert other["iterations"] == cells[cell]["iterations"]


# ---- flags -------------------------------------------------------------------------------------

CELL = "--inv-b-values 8 --horizon-values 20 --seeds 0"
#: As printed, less what makes them long; and the spellings of the rest of the module's published text.
PUBLISHED = {
    f"--optimizer Adam --physics-mode pinn {CELL} --epochs 600 --cuda --out-dir OUT": "--epochs 2",
    f"--optimizer LBFGS --physics-mode pinn_alm {CELL} --alm-outer-iters 50 --alm-warmup-epochs 500 --cuda "
    "--out-dir OUT": "--alm-outer-iters 3 --alm-warmup-epochs 2",
    f"--optimizer LBFGS --physics-mode pinn_alm {CELL} --alm-outer-iters 50 --alm-warmup-epochs 5 --out_dir OUT":
        "--lbfgs_max_iter 2 --horizon-values 1 --test-horizon 2",
    f"--optimizer Adam_NNCG --physics-mode pinn {CELL} --cuda --outdir OUT": "--horizon-values 1",
    f"--optimizer LBFGS --physics-mode pinn --cl-warmup {CELL} --cuda --out-dir=OUT": "--horizon-values 1",
    "--optimizer LBFGS --physics-mode pinn --inv-b 8 --horizon 1 --seed 0 --outdir OUT": "",
    "--optimizer Adam_LBFGS_NNCG --physics_mode pinn --epochs 0 --lbfgs-max-iter 9 --nncg-epochs 2 --inv-b-values 8 "
    "--horizon-values 1 --seeds 0 --save-path OUT": "",
}


@pytest.mark.parametrize("command", PUBLISHED)
def test_published_command(warm: Warm, tmp_path: Path, command: str) -> None:
    """They run, from another working directory, and write what they say."""
    words = command.replace("OUT", str(tmp_path)).split()
    done = warm.run(*words, "--budget", "smoke", *PUBLISHED[command].split())
    assert done["rc"] == 0, done
    assert ("--cuda: there is no GPU, the CPU is used" in done["err"]) == (
        "--cuda" in command and not torch.cuda.device_count())
    (found,) = results(tmp_path)
    assert found["config"]["hidden"] == [16, 16, 16] and found["physical"]["value"] == 8
    assert len(list(tmp_path.glob("*_matrix.npy"))) == 9
    assert read_strict(tmp_path / "sweep_results.json")["runs"] == 1


def grid(arguments: str) -> tuple[list[float], list[int], list[int]]:
    """1/b, numbers of samples and seeds that a command trains."""
    found = [list(dict.fromkeys(part)) for part in zip(*parse(arguments.split()).cells, strict=True)]
    return tuple(found) if found else ([], [], [])


def test_spellings_of_the_grid() -> None:
    """Commas and spaces, short names, seeds, b for 1/b, subsets and defaults."""
    pinn = "--optimizer LBFGS --physics-mode pinn"
    default = ([1, 2, 4, 6, 8, 10, 12, 15], [10, 20, 40, 100, 160, 200, 240, 300, 400], [0, 1, 2])
    assert grid(pinn) == default and len(parse(pinn.split()).cells) == 8 * 9 * 3
    for lists in ("--inv-b-values 1,4 --horizon-values 2,1 --seeds 3,5", "--inv-b 1 4 --horizon 2 1 --seeds 3 5",
                  "--inv_b_values=1,4 --horizon_values 2 ,1 --seeds 3, ,5"):
        assert grid(f"{pinn} {lists}") == ([1, 4], [20, 40], [3, 5]), lists
    assert grid(f"{pinn} --seed 5")[2] == [5]
    for words in (["--seeds", ""], ["--seeds", "", "--seed", "4"], ["--seeds="]):
        seeds = {seed for _, _, seed in parse([*pinn.split(), *words]).cells}
        assert seeds == ({4} if "--seed" in words else {0, 1, 2})
    assert grid(f"{pinn} --b-values 0.125,0.5")[0] == [8, 2]
    assert grid(f"{pinn} --only-inv-b-values 4 8")[0] == [4, 8]
    empty = parse([*pinn.split(), "--inv-b-values", "", "--b-values", "", "--horizon-values", ""])
    assert len(empty.cells) == 12 * 12 * 3 and empty.cells[0][0] == 1 and empty.cells[-1][0] == pytest.approx(10)
    assert grid(f"{pinn} --fixed-dt 0.1 --horizon-values 1")[1] == [10]
    parts = [parse([*pinn.split(), "--shard-index", str(k), "--shard-count", "5"]).cells for k in range(5)]
    assert sorted(sum(parts, [])) == sorted(parse(pinn.split()).cells)


def test_updates_of_an_epoch() -> None:
    """As many as the test horizon has mini-batches, whatever the cell; or as asked for."""
    flags = "--optimizer Adam --physics-mode pinn --horizon-values"
    for rest, wanted in {"0.5 20": [13, 13], "20 40": [13, 25], "0.5 20 --test-horizon 40": [25, 25],
                         "0.5 --batch-size 8": [50], "0.5 40 --updates-per-epoch auto": [13, 25],
                         "0.5 2.5 20 --updates-per-epoch own": [1, 2, 13], "0.5 40 --updates-per-epoch grid": [25, 25],
                         "0.5 2.5 --updates-per-epoch 0": [2, 2], "2.5 --updates-per-epoch 00": [2],
                         "0.5 20 --updates-per-epoch 7": [7, 7], "0.5 20 --training rollout": [1, 1],
                         "20 --training rollout --updates-per-epoch 3": [3]}.items():
        settings = parse(f"{flags} {rest}".split()).settings
        assert [settings.epoch(n) for n in settings.horizons] == wanted, rest


@pytest.mark.parametrize(("flags", "updates"), [("--horizon-values 40", 25), ("--horizon-values 2.5", 2),
                                                ("--horizon-values 2.5 --updates-per-epoch 7", 7)])
def test_iterations_count_updates(tmp_path: Path, quick: None, flags: str, updates: int) -> None:
    """Of Adam; an epoch has as many as there are mini-batches."""
    found = result(f"--optimizer Adam --physics-mode pinn {flags} --epochs 2", tmp_path)
    assert found["iterations"] == found["evaluations"] == 2 * updates
    assert found["config"]["updates_per_epoch"] == updates


#: Method -> flags that change its result.
CHANGES = {
    "--physics-mode pinn --lbfgs-max-iter 6": [
        "--lbfgs-max-iter 9", "--lbfgs-history-size 1", "--lbfgs-tolerance-grad 1", "--lamb 2", "--loss-scale paper",
        "--training rollout", "--integrator rk4", "--data-tolerance tight", "--hidden 7", "--precision float64",
        "--seeds 1", "--inv-b-values 6", "--horizon-values 0.6", "--fixed-dt 0.1", "--fixed-test-dt 0.1",
        "--test-horizon 3", "--physics-mode none", "--optimizer Adam_LBFGS_NNCG", "--epochs 2"],
    "--physics-mode pinn --lbfgs-max-iter 6 --loss-scale paper": ["--lbfgs-tolerance-change 1"],
    "--physics-mode none --lbfgs-max-iter 4": ["--state raw", "--physics-mode sphere"],
    "--physics-mode sphere": ["--constraint-method alm"],
    "--physics-mode pinn --optimizer Adam --epochs 1 --horizon-values 2.5 --updates-per-epoch 3": [
        "--learning-rate 0.01", "--batch-size 8", "--updates-per-epoch own", "--epochs 2", "--optimizer SGD"],
    "--physics-mode pinn --optimizer Adam_LBFGS_NNCG --lbfgs-max-iter 10 --nncg-epochs 3 --nncg-rank 2": [
        "--nncg-epochs 2", "--nncg-lr 0.5", "--nncg-rank 3", "--nncg-mu 1", "--nncg-cg-tol 0.5",
        "--nncg-cg-max-iters 1", "--nncg-precond-update-freq 3"],
    "--physics-mode pinn --optimizer Adam_NNCG --epochs 4": ["--nncg-switch-epoch 3"],
    "--alm-outer-iters 2 --lbfgs-max-iter 4 --alm-bootstrap-lbfgs-max-iter 4": [
        "--alm-target data", "--alm-outer-iters 1", "--alm-inner-step 2", "--alm-penalty 3", "--alm-penalty-growth 2",
        "--alm-uncon-weight 1", "--alm-bootstrap-lbfgs-max-iter 2", "--alm-warmup-epochs 1", "--alm-penalty 0"],
    "--alm-outer-iters 2 --lbfgs-max-iter 4": ["--no-alm-bootstrap", "--cl-warmup --cl-inv-delta 4"],
    "--physics-mode pinn_region --lbfgs-max-iter 25": [
        "--rho 1e-3", "--region-samples 2", "--region-history 1 --rho 0.01", "--region-max-radius 0.01", "--rho 0"],
    "--physics-mode pinn --cl-warmup --cl-inv-init 4 --cl-inv-delta 2 --lbfgs-max-iter 3": [
        "--cl-inv-init 5", "--cl-inv-delta 4", "--cl-inner-epochs 2", "--epochs 2"],
    "--physics-mode pinn --cl-warmup --cl-schedule-space b --cl-init-coeff 0.5 --cl-delta-coeff 0.2 "
    "--lbfgs-max-iter 3": ["--cl-init-coeff 0.4", "--cl-delta-coeff 0.1"],
}


WINDOW = ["--rollout-report-test-dt 0.1", "--rollout-report-t-span-lo 1", "--rollout-report-t-span-hi 5"]


@pytest.mark.parametrize("method", CHANGES)
def test_flags_act(tmp_path: Path, quick: None, method: str) -> None:
    """Other settings give other results, and leave another configuration."""
    base = result(method, tmp_path / "base")
    for k, flags in enumerate(CHANGES[method]):
        without = method.replace("--alm-bootstrap-lbfgs-max-iter 4", "") if "no-alm" in flags else method
        found = result(f"{without} {flags}", tmp_path / str(k))
        assert numbers(found) != numbers(base), flags
        assert found["config"] != base["config"], flags


def test_flags_of_the_windowed_error(tmp_path: Path) -> None:
    """They change that number and no other."""
    base = result("--physics-mode pinn --lbfgs-max-iter 2", tmp_path / "base")
    for flag in WINDOW:
        found = result(f"--physics-mode pinn --lbfgs-max-iter 2 {flag}", tmp_path / flag)
        name = "test_rollout_l2_mean_rel_window"
        assert found["metrics"].pop(name) != base["metrics"][name], flag
        assert found["metrics"].items() <= base["metrics"].items() and found["config"] != base["config"]


def test_flags_that_change_no_result(tmp_path: Path, quick: None) -> None:
    """They change what is logged and written."""
    flags = "--physics-mode pinn --optimizer Adam --epochs 60"
    base = result(flags, tmp_path / "base")
    quiet = "--log-every 30 --no-save-model --checkpoint-every 0 --write-case-json-only --workers 1 --device cpu"
    for k, more in enumerate((quiet, "--log-loss-every 2 --skip-existing-cases --no-save-cell-ckpt")):
        assert numbers(result(f"{flags} {more}", tmp_path / str(k))) == numbers(base)
        assert not list(tmp_path.glob(f"{k}/**/model.pt"))
        assert bool(list(tmp_path.glob(f"{k}/*_matrix.npy"))) == bool(list(tmp_path.glob(f"{k}/sweep*"))) == (k == 1)

    def logged(folder: str) -> list[int]:
        lines = next(tmp_path.glob(f"{folder}/**/history.csv")).read_text().splitlines()[1:]
        return [int(line.split(",")[0]) for line in lines]
    assert logged("0")[0] == logged("base")[0] == 0 and logged("0")[-1] == logged("base")[-1] == base["iterations"]
    assert len(logged("0")) < len(logged("base"))


def test_help_names_no_flag_that_is_not_tried(tmp_path: Path) -> None:
    """Here or among bad input."""
    tried = [*BAD, *WINDOW, *CHANGES, *sum(CHANGES.values(), []), *METHODS, *COMPANY, *PUBLISHED,
             *PUBLISHED.values(), TINY, *(f"--{name}" for name in (*AT_LEAST_0, *AT_LEAST_1, *POSITIVE)),
             "--b-values --only-inv-b-values --skip-existing-cases --save-model --no-save-model --save-cell-ckpt "
             "--no-save-cell-ckpt --write-case-json-only --force --help --wandb-project"]
    flags = subprocess.run([sys.executable, str(forked.ENTRY), "--help"], capture_output=True, text=True, check=True,
                           cwd=tmp_path, env=os.environ | {"COLUMNS": "1000"}).stdout.split()
    named = {flag.strip("[],()") for flag in flags if flag.strip("[(").startswith("--")}
    assert len(named) > 80 and named - set(" ".join(tried).replace("=", " ").split()) == set()


def test_budget_is_not_an_argument_of_its_own(tmp_path: Path, quick: None) -> None:
    """What it sets is; and single options override it."""
    flags = f"{ONE} --physics-mode pinn --lbfgs-max-iter 4 --log-every 3"
    assert train(flags, tmp_path) == 0 and results(tmp_path)[0]["iterations"] == 4
    assert train(flags.replace("smoke", "laptop"), tmp_path) == 0
    for budget, wanted in {"smoke": (3, 20, 20), "laptop": (30, 100, 300), "paper": (50, 500, 1000)}.items():
        o = parse(["--budget", budget]).settings.options
        assert (o.outer, o.lbfgs.max_iter, o.bootstrap) == wanted
    paper = parse("--physics-mode pinn --cl-warmup --inv-b-values 15 --horizon-values 1 --seeds 0".split()).settings
    assert len(paper.options.schedule.values(15)) == 60 and paper.options.lbfgs.max_iter == 500
    assert len(parse("--cl-warmup --inv-b-values 15".split()).settings.options.schedule.values(15)) == 60


def test_initial_weights(tmp_path: Path, quick: None) -> None:
    """Of the augmented Lagrangian: a file, or the run of the same cell and seed in a folder; no bootstrap then."""
    cells = f"{TINY} --inv-b-values 4 8 --horizon-values 0.5 --seeds 0 1 --precision float64"
    assert train(f"{cells} --physics-mode pinn --lbfgs-max-iter 6", tmp_path / "bank") == 0
    alm = f"{cells} --alm-outer-iters 1 --lbfgs-max-iter 1 --alm-init-ckpt"
    assert train(f"{alm} {tmp_path / 'bank'}", tmp_path / "a") == 0
    file = next((tmp_path / "bank").rglob("inv_b_8/n_10/seed_1/model.pt"))
    assert train(f"{alm} {file}", tmp_path / "b") == 0
    bank, a, b = (by_cell(tmp_path / name) for name in ("bank", "a", "b"))
    assert b[8, 10, 1]["train_loss"] == pytest.approx(a[8, 10, 1]["train_loss"], rel=1e-9)
    assert b[8, 10, 0]["train_loss"] != a[8, 10, 0]["train_loss"]
    for cell, found in a.items():
        with open(tmp_path / f"a/pinode/pendulum/alm/inv_b_{cell[0]:g}/n_10/seed_{cell[2]}/history.csv") as file:
            first = next(csv.DictReader(file))
        assert first["stage"] == "alm_1" and found["iterations"] == 1
        assert float(first["train_loss"]) == pytest.approx(bank[cell]["train_loss"], rel=1e-9)


# ---- a run that is there -----------------------------------------------------------------------


def test_finished_run(warm: Warm, tmp_path: Path) -> None:
    """Again it is a no-op; with other arguments it is refused before anything is done; --force redoes."""
    flags = [*shlex.split(ONE), "--physics-mode", "pinn", "--lbfgs-max-iter", "4", "--out-dir", tmp_path]
    assert warm.run(*flags)["rc"] == 0

    def state() -> dict[Path, tuple[int, bytes]]:
        return {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in tmp_path.rglob("*") if p.is_file()}

    def runs_only(state: dict[Path, tuple[int, bytes]]) -> dict[Path, tuple[int, bytes]]:
        return {p: found for p, found in state.items() if p.parent != tmp_path}
    before, start = state(), time.monotonic()
    done = warm.run(*flags, "--log-every", "7", "--budget", "laptop", "--skip-existing-cases")
    assert done["rc"] == 0 and "already done, nothing to do" in done["err"] and time.monotonic() - start < 3
    assert runs_only(state()) == runs_only(before)
    assert {p: text for p, (_, text) in state().items()} == {p: text for p, (_, text) in before.items()}
    before = state()
    done = warm.run(*flags, "--horizon-values", "0.5", "1", "--lamb", "3", "--lbfgs-history-size", "9")
    assert done["rc"] == 2 and done["err"].count("\n") == 1 and "use another --out-dir or --force" in done["err"]
    assert "lamb 1.0 -> 3.0" in done["err"] and "options.lbfgs_history_size 50 -> 9" in done["err"]
    assert state() == before
    assert warm.run(*flags, "--lamb", "3", "--force")["rc"] == 0
    assert results(tmp_path)[0]["config"]["lamb"] == 3 and state().keys() == before.keys()


def test_leftovers_of_a_kill_after_the_end_are_removed(warm: Warm, tmp_path: Path) -> None:
    """A checkpoint and a claim beside a result are of no use."""
    flags = [*shlex.split(ONE), "--physics-mode", "pinn", "--lbfgs-max-iter", "4", "--out-dir", tmp_path]
    whole = warm.run(*flags)
    assert warm.run(*flags, "--force", at=whole["operations"] - 5)["rc"] in (0, -9)
    folder = next(tmp_path.rglob("config.json")).parent
    (folder / "checkpoint.pt").write_bytes(b"")
    assert warm.run(*flags)["rc"] == 0
    (folder / "checkpoint.pt").write_bytes(b"")
    assert "already done" in warm.run(*flags)["err"] and {p.name for p in folder.iterdir()} == FILES


def test_two_processes(warm: Warm, tmp_path: Path) -> None:
    """The second says so and leaves the run, trains what is free, and exits with 3."""
    flags = [*shlex.split(TINY), *"--physics-mode pinn --lbfgs-max-iter 4 --horizon-values 0.5 --seeds 0".split(),
             "--inv-b-values", "4", "8", "--out-dir", str(tmp_path)]
    run = parse(flags).settings.run(4.0, 10, 0)
    run.prepare()
    for force in ([], ["--force"]):
        before = {p: p.read_text() for p in run.path.iterdir()}
        done = warm.run(*flags, *force)
        assert done["rc"] == 3 and "another process is training it" in done["err"] and str(run.path) in done["err"]
        assert {p: p.read_text() for p in run.path.iterdir()} == before and len(results(tmp_path)) == 1
    run.release()
    assert warm.run(*flags)["rc"] == 0 and len(results(tmp_path)) == 2


# ---- things that go wrong ----------------------------------------------------------------------


@pytest.mark.parametrize("method", ["--physics-mode pinn --optimizer SGD --epochs 30",
                                    "--physics-mode none --optimizer SGD --epochs 30 --integrator dopri5",
                                    "--physics-mode pinn --optimizer SGD --epochs 30 --training rollout",
                                    "--optimizer SGD --alm-outer-iters 2 --no-alm-bootstrap --alm-inner-step 20"])
def test_divergence_is_recorded(warm: Warm, tmp_path: Path, method: str) -> None:
    """Null in strict JSON, exit code 0, no traceback."""
    done = warm.run(*f"{ONE} {method} --learning-rate 1e6 --out-dir {tmp_path}".split())
    assert done["rc"] == 0 and "Traceback" not in done["err"], done
    (found,) = results(tmp_path)
    assert (found["status"], found["train_loss"], found["stop_reason"]) == ("diverged", None, "non_finite")
    assert 0 < found["iterations"] <= 40
    summary = read_strict(tmp_path / "sweep_results.json")
    assert summary["diverged"] == 1 and summary["train_loss_matrix"] == [[None]]


def test_divergence_does_not_touch_neighbours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They end as they would without it."""
    flags = f"{TINY} --physics-mode pinn --optimizer Adam --epochs 9 --horizon-values 0.5 --seeds 0 --precision float64"
    assert train(f"{flags} --inv-b-values 4", tmp_path / "alone") == 0
    build = training.Settings.build

    def spoiled(settings: Any, rows: Any) -> Any:
        params, strategy = build(settings, rows)
        for p in params:
            p.data[[row.physical == 8 for row in rows]] = 1e308
        return params, strategy
    monkeypatch.setattr(training.Settings, "build", spoiled)
    assert train(f"{flags} --inv-b-values 4 8 6", tmp_path / "both") == 0
    (alone,), found = results(tmp_path / "alone"), by_cell(tmp_path / "both")
    assert [found[value, 10, 0]["status"] for value in (4, 6, 8)] == ["finished", "finished", "diverged"]
    assert found[4, 10, 0]["train_loss"] == pytest.approx(alone["train_loss"], rel=1e-9)
    assert found[4, 10, 0]["test_error"] == pytest.approx(alone["test_error"], rel=1e-9)


def test_a_group_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its runs say why, the exit code is 1, and the next start repairs it, beside runs that are done."""
    flags = f"{TINY} --physics-mode pinn --lbfgs-max-iter 4 --horizon-values 0.5 --seeds 0 --inv-b-values"
    assert train(f"{flags} 4", tmp_path) == 0

    def failing(group: training.Group, stage: Any) -> None:
        raise RuntimeError("out of memory")
    with monkeypatch.context() as patch:
        patch.setattr(training.Group, "step", failing)
        assert train(f"{flags} 4 6 8", tmp_path) == 1
    failed = [read_strict(p) for p in tmp_path.rglob("failed.json")]
    assert [f["error"] for f in failed] == ["RuntimeError: out of memory"] * 2 and len(results(tmp_path)) == 1
    assert "failed: PINODE/lbfgs: RuntimeError: out of memory" in capsys.readouterr().err
    summary = read_strict(tmp_path / "sweep_results.json")
    assert (summary["runs"], summary["inv_b_values"]) == (1, [4])
    assert train(f"{flags} 4 6 8", tmp_path) == 0
    assert len(results(tmp_path)) == 3 and not list(tmp_path.rglob("failed.json"))
    assert read_strict(tmp_path / "sweep_results.json")["runs"] == 3


def test_a_result_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other runs side by side are recorded; the next start only writes what is missing."""
    write, steps = training.Run.finish, []

    def full_disk(run: Any, **result: Any) -> None:
        if run.key.physical_value == 4:
            raise OSError(28, "No space left on device")
        write(run, **result)
    flags = f"{TINY} --physics-mode pinn --lbfgs-max-iter 4 --horizon-values 0.5 --seeds 0 --inv-b-values 4 8"
    with monkeypatch.context() as patch:
        patch.setattr(training.Run, "finish", full_disk)
        assert train(flags, tmp_path) == 1
    assert [r["physical"]["value"] for r in results(tmp_path)] == [8]
    assert "No space left" in next(tmp_path.rglob("failed.json")).read_text()
    step = training.Group.step
    monkeypatch.setattr(training.Group, "step", lambda *a: steps.append(1) or step(*a))
    assert train(flags, tmp_path) == 0 and not steps and len(results(tmp_path)) == 2


def test_missing_wandb_is_found_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not after the run folders are made."""
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(files.UsageError, match="--wandb offline needs wandb"):
        parse(["--wandb", "offline", "--out-dir", str(tmp_path / "x")])
    assert not (tmp_path / "x").exists() and session.Wandb().mode == "disabled"
