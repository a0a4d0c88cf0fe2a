"""Plausible runs of PINNs without training: tables of regimes to draw."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from analysis.collect import AxisValue, Run

# The grids of the paper.
PAPER = {
    "convection": ("beta", [5.0 * k for k in range(1, 15)]),
    "reaction": ("rho", [1.0 * k for k in range(1, 13)]),
    "wave": ("c", [0.1, *(0.5 * k for k in range(1, 13))]),
    "reaction_diffusion": ("rho", [1.0, *(2.5 * k for k in range(1, 13))]),
}
POINTS = [100.0, 500.0, 1000.0, 5000.0, 10000.0, 15000.0, 20000.0]
EDGES = {"ropinn": 0.4, "lbfgs": 0.35, "nncg": 0.37, "alm": 0.7, "cl": 0.72}  # share of the axis that is trained


def run(
    strategy: str, physical: AxisValue, data: AxisValue, seed: int, train_loss: float, test_error: float, *,
    model: str = "PINN", system: str = "convection", name: str = "beta", **metrics: float,
) -> Run:  # fmt: skip
    """Return one run; it diverged if its loss is not finite."""
    status = "finished" if math.isfinite(train_loss) else "diverged"
    path = f"{model}/{system}/{strategy}/{name}_{physical}/n_{data}/seed_{seed}"
    return Run(model, model, system, strategy, name, physical, "n", data, seed, status, "budget",
               train_loss, test_error, 100.0, 120.0, 1.0, path, metrics)  # fmt: skip


def sweep(
    system: str, strategies: Iterable[str], seeds: Sequence[int] = (0, 1, 2), *, every: int = 1, noise: float = 0.3
) -> list[Run]:
    """Return runs whose loss jumps at a share of the physical axis, and whose error is high with few points.

    Seed 0 has no finite value at 15000 points far up the axis; NNCG stores twice its loss as that of the switch.
    """
    name, values = PAPER[system]
    runs = []
    for strategy in strategies:
        rng = np.random.default_rng(len(strategy))
        for j, x in enumerate(values[::every]):
            for i, n in enumerate(POINTS):
                for seed in seeds:
                    hard = (j * every + 0.5) / len(values) - EDGES[strategy]
                    loss = 10 ** (-4 + 2.5 / (1 + math.exp(-18 * hard)) + 0.2 * i * (hard > 0) + noise * rng.normal())
                    error = 10 ** (-2.5 + 2.3 / (1 + math.exp(-14 * (hard + 0.35 - 0.12 * i))))
                    if hard > 0.22 and i == 5 and seed == 0:
                        loss = error = math.nan
                    before = {"lbfgs_train_loss": 2 * loss, "lbfgs_test_error": 1.5 * error}
                    extra = before if strategy == "nncg" else {}
                    runs.append(run(strategy, x, n, seed, loss, error, system=system, name=name, **extra))
    return runs


def table(strategy: str, losses: list[list[float]], errors: list[list[float]] | None = None, **changes: object) -> list:
    """Return one run a cell, beta 10, 20, ... and n 100, 200, ...; None is no run."""
    return [
        run(strategy, 10.0 * (j + 1), 100.0 * (i + 1), 0, loss, (errors or losses)[i][j], **changes)
        for i, row in enumerate(losses) for j, loss in enumerate(row) if loss is not None
    ]  # fmt: skip
