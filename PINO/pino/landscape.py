# Twin of PINN/pinn/landscape.py - edit there and run: python experiments/twins.py --fix
"""The loss on a plane through the weights, and along its two axes (Fig. 5 of the paper).

    f(a, b) = L(theta + a d1 + b d2),    a, b in [-radius, radius]

The directions d1, d2 are eigenvectors of the Hessian or random, scaled by one of three rules (`normalise`):

    filter   each filter of d has the norm of that filter of theta, biases and other 1-D weights do not move
             (Li et al., Visualizing the Loss Landscape of Neural Nets, 2018)
    tensor   each tensor of d, biases too, has the norm of that tensor of theta (the published code)
    none     d has norm 1, as an eigenvector has

    d1, d2 = (normalise(d, params, filters, "filter") for d in random_directions(params, 2, seed=0))
    surface = Surface(radius=0.5, grid=51, line_points=201)
    for count in surface.evaluate(losses, params, d1, d2, batch=64):    # may be left and gone on with
        ...
    surface.loss, surface.line_1, surface.line_2
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

NORMALISATIONS = ("filter", "tensor", "none")
FLOOR = 1e-12  # below it, a loss is as good as none on a logarithmic scale

Losses = Callable[[list[Tensor]], Tensor]  # weights (k, ...) -> losses (k,)


def log10(loss: np.ndarray) -> np.ndarray:
    """log10(max(loss, 1e-12)); inf stays inf."""
    return np.log10(np.maximum(loss, FLOOR))


def random_directions(params: Sequence[Tensor], count: int, seed: int) -> list[list[Tensor]]:
    """Gaussian directions shaped like the parameters: the same numbers on every device and in every precision.

    The first ones do not depend on `count`.
    """
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p) for p in params]
            for _ in range(count)]


def with_sign(vectors: Tensor) -> Tensor:
    """Eigenvectors (k, p), known up to their sign, with the one that makes the largest component in magnitude positive.

    Whatever they were computed from, they then point the same way.
    """
    return vectors * vectors.gather(1, vectors.abs().argmax(1, keepdim=True)).sign()


def normalise(direction: Sequence[Tensor], params: Sequence[Tensor], filters: Sequence[int | None],
              how: str) -> list[Tensor]:
    """Scale a direction by one of the rules above; what has norm zero in it stays zero.

    Args:
        direction: (1, ...) a tensor, of any precision.
        params: theta, (1, ...) a tensor; the result has its precision and device.
        filters: a tensor each, the axis (not counting the first) that numbers its filters: output neurons or channels.
            None for biases and other 1-D weights.
        how: "filter", "tensor" or "none".

    Raises:
        ValueError: for any other rule.
    """
    if how not in NORMALISATIONS:
        raise ValueError(f"normalisation must be one of {', '.join(NORMALISATIONS)}, got {how}")
    if how == "none":
        total = sum(_norms(d, None).square().sum().item() for d in direction) ** 0.5
        scales = [1 / total if total else 0.0] * len(direction)
    elif how == "tensor":
        scales = [_ratio(p, d, None) for p, d in zip(params, direction, strict=True)]
    else:
        scales = [0.0 if axis is None else _ratio(p, d, axis)
                  for p, d, axis in zip(params, direction, filters, strict=True)]
    return [(d.to(p.device, torch.float64) * scale).to(p)
            for d, p, scale in zip(direction, params, scales, strict=True)]


def _norms(x: Tensor, axis: int | None) -> Tensor:
    """Norms of x (1, ...), a filter each or (axis None) of all of it, in float64 and shaped to multiply x."""
    kept = () if axis is None else (axis + 1,)
    return torch.linalg.vector_norm(x.detach().double(), dim=[k for k in range(x.ndim) if k not in kept], keepdim=True)


def _ratio(p: Tensor, d: Tensor, axis: int | None) -> Tensor:
    a, b = _norms(p, axis), _norms(d.to(p.device), axis)
    return torch.where(b > 0, a / b, 0.0)


class Surface:
    """f on a square grid and on the two lines b = 0 and a = 0; what is not evaluated yet is NaN.

    Args:
        radius: of the square and the lines, in units of the directions; above zero.
        grid: points a side.
        line_points: points a line.

    Attributes:
        a: (grid,) coordinates of the grid along both axes.
        line: (line_points,) those of the lines.
        values: (grid^2 + 2 line_points,) f; inf where the loss is not finite.
        done: as many, where f has been evaluated. These two are what goes on after an interruption.

    Raises:
        ValueError: for a number of points that is even, so that there is no centre, or below 3.
    """

    def __init__(self, radius: float, grid: int, line_points: int) -> None:
        self.a, self.line = coordinates(radius, grid), coordinates(radius, line_points)
        zero = np.zeros_like(self.line)
        self.points = np.concatenate([np.stack(np.meshgrid(self.a, self.a, indexing="ij"), -1).reshape(-1, 2),
                                      np.stack([self.line, zero], 1), np.stack([zero, self.line], 1)])
        self.values, self.done = np.full(len(self.points), np.nan), np.zeros(len(self.points), dtype=bool)

    @property
    def loss(self) -> np.ndarray:
        """f(a_i, b_j), (grid, grid)."""
        return self.values[:len(self.a) ** 2].reshape(len(self.a), -1)

    @property
    def line_1(self) -> np.ndarray:
        """f(a, 0), (line_points,)."""
        return self.values[-2 * len(self.line):-len(self.line)]

    @property
    def line_2(self) -> np.ndarray:
        """f(0, b), (line_points,)."""
        return self.values[-len(self.line):]

    def evaluate(self, losses: Losses, params: Sequence[Tensor], d1: Sequence[Tensor], d2: Sequence[Tensor],
                 batch: int) -> Iterator[int]:
        """Evaluate what is not done yet, yielding the number of points done so far after each call of `losses`.

        At the centre the weights are given as they are, alone, so that f(0, 0) is their loss to the last digit.

        Args:
            losses: weights (k, ...) -> their losses (k,), k at most `batch`.
            params: theta, (1, ...) a tensor; never written to.
            d1: first direction, shaped like theta; d2: the second.
            batch: points evaluated together.
        """
        centre = (self.points == 0).all(1)
        if not self.done[centre].all():
            yield self._enter(np.flatnonzero(centre), losses([p.detach() for p in params]))
        waiting = np.flatnonzero(~self.done)
        for first in range(0, len(waiting), batch):
            rows = waiting[first:first + batch]
            yield self._enter(rows, losses(moved(params, d1, d2, self.points[rows])))

    def _enter(self, rows: np.ndarray, losses: Tensor) -> int:
        found = losses.detach().double().cpu().numpy()
        self.values[rows] = np.where(np.isfinite(found), found, np.inf)
        self.done[rows] = True
        return int(self.done.sum())


def coordinates(radius: float, count: int) -> np.ndarray:
    """`count` equidistant numbers from -radius to radius, with zero in the middle exactly.

    Raises:
        ValueError: for a count that is even or below 3.
    """
    if count < 3 or count % 2 == 0:
        raise ValueError(f"the number of points must be odd, to have a centre, and at least 3, got {count}")
    half = count // 2
    return np.arange(-half, half + 1) / half * radius


@torch.no_grad()
def moved(params: Sequence[Tensor], d1: Sequence[Tensor], d2: Sequence[Tensor], points: np.ndarray) -> list[Tensor]:
    """The networks theta + a d1 + b d2 at points (k, 2), side by side: (k, ...) a tensor."""
    out = []
    for p, u, v in zip(params, d1, d2, strict=True):
        a, b = torch.as_tensor(points.T, dtype=p.dtype, device=p.device).view(2, -1, *[1] * (p.ndim - 1))
        out.append(p + a * u + b * v)
    return out
