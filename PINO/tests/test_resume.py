"""Killed at any moment and started again, every strategy ends bit for bit as if nothing had happened."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import forked
import pytest
import small
from forked import Warm, outcome

warm = pytest.fixture(scope="module")(forked.warm)

TINY = [*small.TINY, "--checkpoint_every", "0", "--log_every", "4", "--n_samples", "5"]
BATCH = ["--batch_size", "2"]

#: A few steps in every stage; for `cl` two targets share a chain and one has its own.
CASES: dict[str, list[str]] = {
    "adam": [*BATCH, "--steps", "12"],
    "lbfgs": ["--optimizer", "lbfgs", "--lbfgs_max_iter", "45", "--lbfgs_history", "5"],
    "adam_lbfgs": [*BATCH, "--optimizer", "lbfgs", "--warm_start", "--steps", "5", "--lbfgs_max_iter", "25"],
    "nncg": [*BATCH, "--optimizer", "nncg", "--steps", "4", "--nncg_lbfgs_steps", "25", "--nncg_steps", "3",
             "--nncg_rank", "2", "--nncg_chunk_size", "2", "--full_block", "2", "--nncg_cg_max_iters", "4"],
    "alm": [*BATCH, "--optimizer", "alm", "--steps", "4", "--alm_outer_iters", "3", "--alm_inner_step", "4"],
    "alm data lbfgs best": ["--optimizer", "alm", "--alm_cons_item", "data", "--alm_inner", "lbfgs", "--steps", "0",
                            "--alm_outer_iters", "2", "--alm_lbfgs_max_iter", "22", "--alm_save_best"],
    "cl": [*BATCH, "--optimizer", "cl", "--r", "4", "3", "2", "--cl_delta_r", "1.5", "--cl_inner_step", "4"],
    "cl f": [*BATCH, "--optimizer", "cl", "--cl_ramp", "f", "--cl_init_f", "0.5", "--cl_delta_f", "0.25",
             "--cl_inner_step", "3", "--steps", "2"],
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, warm: Warm) -> Path:
    """A folder with the data of all cases."""
    path = tmp_path_factory.mktemp("data")
    done = warm.run(*TINY, "--r", "2", "3", "4", "6", "--steps", "1", "--data_dir", path, "--outdir", path / "out")
    assert done["rc"] == 0, done
    return path


@pytest.mark.parametrize("case", CASES)
def test_killed_and_stopped(warm: Warm, data: Path, tmp_path: Path, case: str) -> None:
    """SIGKILL before file operations spread over the run, SIGUSR1 in between, until it is done."""
    flags = [*TINY, *CASES[case], "--data_dir", data, "--outdir"]
    done = warm.run(*flags, tmp_path / "whole")
    assert done["rc"] == 0, done
    whole, operations = outcome(tmp_path / "whole"), done["operations"]
    assert whole and all(run["status"] == "finished" for run in whole.values())
    random.seed(case)
    for attempt, fractions in enumerate([(0.15, 0.5, 0.8), (0.35, 0.95)]):
        path = tmp_path / str(attempt)
        for k, fraction in enumerate(fractions):
            at = max(1, int(fraction * operations) + random.randint(-3, 3)) if k == 0 else random.randint(2, operations)
            name = "SIGKILL" if (k + attempt) % 2 == 0 else "SIGUSR1"
            code = warm.run(*flags, path, at=at, send=name)["rc"]
            assert code in (0, 75, -signal.SIGKILL), code
        done = warm.run(*flags, path)
        assert done["rc"] == 0, done
        assert outcome(path) == whole


def test_chain_goes_on_without_its_owner(warm: Warm, data: Path, tmp_path: Path) -> None:
    """A run that shared the chain of a harder one can be started without that one, and the reverse."""
    flags = [*TINY, *BATCH, "--optimizer", "cl", "--cl_delta_r", "1", "--cl_inner_step", "4", "--data_dir", data,
             "--outdir"]
    both = ["--r", "3", "4"]
    assert warm.run(*flags, tmp_path / "whole", *both)["rc"] == 0
    whole = outcome(tmp_path / "whole")
    for k, second in enumerate([["3"], ["4"], ["2", "3", "4"]]):
        path = tmp_path / str(k)
        assert warm.run(*flags, path, *both, at=25, send="SIGUSR1")["rc"] == 75
        done = warm.run(*flags, path, "--r", *second)
        assert done["rc"] == 0, done
        assert warm.run(*flags, path, *both)["rc"] == 0
        found = outcome(path)
        for name, run in whole.items():
            assert found[name]["weights"] == run["weights"]
            assert found[name]["history"] == run["history"], "of the run alone, not of its company"


def test_real_process(warm: Warm, data: Path, tmp_path: Path) -> None:
    """From another working directory: SIGKILL while it trains, SEGMENT_WALL_SECONDS, and to the end."""
    flags = [str(a) for a in (*TINY, *BATCH, "--steps", "900", "--data_dir", data)]
    assert warm.run(*flags, "--checkpoint_every", "60", "--outdir", tmp_path / "whole")["rc"] == 0
    path = tmp_path / "killed"

    def start(**environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, str(forked.ENTRY), *flags, "--checkpoint_every", "0.05", "--outdir",
                                 str(path)], cwd=tmp_path, stderr=subprocess.PIPE, text=True,
                                env=os.environ | {"OMP_NUM_THREADS": "1"} | environment)

    process, end = start(), time.monotonic() + 120
    while not list(path.rglob("checkpoint.prev.pt")):
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.005)
    process.kill()
    process.communicate()
    process = start(SEGMENT_WALL_SECONDS="4")
    error = process.communicate(timeout=120)[1]
    assert process.returncode in (0, 75), error
    assert process.returncode == 0 or "stopped by SIGUSR1 and saved" in error
    process = start()
    assert process.communicate(timeout=120)[0] is None and process.returncode == 0
    assert outcome(path) == outcome(tmp_path / "whole")
