"""The nine matrices and sweep_results.json, against the run folders and against their definitions."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

import forked  # noqa: E402
from forked import Warm  # noqa: E402
from node import matrices, train  # noqa: E402
from node.arguments import parse  # noqa: E402
from node.model import propagate  # noqa: E402
from node.pendulum import TEST_START, TRAIN_START, embed, trajectory, vector_field  # noqa: E402

warm = pytest.fixture(scope="module")(forked.warm)

TINY = "--budget smoke --hidden 6 --test-horizon 2 --precision float64"
PINN = f"{TINY} --physics-mode pinn --lbfgs-max-iter 3"
#: Matrix -> its number in metrics.json.
SOURCES = {"train_loss": "train_loss", "test_error": "test_error", "train_sse": "train_sse", "test_sse": "test_sse",
           "train_data_loss": "loss_data", "train_physics_loss": "loss_physics", "train_total_loss": "loss_total",
           "test_rollout_error": "test_rollout_l2", "test_rollout_sse": "test_rollout_sse"}


def run(arguments: str, path: Path) -> tuple[int, int, int] | None:
    """One command, in this process: rows, columns and runs of its matrices."""
    sweep = parse([*shlex.split(arguments), "--out-dir", str(path)])
    assert train.train(sweep.settings, [sweep.settings.run(*cell) for cell in sweep.cells]) == 0
    return matrices.write(sweep.settings) if sweep.matrices else None


def stored(path: Path) -> dict[str, np.ndarray]:
    """The matrices that lie in a folder, by name."""
    return {file.stem.removesuffix("_matrix"): np.load(file) for file in path.glob("*.npy")}


def summary(path: Path) -> dict[str, Any]:
    """sweep_results.json, read by a parser that refuses NaN."""
    def refuse(text: str) -> None:
        raise AssertionError(text)
    return json.loads((path / "sweep_results.json").read_text(), parse_constant=refuse)


def runs(path: Path) -> dict[tuple[float, float, int], dict[str, Any]]:
    """Numbers of all run folders, by T, 1/b and seed."""
    found = [json.loads(p.read_text()) for p in path.rglob("metrics.json")]
    return {(r["config"]["horizon"], r["physical"]["value"], r["seed"]): r["metrics"] | r for r in found}


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A grid with two seeds, and one more column that has one cell and one seed only."""
    path = tmp_path_factory.mktemp("swept")
    assert run(f"{PINN} --lamb 3 --inv-b-values 8 4 --horizon-values 1 0.5 --seeds 1 0", path) == (2, 2, 8)
    assert run(f"{PINN} --lamb 3 --inv-b-values 6 --horizon-values 0.5 --seeds 7", path) == (2, 3, 9)
    return path


def test_matrices_are_the_means_of_the_run_folders(swept: Path) -> None:
    """Rows T and columns 1/b ascend; a cell without a run is NaN, null in JSON."""
    found, file, cells = stored(swept), summary(swept), runs(swept)
    assert found.keys() == SOURCES.keys() and len(cells) == 9
    assert (file["horizon_values"], file["inv_b_values"], file["seeds"]) == ([0.5, 1], [4, 6, 8], [0, 1, 7])
    assert file["b_values"] == [1 / 4, 1 / 6, 1 / 8] and file["sample_counts"] == [10, 20]
    assert (file["model"], file["strategy"], file["runs"], file["diverged"]) == ("PINODE", "lbfgs", 9, 0)
    for name, source in SOURCES.items():
        assert found[name].shape == (2, 3) and found[name].dtype == np.float64
        for i, horizon in enumerate(file["horizon_values"]):
            for j, inv_b in enumerate(file["inv_b_values"]):
                there = [cells[horizon, inv_b, seed][source] for seed in (0, 1, 7) if (horizon, inv_b, seed) in cells]
                value, shown = found[name][i, j], file[f"{name}_matrix"][i][j]
                assert len(there) == {(1, 6): 0, (0.5, 6): 1}.get((horizon, inv_b), 2)
                if there:
                    assert value == pytest.approx(np.mean(there), rel=1e-12) and shown == value
                else:
                    assert np.isnan(value) and shown is None
                for k, seed in enumerate(file["seeds"]):
                    single = cells.get((horizon, inv_b, seed), {source: None})[source]
                    assert file["per_seed"][f"{name}_matrix"][k][i][j] == single
        assert f"{name}_matrix" in file["definitions"]
    assert file["settings"]["lamb"] == 3 and not {"inv_b", "horizon", "seed"} & file["settings"].keys()


@pytest.mark.parametrize("state", ["raw", "embedded"])
def test_definitions(tmp_path: Path, swept: Path, state: str) -> None:
    """Each number from its definition, the weights and the trajectories alone."""
    path, weight = (swept, 3.0) if state == "raw" else (tmp_path, 0.0)
    if state == "embedded":
        run(f"{TINY} --physics-mode none --lbfgs-max-iter 3 --inv-b-values 4 --horizon-values 0.5 --seeds 0", path)
    model = next(path.rglob("inv_b_4/n_10/seed_0/model.pt"))
    params = [w[None] for w in torch.load(model, weights_only=True)["params"]]

    def field(x: np.ndarray) -> np.ndarray:
        return propagate(params, torch.tensor(x).reshape(1, -1, x.shape[-1]))[0].numpy().reshape(x.shape)

    def states(horizon: float, start: tuple[float, float]) -> np.ndarray:
        found = trajectory(4.0, horizon, 0.05, start)
        return found if state == "raw" else embed(found)
    x, test = states(0.5, TRAIN_START), states(2.0, TEST_START)
    e, e_test = (s[:-1] + 0.05 * field(s[:-1]) - s[1:] for s in (x, test))
    physics = 0.05**2 * np.mean((field(x[:-1]) - vector_field(x[:-1], 1 / 4)) ** 2) if state == "raw" else 0.0
    predicted = [test[0]]
    for _ in test[1:]:
        predicted.append(predicted[-1] + 0.05 * field(predicted[-1]))
    off = (np.array(predicted) - test)[1:]
    error = np.mean(np.linalg.norm(off, axis=0) / np.linalg.norm(test[1:], axis=0))
    wanted = {"train_loss": np.mean(e**2), "test_error": error, "train_sse": np.sum(e**2),
              "test_sse": np.sum(e_test**2), "train_data_loss": np.mean(e**2), "train_physics_loss": physics,
              "train_total_loss": np.mean(e**2) + weight * physics, "test_rollout_error": error,
              "test_rollout_sse": np.sum(off**2)}
    file = summary(path)
    place = file["seeds"].index(0), 0, file["inv_b_values"].index(4)
    for name, value in wanted.items():
        seed, i, j = place
        assert file["per_seed"][f"{name}_matrix"][seed][i][j] == pytest.approx(value, rel=1e-6, abs=1e-15), name


def test_a_diverged_seed_makes_the_mean_infinite(swept: Path, tmp_path: Path) -> None:
    """And only that of its cell: inf in the arrays, null in JSON; what is finite of it stays in its own seed."""
    shutil.copytree(swept, tmp_path, dirs_exist_ok=True)
    path = next(tmp_path.rglob("inv_b_8/n_20/seed_1/metrics.json"))
    result = json.loads(path.read_text())
    result |= {"status": "diverged", "train_loss": None, "test_error": None}
    result["metrics"] |= {name: None for name in result["metrics"] if name != "test_sse"}
    path.write_text(json.dumps(result))
    before = stored(tmp_path)
    run(f"{PINN} --lamb 3 --inv-b-values 8 4 --horizon-values 1 0.5 --seeds 1 0", tmp_path)
    after, file = stored(tmp_path), summary(tmp_path)
    assert file["diverged"] == 1 and file["runs"] == 9
    for name in SOURCES:
        changed = np.argwhere(~((before[name] == after[name]) | np.isnan(before[name]))).tolist()
        if name == "test_sse":
            assert changed == []
            continue
        assert changed == [[1, 2]] and after[name][1, 2] == np.inf, name
        assert file[f"{name}_matrix"][1][2] is None and file["per_seed"][f"{name}_matrix"][1][1][2] is None
        assert file["per_seed"][f"{name}_matrix"][0][1][2] is not None


def test_parts_make_the_whole(tmp_path: Path) -> None:
    """Shards, and single columns, give together what one command gives; whichever is last."""
    grid = f"{PINN} --inv-b-values 4 6 8 --horizon-values 0.5 1 --seeds 0 1"
    run(grid, tmp_path / "whole")
    for name, parts in {"shards": ["--shard-index 1 --shard-count 2", "--shard-index 0 --shard-count 2"],
                        "columns": ["--only-inv-b-values 8,4", "--only-inv-b-values 6"],
                        "both": ["--only-inv-b-values 6 --write-case-json-only",
                                 "--only-inv-b-values 4 8 --shard-index 2 --shard-count 5 --write-case-json-only", ""],
                        }.items():
        for part in parts:
            run(f"{grid} {part}", tmp_path / name)
            assert (tmp_path / name / "sweep_results.json").exists() == ("case-json-only" not in part)
        whole, found = summary(tmp_path / "whole"), summary(tmp_path / name)
        assert found.keys() == whole.keys() and found["runs"] == whole["runs"] == 12
        for key, matrix in stored(tmp_path / "whole").items():
            np.testing.assert_allclose(stored(tmp_path / name)[key], matrix, rtol=1e-9, err_msg=f"{name} {key}")
        for key in ("inv_b_values", "horizon_values", "seeds", "strategy", "definitions", "axes", "settings"):
            assert found[key] == whole[key], key


def test_nothing_to_do_is_no_error(warm: Warm, tmp_path: Path) -> None:
    """A shard without cells trains nothing, and writes nothing; no text is no filter."""
    flags = [*f"{PINN} --inv-b-values 4 --horizon-values 0.5 --seeds 0 --out-dir".split(), tmp_path / "results"]
    done = warm.run(*flags, "--shard-index", "3", "--shard-count", "4")
    assert done["rc"] == 0 and done["err"] == "" and not list(tmp_path.rglob("*.*")), done
    done = warm.run(*flags, "--only-inv-b-values", "", "--shard-index", "0", "--shard-count", "4")
    assert done["rc"] == 0 and summary(tmp_path / "results")["runs"] == 1


def test_a_summary_that_cannot_be_written(warm: Warm, tmp_path: Path) -> None:
    """The runs are recorded; one line says what is missing, and the exit code."""
    flags = [*f"{PINN} --inv-b-values 4 --horizon-values 0.5 --seeds 0 --out-dir".split(), tmp_path]
    (tmp_path / "train_sse_matrix.npy").mkdir()
    done = warm.run(*flags)
    assert done["rc"] == 1 and "Traceback" not in done["err"] and "train_sse_matrix.npy" in done["err"], done
    assert len(runs(tmp_path)) == 1 and not list(tmp_path.rglob("*.tmp"))
    (tmp_path / "train_sse_matrix.npy").rmdir()
    assert warm.run(*flags)["rc"] == 0 and stored(tmp_path).keys() == SOURCES.keys()


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    """Temporary files of the summary; nothing else."""
    left = tmp_path / "sweep_results.json.0123abcd.tmp", tmp_path / "test_error_matrix.npy.4567cdef.tmp"
    for path in (*left, tmp_path / "notes.tmp"):
        path.touch()
    run(f"{PINN} --inv-b-values 4 --horizon-values 0.5 --seeds 0", tmp_path)
    assert not any(path.exists() for path in left) and (tmp_path / "notes.tmp").exists()


def test_other_strategies_in_the_same_folder_are_left_out(tmp_path: Path) -> None:
    """The summary is that of the last command's strategy; run folders of both stay."""
    flags = f"{TINY} --inv-b-values 4 --horizon-values 0.5 --seeds 0"
    run(f"{flags} --physics-mode pinn --lbfgs-max-iter 2", tmp_path)
    run(f"{flags} --physics-mode none --optimizer Adam --epochs 1", tmp_path)
    file = summary(tmp_path)
    assert (file["model"], file["strategy"], file["runs"]) == ("NODE", "adam", 1)
    assert file["train_physics_loss_matrix"] == [[0]] and len(list(tmp_path.rglob("metrics.json"))) == 2
