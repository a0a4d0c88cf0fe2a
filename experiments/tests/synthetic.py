"""Rows of a results table made from arrays, for tests of what is computed from it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from analysis.collect import AxisValue, Run

WHERE = {"model": "PINN", "system": "convection"}


def make_runs(
    strategy: str,
    train: object,
    test: object = None,
    *,
    physical: Sequence[AxisValue] | None = None,
    data: Sequence[AxisValue] | None = None,
    metrics: dict[str, object] | None = None,
    seeds: Iterable[int] | None = None,
) -> list[Run]:
    """Return runs with values of shape (data, physical, seeds): NaN is no run, inf one that left no finite value."""
    train = np.array(train, float)
    test = train if test is None else np.array(test, float)
    rows, columns, count = train.shape
    physical = list(physical or map(float, range(columns)))
    data = list(data or map(float, range(rows)))
    numbers = list(seeds or range(count))
    found = []
    for place in np.ndindex(train.shape):
        if np.isnan(train[place]):
            continue
        loss, error = (v[place] if math.isfinite(v[place]) else math.nan for v in (train, test))
        stored = {name: float(np.array(values, float)[place]) for name, values in (metrics or {}).items()}
        finite = math.isfinite(loss) and math.isfinite(error)
        found.append(Run(
            "PINN", "PINN", "convection", strategy, "beta", physical[place[1]], "n", data[place[0]], numbers[place[2]],
            "finished" if finite else "diverged", "", loss, error, 1.0, 1.0, 1.0, f"{strategy}/{place}", stored,
        ))  # fmt: skip
    return found
