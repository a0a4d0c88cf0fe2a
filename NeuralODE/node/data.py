"""Training pairs (state, next state) of one trajectory, and batches of them over runs.

A one-step Euler prediction is x + dt f(x), so that its mean squared error is dt^2 mean |f - q|^2 with the difference
quotient q = (x_next - x) / dt: the data term is a regression onto q, the physics term one onto the vector field F. The
two targets differ by the truncation error of Euler's step; `defect` is their distance.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from node.pendulum import TRAIN_START, embed, trajectory, vector_field

STATES = {"embedded": 3, "raw": 2}  # dimension d by name


@dataclass(frozen=True)
class Pairs:
    """The N pairs of one trajectory, (N, d) each, float64.

    Attributes:
        x: states at t_n.
        target: states at t_n + dt.
        q: (target - x) / dt.
        field: F(x), 1/s; None for the embedding, whose velocity is no function of the embedded state.
    """

    x: np.ndarray
    target: np.ndarray
    q: np.ndarray
    field: np.ndarray | None


def make_pairs(inv_b: float, horizon: float, dt: float, state: str = "raw", tolerance: str = "paper",
               start: tuple[float, float] = TRAIN_START) -> Pairs:
    """The pairs of `trajectory`; `state` names the coordinates, a key of `STATES`.

    Raises:
        ValueError: for an unknown `state`, or when the horizon does not hold two samples.
    """
    if state not in STATES:
        raise ValueError(f"state must be one of {', '.join(STATES)}, got {state}")
    states = trajectory(inv_b, horizon, dt, start, tolerance)
    if len(states) < 2:
        raise ValueError(f"horizon {horizon:g} holds {len(states)} samples of dt = {dt:g}; a pair needs two")
    points = states if state == "raw" else embed(states)
    x, target = points[:-1], points[1:]
    return Pairs(x, target, (target - x) / dt, vector_field(x, 1 / inv_b) if state == "raw" else None)


def defect(pairs: Pairs, dt: float) -> float:
    """D = dt^2 mean |q - F|^2 over pairs and components.

    With data and physics terms of equal weight the smallest total is D / 2, each term being D / 4.

    Raises:
        ValueError: for pairs without a vector field.
    """
    if pairs.field is None:
        raise ValueError("the defect needs the vector field, which the embedded state does not have")
    return float(dt**2 * np.mean((pairs.q - pairs.field) ** 2))


@dataclass(frozen=True)
class Batch:
    """Pairs of R runs, padded with zeros to the longest, N pairs.

    Attributes:
        x: (R, N, d), as in `Pairs`; so are `target`, `q` and `field`. A run without a vector field has zeros there.
        mask: (R, N), 1 for a pair and 0 for padding, of the dtype of x.
        count: (R,) numbers of pairs, int64, on the CPU.
    """

    x: Tensor
    target: Tensor
    q: Tensor
    field: Tensor
    mask: Tensor
    count: Tensor


def pad(pairs: Sequence[Pairs], dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Batch:
    """One batch of runs with the same d. Difference quotients stay those of float64, whatever the dtype.

    Raises:
        ValueError: for no runs, or runs of different d.
    """
    if len({p.x.shape[1] for p in pairs}) != 1:
        raise ValueError("a batch needs at least one run, and the same state in all")
    count = [len(p.x) for p in pairs]

    def stack(name: str) -> Tensor:
        table = np.zeros((len(pairs), max(count), pairs[0].x.shape[1]))
        for row, one in zip(table, pairs):
            values = getattr(one, name)
            if values is not None:
                row[:len(values)] = values
        return torch.tensor(table, dtype=dtype, device=device)

    mask = torch.tensor(np.arange(max(count)) < np.array(count)[:, None], dtype=dtype, device=device)
    return Batch(*(stack(name) for name in ("x", "target", "q", "field")), mask, torch.tensor(count))
