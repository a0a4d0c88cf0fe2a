"""Killed at any moment and started again, every strategy ends bit for bit as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

import forked  # noqa: E402
from forked import Warm, outcome  # noqa: E402

warm = pytest.fixture(scope="module")(forked.warm)

TINY = ("--budget smoke --hidden 6 --test-horizon 1 --seeds 0 --checkpoint-every 0 --log-every 5").split()
CELLS = "--inv-b-values 4 8 --horizon-values 0.5".split()
LENGTHS = "--inv-b-values 8 --horizon-values 0.5 2.5".split()
LBFGS = ["--lbfgs-max-iter", "5", "--loss-scale", "paper"]

#: Two runs side by side, a few steps in every stage; for `cl` two targets share a chain and one has its own.
CASES: dict[str, list[str]] = {
    "adam": ["--physics-mode", "pinn", "--optimizer", "Adam", "--epochs", "20", *LENGTHS],
    "sgd": ["--physics-mode", "none", "--optimizer", "SGD", "--learning-rate", "0.1", "--epochs", "20", *LENGTHS],
    "lbfgs unit": ["--physics-mode", "pinn", "--lbfgs-max-iter", "330", *LENGTHS],
    "lbfgs paper": ["--physics-mode", "pinn", "--epochs", "4", *LBFGS, *LENGTHS],
    "nncg": ["--physics-mode", "pinn", "--optimizer", "Adam_LBFGS_NNCG", "--epochs", "14", "--lbfgs-max-iter", "55",
             "--nncg-rank", "3", "--nncg-precond-update-freq", "2", *CELLS],
    "alm": ["--alm-outer-iters", "2", "--alm-inner-step", "2", "--alm-warmup-epochs", "1", *LBFGS, *CELLS],
    "alm data adam": ["--alm-target", "data", "--optimizer", "Adam", "--alm-outer-iters", "3", "--alm-inner-step", "7",
                      "--alm-bootstrap-lbfgs-max-iter", "5", *LENGTHS],
    "cl": ["--physics-mode", "pinn", "--cl-warmup", "--cl-inv-init", "2", "--cl-inv-delta", "2", "--lbfgs-max-iter",
           "10", "--inv-b-values", "4", "6", "5", "--horizon-values", "0.5"],
    "cl sgd": ["--physics-mode", "sphere", "--cl-warmup", "--cl-inv-init", "2", "--cl-inv-delta", "2", "--optimizer",
               "SGD", "--cl-inner-epochs", "9", "--inv-b-values", "4", "6", "5", "--horizon-values", "2.5"],
    "alm cl": ["--cl-warmup", "--cl-inv-init", "2", "--cl-inv-delta", "2", "--alm-outer-iters", "2", *LBFGS, *CELLS],
    "region adam": ["--physics-mode", "pinn_region", "--optimizer", "Adam", "--epochs", "20", *LENGTHS],
    "region lbfgs": ["--physics-mode", "pinn_region", "--lbfgs-max-iter", "65", "--region-history", "2",
                     "--rho", "0.01", *CELLS],
    "rollout": ["--physics-mode", "pinn", "--training", "rollout", "--optimizer", "Adam", "--epochs", "30", *CELLS],
}


class Whole:
    """What a case gives without interruption, and in how many file operations and seconds."""

    def __init__(self, warm: Warm, path: Path, case: str, *more: str) -> None:
        """Execute it."""
        self.arguments = [*TINY, *CASES[case], *more]
        start = time.monotonic()
        result = warm.run(*self.arguments, "--out-dir", path)
        assert result["rc"] == 0, result
        self.seconds, self.operations = time.monotonic() - start, result["operations"]
        self.outcome, self.summary = outcome(path), summary(path)
        assert len(self.outcome) == (3 if case.startswith("cl") else 2)
        for run in self.outcome.values():
            stages = [(row["stage"], row["iteration"]) for row in run["history"]]
            assert len(set(stages)) == len(stages) > 2, "no row of the history stands there twice"


@pytest.fixture(scope="module", params=CASES)
def whole(request: pytest.FixtureRequest, warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """Each strategy in turn."""
    return Whole(warm, tmp_path_factory.mktemp("whole"), request.param)


def summary(path: Path) -> dict[str, list[float]]:
    """The matrices, flat."""
    found = json.loads((path / "sweep_results.json").read_text())
    return {name: sum(rows, []) for name, rows in found.items() if name.endswith("_matrix")}


def equal(path: Path, whole: Whole) -> None:
    """Compare by parts: a plain comparison of everything fails too wordily."""
    found = outcome(path)
    assert found.keys() == whole.outcome.keys()
    for name, run in whole.outcome.items():
        assert found[name]["history"] == run["history"], name
        assert found[name].keys() == run.keys()
        for key in run:  # a result that is recorded alone, not in company, may be rounded differently
            rounded = key in ("train_loss", "test_error", "metrics")
            assert found[name][key] == (pytest.approx(run[key], rel=1e-4) if rounded else run[key]), (name, key)
    for name, values in summary(path).items():
        assert values == pytest.approx(whole.summary[name], rel=1e-4), name


def test_killed(whole: Whole, warm: Warm, tmp_path: Path) -> None:
    """By the clock, and between the parts of a write: before a sync, between the two moves of a checkpoint."""
    chance, arguments = random.Random(1), [*whole.arguments, "--out-dir", tmp_path]
    result = warm.run(*arguments, alarm=chance.uniform(0.3, 0.9) * whole.seconds)
    assert result["rc"] in (-signal.SIGALRM, 0), result
    result = warm.run(*arguments, at=chance.randint(5, max(whole.operations // 2, 20)))
    assert result["rc"] in (-signal.SIGKILL, 0), result
    result = warm.run(*arguments)
    assert result["rc"] == 0 and "cannot be read" not in result["err"], result
    equal(tmp_path, whole)


def test_asked_to_stop(whole: Whole, warm: Warm, tmp_path: Path) -> None:
    """Each time the step is finished and saved, and the exit code asks for a restart."""
    arguments = [*whole.arguments, "--out-dir", tmp_path]
    names = random.Random(len(str(whole.outcome))).sample(["SIGUSR1", "SIGTERM", "SIGINT"], 2)
    for name, at in zip(names, (whole.operations // 5, 10), strict=True):
        result = warm.run(*arguments, at=at, send=name)
        assert result["rc"] == 75 and f"stopped by {name} and saved" in result["err"], result
        assert list(tmp_path.rglob("checkpoint.pt")) and not list(tmp_path.rglob("claim"))
        assert not list(tmp_path.glob("*_matrix.npy"))
    assert warm.run(*arguments)["rc"] == 0
    equal(tmp_path, whole)


@pytest.mark.parametrize("seconds", ["0", "1000"])
def test_killed_at_the_end(warm: Warm, tmp_path: Path, seconds: str) -> None:
    """While results and matrices are written; the later runs go on in the same company."""
    whole = Whole(warm, tmp_path / "whole", "lbfgs paper", "--checkpoint-every", seconds)
    for k, back in enumerate((2, 11, 33, 44)):
        path = tmp_path / str(k)
        arguments = [*whole.arguments, "--out-dir", path]
        assert warm.run(*arguments, at=whole.operations - back)["rc"] == -signal.SIGKILL
        assert warm.run(*arguments)["rc"] == 0
        equal(path, whole)


def test_chain_goes_on_without_its_owner(warm: Warm, tmp_path: Path) -> None:
    """A curriculum run that shared the chain of a harder one can be started without that one, and the reverse."""
    flags = [*TINY, "--physics-mode", "pinn", "--cl-warmup", "--cl-inv-init", "2", "--cl-inv-delta", "1",
             "--lbfgs-max-iter", "6", "--horizon-values", "0.5", "--out-dir"]
    both = ["--inv-b-values", "4", "5"]
    assert warm.run(*flags, tmp_path / "whole", *both)["rc"] == 0
    whole = outcome(tmp_path / "whole")
    for k, second in enumerate([["4"], ["5"], ["3", "4", "5"]]):
        path = tmp_path / str(k)
        assert warm.run(*flags, path, *both, at=25, send="SIGUSR1")["rc"] == 75
        result = warm.run(*flags, path, "--inv-b-values", *second)
        assert result["rc"] == 0, result
        assert warm.run(*flags, path, *both)["rc"] == 0
        found = outcome(path)
        assert {name: found[name]["weights"] for name in whole} == {name: run["weights"] for name, run in whole.items()}
        for name in whole:
            iterations = [int(row["iteration"]) for row in found[name]["history"]]
            assert iterations == sorted(set(iterations)), "the history begins anew with the run"


def test_real_process(warm: Warm, tmp_path: Path) -> None:
    """From another working directory: SIGKILL while it trains, SIGUSR1 while python starts, and to the end."""
    flags = [*TINY, "--physics-mode", "pinn", "--optimizer", "Adam", "--epochs", "400", "--log-every", "150", *CELLS]
    assert warm.run(*flags, "--out-dir", tmp_path / "whole")["rc"] == 0
    path = tmp_path / "killed"

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, str(forked.ENTRY), *flags, "--out-dir", str(path)], cwd=tmp_path,
                                env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True)
    process, end = start(), time.monotonic() + 120
    while not list(path.rglob("checkpoint.prev.pt")):
        assert time.monotonic() < end
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL and list(path.rglob("claim"))
    process = start()
    time.sleep(0.5)
    process.send_signal(signal.SIGUSR1)
    assert process.wait() == 75
    result = warm.run(*flags, "--out-dir", path)
    assert result["rc"] == 0, result
    assert outcome(path) == outcome(tmp_path / "whole") and summary(path) == summary(tmp_path / "whole")
