"""The command train_trajectories.py, from another working directory: step lengths and their tail exponent."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

import small  # noqa: E402
from cnn.steps import fit_tail  # noqa: E402

STEPS = {"steps.csv", "steps.json", "steps.png"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 training images, 20 test images."""
    return small.make_data(tmp_path_factory.mktemp("data"), 60, 20)


def check_steps(folder: Path, found: dict[str, Any], count: int) -> dict[str, Any]:
    """steps.csv, steps.json and the result agree; the fit is the maximum of its likelihood. Gives steps.json."""
    about, rows = small.read_strict(folder / "steps.json"), small.table(folder / "steps.csv")
    assert {path.name for path in folder.iterdir()} == small.FILES | STEPS
    assert (folder / "steps.png").read_bytes().startswith(b"\x89PNG") and (folder / "steps.png").stat().st_size > 5000
    assert [int(row["step"]) for row in rows] == list(range(count)) and about["steps"] == count
    lengths = [float(row["length"]) for row in rows]
    assert min(lengths) > 0 and all(math.isfinite(float(row["loss"])) for row in rows)
    tail = fit_tail(lengths)
    assert [about[name] for name in ("alpha", "error", "distance", "xmin", "count", "log_sd")] == pytest.approx(
        [tail.alpha, tail.error, tail.distance, tail.xmin, tail.count, tail.log_sd])
    inside = [1 / d for d in lengths if 1 / d >= about["xmin"] * (1 - 1e-12)]
    assert len(inside) == about["count"] and about["alpha"] == pytest.approx(
        1 + len(inside) / sum(math.log(x / about["xmin"]) for x in inside))
    assert about["error"] == pytest.approx((about["alpha"] - 1) / math.sqrt(len(inside)))
    metrics = found["metrics"]
    same = {"alpha": "alpha", "alpha_error": "error", "alpha_distance": "distance", "alpha_count": "count",
            "length_log_sd": "log_sd"}
    assert set(metrics) == small.METRICS | {*same, "reached", "first_step"}
    assert all(metrics[name] == about[other] for name, other in same.items())
    assert (metrics["reached"], metrics["first_step"]) == (about["reached"], about["iteration"])
    assert found["iterations"] == about["iteration"] + count and found["stop_reason"] == "budget"
    assert about["lr"] == found["physical"]["value"] and about["unit"] == "SGD step"
    return about


def test_step_lengths_from_another_folder(tmp_path: Path) -> None:
    """Two learning rates; the loss is reached in the first epoch, which nothing can miss."""
    small.make_data(tmp_path / "data", 60, 20)
    words = small.tiny(Path("data"), "--lr 0.1 0.05 --loss 1e3 --steps 16 --max_epochs 5", trajectory=True)
    done = small.run(*words, cwd=tmp_path, script="train_trajectories.py")
    assert done.returncode == 0 and not done.stdout and "Traceback" not in done.stderr, done
    folders = [tmp_path / f"results/resnet18_w8/cifar10/trajectory/lr_{lr}/n_40/seed_0" for lr in (0.05, 0.1)]
    assert sorted(path.parent for path in tmp_path.rglob("metrics.json")) == folders
    alphas = set()
    for folder in folders:
        found = small.read_strict(folder / "metrics.json")
        about = check_steps(folder, found, 16)
        assert (about["reached"], about["iteration"], about["loss"]) == (True, 2, 1e3)
        assert (found["strategy"], found["status"]) == ("trajectory", "finished")
        assert (found["config"]["loss"], found["config"]["steps"]) == (1e3, 16)
        assert [found["config"][name] for name in ("momentum", "weight_decay", "augment", "schedule", "init")] == [
            0, 0, "none", "constant", "torch"]
        rows = small.table(folder / "history.csv")
        assert [row["stage"] for row in rows] == ["sgd"] * 2 + ["recording"] * 8
        assert {row["learning_rate"] for row in rows[1:]} == {f"{found['physical']['value']}"}
        alphas.add(about["alpha"])
    assert len(alphas) == 2


def test_a_loss_that_is_reached_late_or_never(data: Path, tmp_path: Path) -> None:
    """--loss decides where recording begins, --max_epochs where it begins at the latest."""
    begun = {}
    for name, flags in {"late": "--loss 1.8 --max_epochs 40", "never": "--loss 1e-9 --max_epochs 3"}.items():
        (tmp_path / name).mkdir()
        found = small.result(tmp_path / name, data, f"--steps 12 {flags}", trajectory=True)
        (path,) = (path.parent for path in (tmp_path / name).rglob("steps.json"))
        rows = small.table(path / "history.csv")
        begun[name] = sum(row["stage"] == "sgd" for row in rows) - 1
        losses = [float(row["train_loss"]) for row in rows[1 : begun[name] + 1]]
        about = check_steps(path, found, 12)
        assert about["reached"] == (losses[-1] <= about["loss"]) == (name == "late")
        assert min(losses[:-1]) > about["loss"] and about["iteration"] == 2 * begun[name]
    assert 2 < begun["late"] < 40 and begun["never"] == 3


def test_force_leaves_no_old_step_lengths(data: Path, tmp_path: Path) -> None:
    """Three are too few for a fit; a run that diverges before anything is recorded has none."""
    found = small.result(tmp_path, data, "--steps 3", trajectory=True)
    assert found["status"] == "finished" and found["metrics"]["alpha"] is None
    again = small.result(tmp_path, data, "--steps 3 --weight_decay 1e30 --force", trajectory=True)
    (path,) = (path.parent for path in tmp_path.rglob("metrics.json"))
    assert again["status"] == "diverged" and {p.name for p in path.iterdir()} == small.FILES
