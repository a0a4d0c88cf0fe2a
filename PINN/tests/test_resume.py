"""Killed at any moment and started again, every strategy ends bit for bit as if nothing had happened."""

from __future__ import annotations

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

TINY = ("--budget smoke --num_res 40 --num_x 33 --num_t 11 --num_neurons 10 --num_layers 3 --checkpoint_every 0 "
        "--log_every 5").split()
BETAS = ["--pde_params", '{"beta": [2, 40]}']

#: Two runs side by side, a few steps in every stage; for `cl` two targets share a chain and one has its own.
CASES: dict[str, list[str]] = {
    "adam": ["--opt", "adam", "--iterations", "12", *BETAS],
    "lbfgs": ["--opt", "lbfgs", "--iterations", "40", "--opt_params", '{"max_iter": 5}', *BETAS],
    "adam_lbfgs": ["--opt", "adam_lbfgs", "--iterations", "25", *BETAS, "--hessian_every", "4",
                   "--opt_params", '{"adam_iterations": 5, "lbfgs_max_iter": 5}'],
    "nncg": ["--opt", "nncg", "--iterations", "7", *BETAS, "--opt_params",
             '{"adam_iterations": 4, "lbfgs_iterations": 8, "lbfgs_max_iter": 4, "rank": 5, "update_freq": 3}'],
    "alm": ["--opt", "alm", "--iterations", "10", "--alm_iter", "3", "--epochs", "1", "--alm_hc", "0b11111", *BETAS,
            "--opt_params", '{"max_iter": 5}'],
    "cl": ["--opt", "cl", "--iterations", "8", "--cl_increment", "1", "--opt_params", '{"max_iter": 4}',
           "--pde_params", '{"beta": [2, 4, 2.5]}'],
    "cl redraw": ["--opt", "cl", "--iterations", "6", "--cl_increment", "1", "--initial_seed", "3", "4",
                  "--opt_params", '{"max_iter": 3, "redraw": true, "inner": "adam"}', "--pde_params", '{"beta": 3}'],
    "ropinn": ["--opt", "ropinn", "--epochs", "9", "--opt_params", '{"max_iter": 4, "window": 3, "region": 0.01}',
               *BETAS],
    "ropinn alone": ["--opt", "ropinn", "--epochs", "6", "--opt_params", '{"max_iter": 4, "region": 0.01}',
                     "--pde", "wave", "--pde_params", '{"c": 2}'],
    "ropinn redraw": ["--opt", "ropinn", "--epochs", "5", "--set_idx", "seed", "--initial_seed", "3", "4",
                      "--opt_params", '{"redraw": "evaluation", "samples": 2, "max_iter": 4}'],
}


class Whole:
    """What a case gives without interruption, and in how many file operations and seconds."""

    def __init__(self, warm: Warm, path: Path, case: str, *more: str) -> None:
        """Execute it."""
        self.arguments = [*TINY, *CASES[case], *more]
        start = time.monotonic()
        result = warm.run(*self.arguments, "--save_path", path)
        assert result["rc"] == 0, result
        self.seconds, self.operations = time.monotonic() - start, result["operations"]
        self.outcome = outcome(path)
        assert len(self.outcome) == {"cl": 3, "ropinn alone": 1}.get(case, 2)
        for run in self.outcome.values():
            stages = [(row["stage"], row["iteration"]) for row in run["history"]]
            assert len(set(stages)) == len(stages) > 2, "no row of the history stands there twice"


@pytest.fixture(scope="module", params=CASES)
def whole(request: pytest.FixtureRequest, warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """Each strategy in turn."""
    return Whole(warm, tmp_path_factory.mktemp("whole"), request.param)


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


def test_killed_at_random_moments(whole: Whole, warm: Warm, tmp_path: Path) -> None:
    """By the clock, wherever that hits."""
    chance, arguments = random.Random(1), [*whole.arguments, "--save_path", tmp_path]
    for _ in range(2):
        result = warm.run(*arguments, alarm=chance.uniform(0.2, 1) * whole.seconds)
        assert result["rc"] in (-signal.SIGALRM, 0), result
    assert warm.run(*arguments)["rc"] == 0
    equal(tmp_path, whole)


def test_killed_while_writing(whole: Whole, warm: Warm, tmp_path: Path) -> None:
    """Between the parts of a write: before a sync, between the two moves of a checkpoint, while results are written."""
    chance, arguments = random.Random(2), [*whole.arguments, "--save_path", tmp_path]
    left = whole.operations
    for _ in range(3):
        at = chance.randint(5, max(left // 2, 20))
        result = warm.run(*arguments, at=at)
        assert result["rc"] in (-signal.SIGKILL, 0), result
        left -= at
    for at in (14, 17):  # these mostly hit the end, where results are written
        warm.run(*arguments, at=at)
    result = warm.run(*arguments)
    assert result["rc"] == 0 and "cannot be read" not in result["err"], result
    equal(tmp_path, whole)


@pytest.mark.parametrize("seconds", ["0", "1000"])
def test_killed_at_the_end(warm: Warm, tmp_path: Path, seconds: str) -> None:
    """While the results are written; without a checkpoint just before, the later runs would go on in other company."""
    whole = Whole(warm, tmp_path / "whole", "lbfgs", "--checkpoint_every", seconds)
    for k, back in enumerate(range(1, 25, 5)):
        path = tmp_path / str(k)
        arguments = [*whole.arguments, "--save_path", path]
        assert warm.run(*arguments, at=whole.operations - back)["rc"] == -signal.SIGKILL
        assert warm.run(*arguments)["rc"] == 0
        equal(path, whole)


def test_asked_to_stop(whole: Whole, warm: Warm, tmp_path: Path) -> None:
    """Each time the step is finished and saved, and the exit code asks for a restart."""
    arguments = [*whole.arguments, "--save_path", tmp_path]
    for name in random.Random(len(str(whole.outcome))).sample(["SIGUSR1", "SIGTERM", "SIGINT"], 2):
        result = warm.run(*arguments, at=whole.operations // 4, send=name)
        assert result["rc"] == 75 and f"stopped by {name} and saved" in result["err"], result
        assert list(tmp_path.rglob("checkpoint.pt")) and not list(tmp_path.rglob("claim"))
    assert warm.run(*arguments)["rc"] == 0
    equal(tmp_path, whole)


def test_asked_to_stop_at_the_very_end(warm: Warm, tmp_path: Path) -> None:
    """A signal that comes while the first row of the map is recorded keeps the second from being started."""
    arguments = [*TINY, "--opt", "lbfgs", "--iterations", "10", "--num_res", "40", "41", "--save_path", tmp_path]
    one = warm.run(*[*TINY, "--opt", "lbfgs", "--iterations", "10", "--save_path", tmp_path / "one"])
    result = warm.run(*arguments, at=one["operations"] - 2, send="SIGUSR1")
    assert result["rc"] == 75, result
    assert [p.parent.parent.name for p in tmp_path.glob("convection/*/*/*/*/metrics.json")] == ["n_40"]
    assert warm.run(*arguments)["rc"] == 0
    assert len(list(tmp_path.glob("convection/*/*/*/*/metrics.json"))) == 2


def test_chain_goes_on_without_its_owner(warm: Warm, tmp_path: Path) -> None:
    """A curriculum run that shared the chain of a harder one can be started without that one, and the reverse."""
    flags = [*TINY, "--opt", "cl", "--iterations", "4", "--cl_increment", "1", "--save_path"]
    both = ["--pde_params", '{"beta": [3, 5]}']
    for k, (first, second) in enumerate([(both, '{"beta": 3}'), (both, '{"beta": 5}'), (both, '{"beta": [3, 4, 5]}')]):
        path = tmp_path / str(k)
        assert warm.run(*flags, path, *first, at=25, send="SIGUSR1")["rc"] == 75
        result = warm.run(*flags, path, "--pde_params", second)
        assert result["rc"] == 0, result
        assert warm.run(*flags, path, *both)["rc"] == 0
        assert warm.run(*flags, tmp_path / f"whole{k}", *both)["rc"] == 0
        whole, found = outcome(tmp_path / f"whole{k}"), outcome(path)
        assert {name: found[name]["weights"] for name in whole} == {name: run["weights"] for name, run in whole.items()}
        for name in whole:
            iterations = [int(row["iteration"]) for row in found[name]["history"]]
            assert iterations == sorted(set(iterations)), "the history begins anew with the run"


def start(*arguments: object, cwd: Path) -> subprocess.Popen[str]:
    """A real process, from another working directory."""
    return subprocess.Popen([sys.executable, str(forked.ENTRY), *map(str, arguments)], cwd=cwd,
                            env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True)


def test_real_process(warm: Warm, tmp_path: Path) -> None:
    """SIGKILL, SIGUSR1 while python starts, SIGUSR1 while it trains, and to the end."""
    flags = [*TINY, "--opt", "adam", "--iterations", "120", "--log_every", "50", *BETAS, "--save_path"]
    path = tmp_path / "killed"
    assert warm.run(*flags, tmp_path / "whole")["rc"] == 0

    def wait_for_a_save() -> None:
        def saves() -> list[int]:
            return [p.stat().st_ino for p in path.rglob("checkpoint.pt")]
        before, end = saves(), time.monotonic() + 120
        while len(saves()) < 2 or set(saves()) & set(before):
            assert time.monotonic() < end
            time.sleep(0.005)
    process = start(*flags, path, cwd=tmp_path)
    wait_for_a_save()
    process.kill()
    assert process.wait() == -signal.SIGKILL and list(path.rglob("claim"))
    process = start(*flags, path, cwd=tmp_path)
    time.sleep(0.5)
    process.send_signal(signal.SIGUSR1)
    assert process.wait() == 75
    process = start(*flags, path, cwd=tmp_path)
    wait_for_a_save()
    process.send_signal(signal.SIGUSR1)
    _, err = process.communicate()
    assert process.returncode == 75 and err.splitlines()[-1].startswith("stopped by SIGUSR1 and saved"), err
    assert start(*flags, path, cwd=tmp_path).wait() == 0
    assert outcome(path) == outcome(tmp_path / "whole")
