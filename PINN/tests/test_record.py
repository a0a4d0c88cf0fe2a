"""Run folders: names, configuration, results and strict JSON."""

from __future__ import annotations

import errno
import math
import os
import sys
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

from pinn import files  # noqa: E402
from pinn.files import UsageError  # noqa: E402
from pinn.record import RunKey  # noqa: E402
from run_folders import clean, finish, make, prepared, read_strict, rows, spawn  # noqa: E402, F401

pytestmark = pytest.mark.usefixtures("clean")

KEYS = (
    "schema module model system strategy physical data seed train_loss test_error metrics "
    "status stop_reason iterations evaluations seconds config environment"
)


# ---- names, configuration, results -------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [(30.0, "30"), (30, "30"), (0.5, "0.5"), (1e-5, "1e-05"), (1000000, "1000000"), (-2.0, "-2")],
)
def test_folder_prints_values_shortest(value: float, text: str) -> None:
    """The folder is the contract's, whatever the type of the number."""
    key = RunKey("pinn", "mlp", "wave", "nncg", "beta", value, "n", 1000, 3)
    assert key.folder() == Path(f"wave/nncg/beta_{text}/n_1000/seed_3")


def test_finished_run_has_exactly_the_keys_and_files(tmp_path: Path) -> None:
    """A finished run leaves its result and no checkpoint, claim or temporary file."""
    run = prepared(tmp_path)
    assert not run.is_done()
    run.log({"iteration": 0, "train_loss": torch.tensor(0.5)})
    run.save((0, 1), {"w": torch.zeros(2)})
    result = finish(run, model={"w": torch.ones(2)}, train_loss=torch.tensor(0.25))
    assert " ".join(result) == KEYS and result["schema"] == 1
    assert result["physical"] == {"name": "beta", "value": 30.0}
    assert (result["status"], result["train_loss"]) == ("finished", 0.25)
    files = {path.name for path in run.path.iterdir()}
    assert files == {"config.json", "history.csv", "model.pt", "metrics.json"}
    assert torch.load(run.path / "model.pt", weights_only=True)["w"].sum() == 2
    assert make(tmp_path).is_done()


@pytest.mark.parametrize("name", ["train_loss", "test_error"])
@pytest.mark.parametrize("value", [math.nan, math.inf, torch.tensor(-math.inf), numpy.float32("nan")])
def test_not_finite_is_diverged_and_null(tmp_path: Path, name: str, value: Any) -> None:
    """A result that is not finite is recorded as divergence, in strict JSON."""
    result = finish(prepared(tmp_path), **{name: value}, metrics={"psi": [math.nan, 1.0]})
    assert (result["status"], result[name]) == ("diverged", None)
    assert result["metrics"] == {"psi": [None, 1.0]}


def test_unknown_status_is_refused(tmp_path: Path) -> None:
    """Only the two words of the contract are statuses."""
    with pytest.raises(ValueError, match="finished or diverged"):
        finish(prepared(tmp_path), status="ok")


def test_strict() -> None:
    """Numbers of every library become plain ones; what JSON cannot hold is an error."""
    given = {1: (torch.tensor([1, 2]), numpy.float32(0.5)), "p": Path("a/b"), "t": True, "n": None}
    given |= {"i": numpy.int64(3), "x": torch.tensor(math.nan), "s": "text"}
    plain = {"1": [[1, 2], 0.5], "p": "a/b", "t": True, "n": None, "i": 3, "x": None, "s": "text"}
    assert files.strict(given) == plain
    with pytest.raises(TypeError):
        files.write_json(Path("never"), {"a": object()})


def test_config_mismatch_names_argument_and_both_values(tmp_path: Path) -> None:
    """Other arguments in the same folder are refused before anything changes, done or not."""
    run = prepared(tmp_path)
    for _ in range(2):
        other = make(tmp_path, config={"lr": 0.5, "ic": "hard"})
        for refused in (other.check_config, other.prepare):
            with pytest.raises(UsageError) as error:
                refused()
            for word in ("lr 1.0 -> 0.5", "ic (absent) -> hard", "--save_path", "--force"):
                assert word in str(error.value)
            assert "\n" not in str(error.value)
        if not run.is_done():
            finish(run)


def test_config_is_compared_after_json(tmp_path: Path) -> None:
    """Neither a tuple for a list, 5 for 5.0, nor a volatile argument is another configuration."""
    make(tmp_path, config={"hidden": (50, 50), "beta": 5, "device": "cpu"}).prepare()
    config = {"hidden": [50, 50], "beta": 5.0, "device": "cuda", "nan": math.nan}
    make(tmp_path, config=config, volatile=("device", "nan")).check_config()


@pytest.mark.parametrize("text", ['{"lr": ', "3", ""])
def test_damaged_config_is_one_line(tmp_path: Path, text: str) -> None:
    """Cut short or another thing than an object; --force begins anew."""
    run = prepared(tmp_path)
    (run.path / "config.json").write_text(text)
    with pytest.raises(UsageError, match="config.json is damaged; use another --save_path or --force"):
        run.check_config()
    run.prepare(force=True)
    run.check_config()


def test_force_redoes_and_keeps_foreign_files(tmp_path: Path) -> None:
    """With force only the files of the contract go, and other arguments are accepted."""
    run = prepared(tmp_path)
    run.log({"iteration": 0})
    run.save((0, 1), {})
    finish(run, model={})
    for name in ("steps.json", "landscape.html", "connectivity_alm-seed_1.npz"):
        (run.path / name).write_text("{}")
    (run.path / "notes.txt").write_text("mine")
    again = make(tmp_path, config={"lr": 0.1})
    again.prepare(force=True)
    assert {p.name for p in run.path.iterdir()} == {"notes.txt", "config.json", "claim"}
    assert read_strict(run.path / "config.json") == {"lr": 0.1}
    assert again.positions() == [] and not again.is_done()


def test_force_leaves_a_run_that_another_process_has(tmp_path: Path) -> None:
    """Force does not pull the folder from under a living process."""
    run = prepared(tmp_path)
    run.save((0, 1), {})
    (run.path / "checkpoint.pt.abc.tmp").write_text("being written")
    other = make(tmp_path)
    other.prepare(force=True)
    assert not other.claim() and f"process {os.getpid()}" in other.holder
    assert {"checkpoint.pt", "checkpoint.pt.abc.tmp"} <= {p.name for p in run.path.iterdir()}


def test_start_removes_temporary_files_and_the_note_of_a_failure(tmp_path: Path) -> None:
    """A failed run says why, keeps its checkpoint and is forgotten by the next start."""
    run = prepared(tmp_path)
    run.save((0, 7), {"w": torch.ones(1)})
    try:
        raise RuntimeError("out of memory")
    except RuntimeError as error:
        run.fail(error)
    note = read_strict(run.path / "failed.json")
    assert note["error"] == "RuntimeError: out of memory" and "Traceback" in note["traceback"]
    assert note["config"] == {"lr": 1.0} and not run.is_done()
    (run.path / "checkpoint.pt.abc.tmp").write_text("half")
    again = prepared(tmp_path)
    assert {p.name for p in run.path.iterdir()} == {"config.json", "checkpoint.pt", "claim"}
    assert again.positions() == [(0, 7)]


def test_unwritable_save_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A save path that cannot be written is bad input, found before any work."""
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"--save_path .*file"):
        make(tmp_path / "file").prepare()

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(UsageError, match=r"--save_path .*Permission denied"):
        make(tmp_path / "other").prepare()


def test_finished_run_is_recognised_without_torch(tmp_path: Path) -> None:
    """Re-running a finished run is fast: torch is not even loaded."""
    finish(prepared(tmp_path))
    code = "assert run.is_done(); run.check_config(); assert 'torch' not in sys.modules"
    assert spawn(code, tmp_path).wait() == 0
