"""Grids and run folders made by hand, for tests of the analysis with known answers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from analysis.collect import Grid


def grid(values: object, metric: str = "train_loss", diverged: object = None) -> Grid:
    """Return a one-seed grid; NaN is a missing cell, inf a diverged one."""
    values = np.array(values, float)
    shown = np.where(np.isfinite(values), values, np.nan)
    rows, columns = values.shape
    return Grid(
        "PINN", "convection", "lbfgs", metric, "beta", "n",
        [float(j) for j in range(columns)], [float(i) for i in range(rows)],
        values, shown, (~np.isnan(values)).astype(int), np.isinf(values).astype(int),
    )  # fmt: skip


def metrics(**changes: object) -> dict:
    """Return the content of a metrics.json."""
    content: dict = {
        "schema": 1, "module": "PINN", "model": "PINN", "system": "convection",
        "strategy": "lbfgs", "physical": {"name": "beta", "value": 5},
        "data": {"name": "n", "value": 1000}, "seed": 0, "train_loss": 1e-4, "test_error": 0.5,
        "metrics": {"lambda_max": 12.5, "loss": {"residual": 0.25}, "note": "a,b", "ok": True},
        "status": "finished", "stop_reason": "tolerance", "iterations": 10, "evaluations": 12,
        "seconds": 1.5, "config": {}, "environment": {},
    }  # fmt: skip
    return content | changes


def put(root: Path, name: str, content: dict | str | None) -> None:
    """Write one run folder; None leaves it unfinished."""
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    if content is not None:
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / "metrics.json").write_text(text)


def at(beta: float, n: float, seed: int = 0, **changes: object) -> dict:
    """Return a metrics.json at a cell."""
    cell = {"physical": {"name": "beta", "value": beta}, "data": {"name": "n", "value": n}}
    return metrics(**cell, seed=seed, **changes)


def results_folder(root: Path) -> Path:
    """Return a folder with finished, diverged, unfinished and corrupt runs; 1 to 3 seeds a cell."""
    put(root, "a/seed_0", at(5, 1000, 0, train_loss=1.0, test_error=0.1))
    put(root, "a/seed_1", at(5, 1000, 1, train_loss=2.0, test_error=0.2))
    put(root, "a/seed_2", at(5, 1000, 2, train_loss=6.0, test_error=0.6, status="diverged"))
    put(root, "b/seed_0", at(30, 1000, 0, train_loss=3.0, test_error=0.9))
    lost = {"train_loss": None, "test_error": None, "status": "diverged"}
    put(root, "b/seed_1", at(30, 1000, 1, **lost))
    put(root, "c/seed_0", at(5, 100, 0, train_loss=0.5, test_error=2.0))
    put(root, "d/seed_0", None)
    put(root, "e/seed_0", json.dumps(at(30, 100)).replace("0.0001", "NaN"))
    put(root, "f/seed_0", '{"schema": 1, "mod')
    return root
