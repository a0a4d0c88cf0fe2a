# Twin of PINN/pinn/curves.py - edit there and run: python experiments/twins.py --fix
"""Curves of low loss between two networks: mode connectivity (Fig. 15 of the paper).

A curve from A to B is g(t) = sum_j c_j(t) P_j with P_0 = A, P_m = B and the bends P_1 ... P_{m-1}, m = bends + 1:

    bezier      c_j(t) = binom(m, j) t^j (1 - t)^(m - j)
    polygonal   c_j(t) = max(0, 1 - |m t - j|), straight from bend to bend

The bends start on the chord and minimise E L(g(t)), t uniform on (0, 1), with one t a step: dL/dP_j = c_j(t) L'(g(t))
(Garipov et al., Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs, 2018). Of the losses on the way,

    barrier = max_t L(g(t)) - (1 - t) L(A) - t L(B)
    mc = (L(A) + L(B)) / 2 - L(g(t*)),    t* = argmax_t |(L(A) + L(B)) / 2 - L(g(t))|

as Yang et al. (Taxonomizing local versus global structure in neural network loss landscapes, 2021) compute it. The
paper's argmin makes mc zero for every pair, since L takes the mean of its ends somewhere in between. Where L stays
between its ends, both of them are t*; the higher one is taken, so mc = -|L(A) - L(B)| / 2 without any barrier.

    curve = Curve.straight("bezier", a, b, bends=1)                     # a, b: (p,)
    losses = list(train_bends([curve], like, loss_and_gradients, steps=2000, lr=1e-3, seed=0))
    for rows, weights in curve.networks(t, like, batch=64): ...         # loss[rows] = L(weights)
    measure(t, loss)
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .hessian import dot, flatten, unflatten
from .landscape import log10


def bezier(t: Tensor, degree: int) -> Tensor:
    """Bernstein polynomials c_0 ... c_degree at t (k,), (k, degree + 1)."""
    j = torch.arange(degree + 1, device=t.device)
    binomials = t.new_tensor([math.comb(degree, k) for k in range(degree + 1)])
    return binomials * t[:, None] ** j * (1 - t[:, None]) ** (degree - j)


def polygonal(t: Tensor, degree: int) -> Tensor:
    """Hat functions c_0 ... c_degree at t (k,), (k, degree + 1)."""
    j = torch.arange(degree + 1, device=t.device)
    return (1 - (t[:, None] * degree - j).abs()).clamp(min=0)


KINDS = {"bezier": bezier, "polygonal": polygonal}


@dataclass
class Curve:
    """One curve.

    kind: "bezier" or "polygonal".
    control: (bends + 2, p), the end points first and last.
    """

    kind: str
    control: Tensor

    @classmethod
    def straight(cls, kind: str, a: Tensor, b: Tensor, bends: int = 0) -> "Curve":
        """The chord from a to b (p,), with bends at equal distances on it."""
        between = [torch.lerp(a, b, j / (bends + 1)) for j in range(1, bends + 1)]
        return cls(kind, torch.stack([a, *between, b]).detach())

    def coefficients(self, t: Tensor) -> Tensor:
        """c_j(t), (k, bends + 2), of t (k,) in float64."""
        return KINDS[self.kind](t, len(self.control) - 1).to(self.control)

    def at(self, t: Tensor) -> Tensor:
        """g(t), (k, p), of t (k,) in float64; at 0 and 1 the ends to the last digit."""
        points = self.coefficients(t) @ self.control
        points[t == 0], points[t == 1] = self.control[0], self.control[-1]
        return points

    def networks(self, t: Sequence[float], like: Sequence[Tensor], batch: int) -> Iterator[tuple[slice, list[Tensor]]]:
        """The networks at ascending t, `batch` at a time: which they are, and their weights (k, ...).

        Those at 0 and 1 come alone, so that their loss does not depend on company.

        Args:
            t: n numbers from 0 to 1.
            like: tensors (1, ...) that p weights are cut into.
            batch: networks at a time.
        """
        t = torch.as_tensor(t, dtype=torch.float64, device=self.control.device)
        first, last = int((t == 0).sum()), len(t) - int((t == 1).sum())
        cuts = [*range(first), *range(first, last, batch), *range(last, len(t) + 1)]
        for start, stop in zip(cuts, cuts[1:]):
            yield slice(start, stop), unflatten(self.at(t[start:stop]), like)


def train_bends(curves: Sequence[Curve], like: Sequence[Tensor],
                loss_and_gradients: Callable[[list[Tensor], int], tuple[Tensor, list[Tensor]]],
                steps: int, lr: float, seed: int) -> Iterator[np.ndarray]:
    """Train the bends of k curves side by side, in place, by Adam; yields the losses (k,) at each step's t.

    All curves take the same t in a step, and each of them moves as it would alone (up to rounding). An update whose
    loss or gradient is not finite (or too large to be squared) is left out; its loss is given as NaN. The learning rate
    stays for half of the steps, falls linearly to a hundredth at 90 % of them and stays there, as in Garipov et al.

    Args:
        curves: with end points of one size p.
        like: tensors (1, ...) that p weights are cut into.
        loss_and_gradients: weights (k, ...), number of the step -> losses (k,) and their gradients (k, ...).
        steps: of Adam, each with one t.
        lr: learning rate.
        seed: of the t.
    """
    bends = [curve.control[1:-1] for curve in curves]
    optimizer = torch.optim.Adam(bends, lr=lr)
    ts = torch.rand(steps, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for step, t in enumerate(ts.to(bends[0].device).split(1)):
        points = torch.cat([curve.at(t) for curve in curves])
        losses, gradients = loss_and_gradients(unflatten(points, like), step)
        slopes = flatten(gradients, gradients).detach()
        losses = losses.detach().to(slopes.device, torch.float64)
        usable = losses.isfinite() & dot(slopes, slopes).isfinite()
        for curve, bend, slope, take in zip(curves, bends, slopes, usable.tolist(), strict=True):
            bend.grad = torch.outer(curve.coefficients(t)[0, 1:-1], slope) if take else None
        optimizer.param_groups[0]["lr"] = lr * min(1.0, max(0.01, 1 - 0.99 * (step / steps - 0.5) / 0.4))
        optimizer.step()
        yield torch.where(usable, losses, torch.nan).cpu().numpy()


class Measures(NamedTuple):
    """How well a path connects its ends; NaN where an end has no finite loss."""

    barrier: float  # the most by which the loss exceeds the straight line between those of the ends; >= 0
    barrier_t: float  # where
    barrier_log10: float  # the same of log10 of the loss
    mc: float  # below 0: a barrier; above: lower loss in between
    mc_t: float  # t*
    mc_log10: float  # the same of log10 of the loss


def measure(t: np.ndarray, loss: np.ndarray) -> Measures:
    """Measures of a path with losses (n,) at ascending t (n,); a loss that is not finite counts as inf.

    Raises:
        ValueError: when t does not go from 0 to 1.
    """
    if t[0] != 0 or t[-1] != 1:
        raise ValueError(f"t must go from 0 to 1, got {t[0]} to {t[-1]}")
    if not np.isfinite(loss[[0, -1]]).all():
        return Measures(*[math.nan] * 6)
    loss = np.where(np.isfinite(loss), loss, np.inf)
    barrier, barrier_t, mc, mc_t = _barrier_and_mc(t, loss)
    barrier_log10, _, mc_log10, _ = _barrier_and_mc(t, log10(loss))
    return Measures(barrier, barrier_t, barrier_log10, mc, mc_t, mc_log10)


def _barrier_and_mc(t: np.ndarray, loss: np.ndarray) -> tuple[float, float, float, float]:
    """Barrier and its t, mc and its t."""
    excess, below = loss - (1 - t) * loss[0] - t * loss[-1], (loss[0] - loss) / 2 + (loss[-1] - loss) / 2
    top, high, low = excess.argmax(), below.argmin(), below.argmax()
    far = high if -below[high] >= below[low] else low
    return float(excess[top]), float(t[top]), float(below[far]), float(t[far])
