"""The command line: published commands, what each flag changes, run folders, and things that go wrong."""

from __future__ import annotations

import csv
import itertools
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

import forked  # noqa: E402
from forked import Warm  # noqa: E402
from pinn import files, session  # noqa: E402
from pinn import train as training  # noqa: E402
from pinn.arguments import parse  # noqa: E402
from pinn.data import Grid  # noqa: E402
from pinn.objective import Objective  # noqa: E402
from pinn.pdes import SYSTEMS  # noqa: E402
from pinn.strategies import STRATEGIES  # noqa: E402
from run_folders import read_strict  # noqa: E402
from test_bad_input import BAD  # noqa: E402

warm = pytest.fixture(scope="module")(forked.warm)

TINY = "--budget smoke --num_res 30 --num_x 33 --num_t 11 --num_neurons 6 --num_layers 3"
PARAMETERS = {"convection": '{"beta": 5}', "reaction": '{"rho": 2}', "wave": '{"c": 2, "beta": 5}',
              "reaction_diffusion": '{"rho": 5, "nu": 1, "sigma": 0.5}'}
COLUMNS = ["iteration", "stage", "train_loss", "loss_pde", "loss_bc", "loss_ic", "test_error", "grad_norm",
           "evaluations", "seconds"]
KEYS = ("schema module model system strategy physical data seed train_loss test_error metrics "
        "status stop_reason iterations evaluations seconds config environment")


def train(arguments: str, path: Path) -> list[int]:
    """Run in this process; exit codes by row of the map."""
    settings, physical, seeds = parse([*shlex.split(arguments), "--save_path", str(path)])
    return [training.train(s, s.runs(physical, seeds)) for s in settings]


def results(path: Path) -> list[dict[str, Any]]:
    """All results below a folder, in the order of their paths."""
    return [read_strict(p) for p in sorted(path.rglob("metrics.json"))]


def result(arguments: str, path: Path) -> dict[str, Any]:
    """The result of a single tiny run."""
    assert train(f"{TINY} {arguments}", path) == [0]
    return results(path)[0]


# ---- what a run leaves -------------------------------------------------------------------------


@pytest.mark.parametrize(("opt", "pde"), list(itertools.product(STRATEGIES, SYSTEMS)))
def test_every_strategy_on_every_system(tmp_path: Path, opt: str, pde: str) -> None:
    """The result is complete and strict, and is what the saved weights give."""
    shorter = "--iterations 40" if opt == "adam" else ""
    found = result(f"--pde {pde} --pde_params '{PARAMETERS[pde]}' --opt {opt} {shorter}", tmp_path)
    folder = next(tmp_path.rglob("metrics.json")).parent
    value = json.loads(PARAMETERS[pde])[SYSTEMS[pde].physical]
    physical = f"{SYSTEMS[pde].physical}_{value}"
    assert folder.relative_to(tmp_path) == Path(pde, opt, physical, "n_30", "seed_1234")
    assert " ".join(found) == KEYS and found["status"] == "finished" and found["stop_reason"]
    assert (found["module"], found["system"], found["strategy"], found["seed"]) == ("PINN", pde, opt, 1234)
    assert found["physical"] == {"name": SYSTEMS[pde].physical, "value": value}
    assert found["data"] == {"name": "n", "value": 30}
    assert found["config"] == read_strict(folder / "config.json")
    assert json.loads(PARAMETERS[pde]).items() <= found["config"]["pde_params"].items()
    assert {"python", "torch", "device", "git_commit"} <= set(found["environment"])
    assert {p.name for p in folder.iterdir()} == {"config.json", "history.csv", "metrics.json", "model.pt"}
    with open(folder / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:len(COLUMNS)] == COLUMNS and rows[0]["iteration"] == "0"
    assert int(rows[-1]["iteration"]) == found["iterations"] > 0 and found["evaluations"] >= found["iterations"]
    assert float(rows[-1]["train_loss"]) == found["train_loss"] < float(rows[0]["train_loss"])
    assert all(float(row["grad_norm"]) > 0 for row in rows)
    config, system = found["config"], SYSTEMS[pde]
    others = {k: v for k, v in config["pde_params"].items() if k != system.physical}
    objective = Objective(system, [value], others, 30, [0], Grid(system.x_range, 33, 11))
    params = [p[None] for p in torch.load(folder / "model.pt", weights_only=True)["params"]]
    assert objective.terms(params)["loss"].item() == pytest.approx(found["train_loss"], rel=1e-5)
    assert objective.errors(params)[1][0] == pytest.approx(found["test_error"], rel=1e-5)
    objective.backward(params, torch.arange(1))
    if opt != "alm":
        norm = torch.cat([p.grad.flatten() for p in params]).norm().item()
        assert norm == pytest.approx(found["metrics"]["grad_norm"], rel=1e-3)
    if opt in ("nncg", "adam_lbfgs"):
        assert found["metrics"]["adam_train_loss"] > found["train_loss"]


def test_lists_are_the_product_and_company_changes_nothing(tmp_path: Path) -> None:
    """In float64 a run gives the same alone, among others and in another order."""
    flags = f"{TINY} --precision float64 --iterations 8"
    for name, betas, rest in [("a", "[3, 20]", "1 0 --num_res 20 30"), ("b", "[20, 7, 3]", "0"), ("c", "20", "0")]:
        codes = train(f"{flags} --pde_params '{{\"beta\": {betas}}}' --initial_seed {rest}", tmp_path / name)
        assert codes == [0] * (2 if name == "a" else 1)
    cells = {(r["physical"]["value"], r["data"]["value"], r["seed"]): r for r in results(tmp_path / "a")}
    assert set(cells) == set(itertools.product([3, 20], [20, 30], [0, 1]))
    assert len({r["train_loss"] for r in cells.values()}) == 8
    for other in [*results(tmp_path / "b"), *results(tmp_path / "c")]:
        if other["physical"]["value"] != 7:
            same = cells[other["physical"]["value"], 30, 0]
            assert other["train_loss"] == pytest.approx(same["train_loss"], rel=1e-9)
            assert other["test_error"] == pytest.approx(same["test_error"], rel=1e-9)


# ---- flags -------------------------------------------------------------------------------------

PUBLISHED = [
    "--pde convection --pde_params '{\"beta\":10}' --opt lbfgs --num_res 5000 --initial_seed 0 --new_data "
    "--iterations 2",
    *(f"--pde convection --pde_params '{{\"beta\":10}}' --opt {opt} --num_res 50 --device 0"
      for opt in ("adam", "alm", "nncg", "cl", "adam_lbfgs")),
    "--opt adam_lbfgs_nncg --opt_params '{\"switch_epoch_lbfgs\": 4, \"switch_epoch_nncg\": 6, "
    "\"precond_update_freq\": 20}' --epochs 8 --num_res 50",
    "--opt adam_lbfgs --opt_params '{\"switch_epochs\": [5, 6]}' --epochs 7 --num_res 50",
    "--opt lbfgs --opt_params '{\"lr\": 0.5,' '\"history_size\": 10}' --epochs 2 --num_res 50",
    "--opt lbfgs --hc alm --alm_iter 2 --alm_hc 30 --epochs 1 --num_res 50",
    "--opt lbfgs --hc alm --alm_iter 2 --alm_hc 0b11111 --epochs 0 --num_res 50",
    "--pde reaction --pde_params '{\"rho\": 0.2}' --cl --cl_increment 0.1 --epochs 1 --num_res 50",
    "--pde reaction_diffusion --pde_params '{\"nu\": 2, \"rho\": 0.5}' --cl --epochs 1 --num_res 50",
    "--pde wave --pde_params '{\"beta\": 5, \"c\": 2}' --opt lbfgs --epochs 1 --num_res 50 --set_idx 3",
    "--opt lbfgs --epochs 0 --num_res 50",
]


@pytest.mark.parametrize("command", PUBLISHED)
def test_published_command(warm: Warm, tmp_path: Path, command: str) -> None:
    """They run, from another working directory, and write what they say."""
    done = warm.run(*shlex.split(command), "--budget", "smoke", "--save_path", tmp_path)
    assert done["rc"] == 0, done
    assert ("the CPU is used" in done["err"]) == ("--device 0" in command and not torch.cuda.device_count())
    assert len(results(tmp_path)) == 1
    assert len(list(tmp_path.rglob("points.npz"))) == command.count("--new_data")


#: Flags (beside `--opt lbfgs`) that must change the result, and those that act elsewhere.
CHANGES = ["--num_res 31", "--num_x 17", "--num_t 6", "--set_idx 1", "--set_idx seed", "--initial_seed 1",
           "--num_layers 4", "--num_neurons 7", "--precision float64", "--opt adam",
           "--opt_params '{\"history_size\": 2}'",
           "--iterations 10", "--epochs 1", "--loss l1", "--loss huber", "--loss hybrid", "--L 2", "--hc alm", "--cl"]
ALM = ["--alm_mu 3", "--alm_beta 2", "--alm_iter 2", "--alm_hc 31", "--alm_L 2", "--alm_weight_decay 0.1"]


def test_every_flag_acts(tmp_path: Path) -> None:
    """Other settings give other results; the help names no flag that this file does not try."""
    base = {opt: result(f"--opt {opt} --iterations 6", tmp_path / opt) for opt in ("lbfgs", "alm")}
    for k, flags in enumerate([*CHANGES, *ALM]):
        opt = "alm" if flags in ALM else "lbfgs"
        found = result(f"--opt {opt} {flags} {'' if 'epochs' in flags else '--iterations 6'}".replace(
            "--iterations 10 --iterations 6", "--iterations 10"), tmp_path / str(k))
        assert found["train_loss"] != base[opt]["train_loss"], flags
        assert found["config"] != base[opt]["config"], flags
    pde = "--pde reaction_diffusion --pde_params '{\"rho\": 2}' --iterations 6"
    slopes = [result(f"{pde} {flag}", tmp_path / f"slope{flag}") for flag in ("", "--no_periodic_slope")]
    assert slopes[0]["train_loss"] != slopes[1]["train_loss"]
    lengths = [result(f"--opt cl --cl_increment {step}", tmp_path / f"cl{step}")["iterations"] for step in (15, 30)]
    assert lengths[0] > lengths[1]
    quiet = result("--iterations 60 --log_every 50 --no-save_model --checkpoint_every 0", tmp_path / "quiet")
    assert quiet["train_loss"] == result("--iterations 60", tmp_path / "60")["train_loss"]
    assert not list(tmp_path.glob("quiet/**/model.pt"))
    lines = [len(next(tmp_path.glob(f"{f}/**/history.csv")).read_text().splitlines()) for f in ("quiet", "60")]
    assert lines[0] < lines[1]
    tried = " ".join([*CHANGES, *ALM, *PUBLISHED, *BAD, TINY, "--no_periodic_slope --log_every --save_model",
                      "--checkpoint_every --save_path --force --help"])
    flags = subprocess.run([sys.executable, str(forked.ENTRY), "--help"], capture_output=True,
                           text=True, check=True, cwd=tmp_path).stdout.split()
    assert [f for f in {f.strip("[],") for f in flags} if f.startswith("--") and f not in tried.split()
            and f not in ("--no-save_model", "--wandb_project")] == []


def test_budget_is_not_an_argument_of_its_own(tmp_path: Path) -> None:
    """What it sets is; and single options override it."""
    assert result("--iterations 12", tmp_path)["iterations"] <= 12
    assert train(f"{TINY.replace('smoke', 'laptop')} --iterations 12", tmp_path) == [0]


def test_values_that_are_good(tmp_path: Path) -> None:
    """Each spelling of the hard components, and the published K."""
    for text, hard in {"0b11110": "bc+ic", "30": "bc+ic", "31": "pde+bc+ic", "pde": "pde", "ic, bc": "bc+ic"}.items():
        (settings,), _, _ = parse(["--opt", "alm", "--alm_hc", text, "--alm_iter", "50"])
        assert (settings.options.hard, settings.options.outer) == (hard, 50)
    (settings,), _, _ = parse(["--pde", "wave", "--pde_params", '{"c": 2}', "--opt", "alm", "--alm_hc", "0b11110"])
    assert settings.options.hard == "bc_upper+bc_lower+ic+ic_t" and settings.others == {"beta": 3}


# ---- a run that is there -----------------------------------------------------------------------


def test_finished_run(warm: Warm, tmp_path: Path) -> None:
    """Again it is a no-op; with other arguments it is refused before anything is done; --force redoes."""
    flags = [*shlex.split(TINY), "--iterations", "4", "--save_path", tmp_path]
    assert warm.run(*flags)["rc"] == 0
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    start = time.monotonic()
    done = warm.run(*flags, "--log_every", "7", "--budget", "laptop")
    assert done["rc"] == 0 and "already done, nothing to do" in done["err"] and time.monotonic() - start < 3
    done = warm.run(*flags, "--num_res", "20", "30", "--loss", "l1", "--opt_params", '{"lr": 0.5}')
    assert done["rc"] == 2 and done["err"].count("\n") == 1
    assert "loss mse -> l1" in done["err"] and "opt_params.lbfgs_lr 1.0 -> 0.5" in done["err"]
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before
    assert warm.run(*flags, "--loss", "l1", "--force")["rc"] == 0
    assert results(tmp_path)[0]["config"]["loss"] == "l1"
    # Stopped in the first row, a second execution leaves no result of the first in the other row.
    flags += ["--loss", "l1", "--num_res", "20", "30", "--checkpoint_every", "0"]
    whole = warm.run(*flags, "--force")
    assert whole["rc"] == 0 and len(results(tmp_path)) == 2
    assert warm.run(*flags, "--force", at=whole["operations"] // 3, send="SIGTERM")["rc"] == 75
    assert not any("n_30" in str(path) for path in tmp_path.rglob("metrics.json"))


def test_leftovers_of_a_kill_after_the_end_are_removed(warm: Warm, tmp_path: Path) -> None:
    """A checkpoint and a claim beside a result are of no use."""
    flags = [*shlex.split(TINY), "--iterations", "4", "--save_path", tmp_path]
    whole = warm.run(*flags)
    assert warm.run(*flags, "--force", at=whole["operations"] + 6)["rc"] in (0, -9)
    folder = next(tmp_path.rglob("metrics.json")).parent
    (folder / "checkpoint.pt").write_bytes(b"")
    assert "already done" in warm.run(*flags)["err"]
    assert {p.name for p in folder.iterdir()} == {"config.json", "history.csv", "metrics.json", "model.pt"}


def test_two_processes(warm: Warm, tmp_path: Path) -> None:
    """The second says so and leaves the run, trains what is free, and exits with 3."""
    (settings,), _, _ = parse([*shlex.split(TINY), "--iterations", "4", "--save_path", str(tmp_path)])
    run = settings.run(5.0, 0)
    run.prepare()
    flags = [*shlex.split(TINY), "--iterations", "4", "--save_path", tmp_path, "--pde_params", '{"beta": [5, 6]}']
    for force in ([], ["--force"]):
        before = {p: p.read_text() for p in run.path.iterdir()}
        done = warm.run(*flags, "--initial_seed", "0", *force)
        assert done["rc"] == 3 and "another process is training it" in done["err"] and str(run.path) in done["err"]
        assert {p: p.read_text() for p in run.path.iterdir()} == before and len(results(tmp_path)) == 1
    run.release()
    assert warm.run(*flags, "--initial_seed", "0")["rc"] == 0 and len(results(tmp_path)) == 2


# ---- things that go wrong ----------------------------------------------------------------------


def test_divergence_is_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Null in strict JSON, exit code 0, and the runs beside it are not touched."""
    diverged = result("--opt adam --opt_params '{\"lr\": 1e30}'", tmp_path / "a")
    assert (diverged["status"], diverged["train_loss"], diverged["stop_reason"]) == ("diverged", None, "non_finite")
    assert diverged["iterations"] < 10
    both = "--precision float32 --pde_params '{\"beta\": [1e30, 5]}' --opt adam --iterations 20"
    assert train(f"{TINY} {both}", tmp_path / "b") == [0]
    alone = result("--opt adam --iterations 20 --pde_params '{\"beta\": 5}'", tmp_path / "c")
    found = {r["physical"]["value"]: r for r in results(tmp_path / "b")}
    assert found[1e30]["status"] == "diverged"
    assert found[5]["train_loss"] == pytest.approx(alone["train_loss"], rel=1e-4)
    assert "Traceback" not in capsys.readouterr().err


def test_a_group_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its runs say why, the others finish, the exit code is 1, and the next start repairs it."""
    step = training.Group.step

    def failing(group: training.Group, stage: Any) -> None:
        if group.settings.n == 20:
            raise RuntimeError("out of memory")
        step(group, stage)
    flags = f"{TINY} --iterations 4 --pde_params '{{\"beta\": [5, 6]}}' --num_res 20 30"
    with monkeypatch.context() as patch:
        patch.setattr(training.Group, "step", failing)
        assert train(flags, tmp_path) == [1, 0]
    failed = [read_strict(p) for p in tmp_path.rglob("failed.json")]
    assert [f["error"] for f in failed] == ["RuntimeError: out of memory"] * 2 and len(results(tmp_path)) == 2
    assert "failed: convection/lbfgs n_20: RuntimeError: out of memory" in capsys.readouterr().err
    assert train(flags, tmp_path) == [0, 0]
    assert len(results(tmp_path)) == 4 and not list(tmp_path.rglob("failed.json"))


def test_a_result_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other runs side by side are recorded; the next start only writes what is missing."""
    write, steps = training.Run.finish, []

    def full_disk(run: Any, **result: Any) -> None:
        if run.key.physical_value == 5:
            raise OSError(28, "No space left on device")
        write(run, **result)
    flags = f"{TINY} --iterations 4 --pde_params '{{\"beta\": [5, 6]}}'"
    with monkeypatch.context() as patch:
        patch.setattr(training.Run, "finish", full_disk)
        assert train(flags, tmp_path) == [1]
    assert [r["physical"]["value"] for r in results(tmp_path)] == [6]
    assert "No space left" in next(tmp_path.rglob("failed.json")).read_text()
    step = training.Group.step
    monkeypatch.setattr(training.Group, "step", lambda *a: steps.append(1) or step(*a))
    assert train(flags, tmp_path) == [0] and not steps and len(results(tmp_path)) == 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 200 KiB, where one may be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no tmpfs can be mounted here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_full_disk(warm: Warm, small_disk: Path) -> None:
    """It trains on with a warning, fails at the end; with room it goes on; with none at the start it is bad input."""
    flags = [*shlex.split(TINY), "--checkpoint_every", "0", "--num_neurons", "30", "--save_path", small_disk]
    done = warm.run(*flags)
    assert done["rc"] == 1 or results(small_disk), done
    assert "Traceback" not in done["err"] and ("not saved, training goes on" in done["err"]), done
    (small_disk / "filler").write_bytes(b"")
    with open(small_disk / "filler", "wb", buffering=0) as filler, pytest.raises(OSError):
        while filler.write(bytes(512)):
            pass
    done = warm.run(*flags, "--initial_seed", "5")
    assert done["rc"] == 2 and done["err"].startswith("error: --save_path") and done["err"].count("\n") == 1, done


def test_missing_wandb_is_found_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not after the run folders are made."""
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(files.UsageError, match="--wandb offline needs wandb"):
        parse(["--wandb", "offline", "--save_path", str(tmp_path / "x")])
    assert not (tmp_path / "x").exists() and session.Wandb().mode == "disabled"
