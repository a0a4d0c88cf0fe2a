"""Run folders with what diagnose.py and training leave there, made by hand, for tests of the figures of landscapes."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
from analysis import collect
from analysis.diagnoses import Case
from hand_made import metrics

NAN = math.nan


def put(root: Path, name: str, case: Case, seed: int = 0, **changes: object) -> Path:
    """Write the metrics.json of a run of a cell; returns the folder."""
    folder = root / name
    folder.mkdir(parents=True)
    where = {"model": case.model, "module": case.model, "system": case.system, "strategy": case.strategy, "seed": seed,
             "physical": {"name": case.physical_name, "value": case.physical}, "metrics": {},
             "data": {"name": case.data_name, "value": case.data}}  # fmt: skip
    (folder / "metrics.json").write_text(json.dumps(metrics(**where | changes)))
    return folder


def put_hessian(folder: Path, nodes: dict[str, list[float]], loss: float = 1e-4) -> None:
    """Write a spectrum, equal weights, by state; no nodes: not finite."""
    states, arrays = {}, {}
    for name, values in nodes.items():
        states[name] = {"finite": bool(values), "loss": loss if values else None}
        if values:
            arrays |= {f"{name}_nodes": np.array([[*values, NAN]]),
                       f"{name}_weights": np.array([[1 / len(values)] * len(values) + [0.0]])}  # fmt: skip
            states[name] |= {"lambda_max": max(values), "lambda_min": min(values),
                             "mass": {"eps": 1e-6, "threshold": 1e-6 * max(values), "below": 0.25, "within": 0.5,
                                      "within_bounds": [0.25, 0.75]}}
    (folder / "hessian.json").write_text(json.dumps({"schema": 1, "tool": "hessian", "states": states}))
    np.savez(folder / "hessian.npz", **arrays)


def put_landscape(folder: Path, loss: np.ndarray) -> None:
    g = len(loss)
    arguments = {"directions": "eigen", "normalise": "filter"}
    text = {"schema": 1, "tool": "landscape", "arguments": arguments}
    (folder / "landscape.json").write_text(json.dumps(text))
    np.savez(folder / "landscape.npz", a=np.linspace(-0.5, 0.5, g), b=np.linspace(-0.5, 0.5, g), loss=loss)


def put_history(folder: Path, points: list[tuple[int, float, float | None]]) -> None:
    lines = ["iteration,train_loss,lambda_max"]
    lines += [f"{k},{loss},{'' if value is None else value}" for k, loss, value in points]
    (folder / "history.csv").write_text("\n".join(lines) + "\n")


def put_paths(folder: Path, losses: tuple[float, float], middle: float, errors: tuple[float, float]) -> None:
    t = np.linspace(0, 1, 5)
    loss, error = (np.geomspace(*ends, 5) for ends in (losses, errors))
    barrier = max(0.0, math.log10(middle / loss[2]))
    loss[2] = middle
    paths = {name: {"barrier_log10": barrier} for name in ("chord", "bezier")}
    name = "connectivity_alm-beta_30-n_1000-seed_0"
    (folder / f"{name}.json").write_text(json.dumps({"schema": 1, "tool": "connectivity", "paths": paths}))
    np.savez(folder / f"{name}.npz", t=t, chord_loss=loss, chord_error=error, bezier_loss=loss, bezier_error=error)


def put_steps(folder: Path, alpha: float, error: float = 0.1, lr: float = 1.0, reached: bool = True) -> None:
    steps = {"schema": 1, "alpha": alpha, "error": error, "distance": 0.06, "xmin": 3.0, "count": 100, "log_sd": 1.2,
             "steps": 200, "loss": 1e-2, "reached": reached, "iteration": 9, "unit": "step", "lr": lr, "dropped": 0}
    (folder / "steps.json").write_text(json.dumps(steps))


def folders(root: Path) -> list[tuple]:
    """Return the runs below a folder with their folders."""
    found = collect.collect(root)
    assert not found.corrupt
    return [(run, root / run.path) for run in found.runs]


def course(sharper: float, falls: float = 1e-4, shift: int = 0) -> list[tuple[int, float, float | None]]:
    """Return a history in which lambda_max grows by a factor while the loss falls by another, then both stay."""
    start = [(10 * k + shift * (k > 0), falls ** (k / 5), 100 * sharper ** (k / 5)) for k in range(6)]
    return start + [(55, falls, None)] + [(100 * k, falls, 100 * sharper) for k in range(1, 12)]
