"""The published summary of a sweep: nine matrices over (T, 1/b) and `sweep_results.json`, from the run folders.

They cover every finished run of the strategy in the folder, so that shards and columns trained by several commands end
up in one summary, whichever is last. A cell is the mean over its seeds, diverged runs included: a seed without a finite
value makes the mean infinite. A cell without a run is NaN.
"""

import fcntl
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from node.files import atomic_write, write_json
from node.settings import SYSTEM, Settings

#: Matrix -> where its number stands in metrics.json, and what it is.
MATRICES = {
    "train_loss": ("train_loss", "one-step mean squared error on the training trajectory (rollout training: the "
                                 "rollout's)"),
    "test_error": ("test_error", "relative L2 error of the rollout over the test horizon, mean over components"),
    "train_sse": ("train_sse", "sum of squared one-step errors on the training trajectory"),
    "test_sse": ("test_sse", "sum of squared one-step errors on the test trajectory"),
    "train_data_loss": ("loss_data", "data term at the final weights"),
    "train_physics_loss": ("loss_physics", "physics term at the final weights"),
    "train_total_loss": ("loss_total", "data term + lambda x physics term at the final weights"),
    "test_rollout_error": ("test_rollout_l2", "the same as test_error"),
    "test_rollout_sse": ("test_rollout_sse", "sum of squared errors of the test rollout"),
}


def write(settings: Settings) -> tuple[int, int, int]:
    """Write the matrices and sweep_results.json into the save path; rows, columns and runs that they hold."""
    if not settings.save_path.exists():  # a shard without cells
        return 0, 0, 0
    lock = os.open(settings.save_path, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks: the last shard's summary may lack one that ends with it
            fcntl.flock(lock, fcntl.LOCK_EX)
            for pattern in ("*_matrix.npy.*.tmp", "sweep_results.json.*.tmp"):  # of a process that was killed
                for path in settings.save_path.glob(pattern):
                    path.unlink(missing_ok=True)
        return _write(settings)
    finally:
        os.close(lock)


def _write(settings: Settings) -> tuple[int, int, int]:
    runs = read(settings.folder / SYSTEM / settings.strategy)
    if not runs:
        return 0, 0, 0
    inv_b = sorted({run["physical"]["value"] for run in runs})
    samples = sorted({run["data"]["value"] for run in runs})
    seeds = sorted({run["seed"] for run in runs})
    stacks = {name: np.full((len(seeds), len(samples), len(inv_b)), np.nan) for name in MATRICES}
    horizons = dict.fromkeys(samples)
    for run in runs:
        place = seeds.index(run["seed"]), samples.index(run["data"]["value"]), inv_b.index(run["physical"]["value"])
        horizons[run["data"]["value"]] = run["config"]["horizon"]
        for name, (key, _) in MATRICES.items():
            value = run[key] if key in ("train_loss", "test_error") else run["metrics"].get(key)
            stacks[name][place] = np.inf if value is None else value
    means = {name: _mean(stack) for name, stack in stacks.items()}
    for name, matrix in means.items():
        atomic_write(settings.save_path / f"{name}_matrix.npy", lambda file, matrix=matrix: np.save(file, matrix))
    names = [name for name in runs[0]["config"] if name not in ("inv_b", "horizon", "seed")]
    common = {name: runs[0]["config"][name] for name in names
              if all(run["config"].get(name) == runs[0]["config"][name] for run in runs)}
    write_json(settings.save_path / "sweep_results.json", {
        "model": settings.model, "strategy": settings.strategy, "inv_b_values": inv_b,
        "b_values": [1 / value for value in inv_b], "horizon_values": list(horizons.values()), "sample_counts": samples,
        "seeds": seeds, "axes": "rows: horizon_values, columns: inv_b_values; null: no finite number or no run",
        "runs": len(runs), "diverged": sum(run["status"] == "diverged" for run in runs),
        "definitions": {f"{name}_matrix": text for name, (_, text) in MATRICES.items()},
        **{f"{name}_matrix": matrix for name, matrix in means.items()},
        "per_seed": {f"{name}_matrix": stack for name, stack in stacks.items()}, "settings": common,
        "settings_that_differ": [name for name in names if name not in common]})
    return len(samples), len(inv_b), len(runs)


def read(folder: Path) -> list[dict[str, Any]]:
    """Results of all finished runs below a folder."""
    found = []
    for path in sorted(folder.glob("*/*/*/metrics.json")):
        with suppress(OSError, ValueError):
            found.append(json.loads(path.read_text()))
    return found


def _mean(stack: np.ndarray) -> np.ndarray:
    """Mean over the seeds that are there, (seeds, T, 1/b) -> (T, 1/b)."""
    there = ~np.isnan(stack)
    total = np.where(there, stack, 0.0).sum(0)
    count = there.sum(0)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
