"""The residual of the Darcy equation on grid functions: p_i = ||D_i u - g_i|| / ||f||, D u ~ -div(a grad u).

Every D here is a conservative difference of fluxes over the distance d,

    D u(x, y) = [k(x - d/2, y) (u(x, y) - u(x - d, y)) - k(x + d/2, y) (u(x + d, y) - u(x, y))] / d^2 + the same in y

published   d = 2h and k = a at the node midway: the central differences of the published code. Its rows are the
            (S - 4)^2 inner nodes; the four parity sub-lattices do not know of each other. g = f.
flux        d = h and k the effective conductivity of a face, upscaled from the data's own grid; (S - 2)^2 rows. g = f.
corrected   `flux` with g = f + tau, tau = D(R u*) - f, where R u* is the restricted solution of the data: the
            tau-correction of multigrid (Brandt 1977), p = ||D(u - R u*)|| / ||f||. It vanishes at the solution, but it
            uses the solutions that it is trained on: a second data term, in a norm with derivatives.

The solution of the data's grid does not satisfy D u = f on a coarser one: p there is what D gets wrong.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from .fields import Fields

RESIDUALS = ("published", "flux", "corrected")
BLOCK = 16  # fields that are upscaled at a time


def upscale(a: np.ndarray, stride: int) -> np.ndarray:
    """Conductivities of the faces along the first axis, (n, S - 1, S - 2), of nodal values a (n, N, N) float64.

    A face stands for `stride` fine faces (arithmetic means of two nodes, as in the solver of the data) one behind the
    other on each line of the control volume, at most stride/2 to either side; lines at exactly stride/2 belong half to
    the neighbour. Resistances add up along, conductivities across. Along first gives a lower bound, across first an
    upper one (Cardwell and Parsons 1945); taken is their geometric mean (Renard and de Marsily 1997). At stride 7 and
    r = 2, 4, 10 (40 fields) its J* of `floors.py` is 17, 25, 18 % below that of the lower bound, 30, 37, 37 % below
    that of the upper one, and the solution of D u = f lies about half as far from the truth as with the lower one; p at
    the truth is 2, 6, 12 % larger. Nine lines raise J* by 45 to 49 %; five lower it at r = 10 only, by 6 %. At stride 1
    all are the scheme of the data. Faces of interior nodes only.
    """
    faces = (a[:, 1:] + a[:, :-1]) / 2
    half, interior = stride // 2, np.arange(stride, a.shape[2] - 1, stride)
    weights = np.full(2 * half + 1, 1 / stride)
    if stride % 2 == 0:
        weights[[0, -1]] /= 2

    def series(k: np.ndarray) -> np.ndarray:
        return 1 / (1 / k).reshape(len(k), -1, stride, k.shape[2]).mean(2)

    def parallel(k: np.ndarray) -> np.ndarray:
        return sum(w * k[:, :, interior + offset] for w, offset in zip(weights, range(-half, half + 1)))

    return np.sqrt(parallel(series(faces)) * series(parallel(faces)))


class Residual:
    """D and g of n coefficient fields.

    Args:
        kind: one of RESIDUALS.
        fields: a on N x N nodes, f, and for `corrected` the solutions.
        stride: of the residual's grid in nodes of the data: S = (N - 1)/stride + 1 nodes a side.
        device, dtype: of the tensors, here and in `relative`.

    Attributes:
        size: S.
        reach: d/h, 2 for `published`, else 1.

    Raises:
        ValueError: for an unknown kind, a stride that does not divide N - 1, a grid without rows, and for `corrected` a
            stride that is no multiple of that of the solutions.
    """

    def __init__(self, kind: str, fields: Fields, stride: int, device: torch.device | str = "cpu",
                 dtype: torch.dtype = torch.float32) -> None:
        if kind not in RESIDUALS:
            raise ValueError(f"residual {kind!r}: one of {', '.join(RESIDUALS)}")
        if stride < 1 or (fields.size - 1) % stride:
            raise ValueError(f"stride {stride} does not divide the {fields.size - 1} intervals of the data")
        self.kind, self.reach = kind, 2 if kind == "published" else 1
        self.size = (fields.size - 1) // stride + 1
        if self.size < 2 * self.reach + 1:
            raise ValueError(f"stride {stride} leaves {self.size} nodes a side, residual {kind} needs {2*self.reach+1}")
        self.f = fields.f
        self._scale = ((self.size - 1) / self.reach) ** 2  # 1 / d^2
        shape = (len(fields), self.size - self.reach, self.size - 2 * self.reach)
        self._x = torch.empty(shape, dtype=dtype, device=device)  # k of the fluxes along x, along y
        self._y = torch.empty(shape[0], shape[2], shape[1], dtype=dtype, device=device)
        for start in range(0, len(fields), BLOCK):
            rows = slice(start, start + BLOCK)
            for mine, new in zip((self._x, self._y), self._conductivities(fields, stride, rows)):
                mine[rows] = torch.from_numpy(new)
        self._rhs: Tensor | None = None
        if kind == "corrected":
            if stride % fields.stride:
                raise ValueError(f"residual corrected needs solutions at stride {stride}; the data have every "
                                 f"{fields.stride}-th node")
            step = stride // fields.stride
            u = torch.from_numpy(np.ascontiguousarray(fields.u[:, ::step, ::step])).to(self._x)
            self._rhs = self.apply(u)

    def _conductivities(self, fields: Fields, stride: int, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        if self.kind == "published":
            a = fields.coefficient(stride, rows)
            return a[:, 1:-1, 2:-2], a[:, 2:-2, 1:-1]
        a = fields.coefficient(1, rows)
        return upscale(a, stride), upscale(a.transpose(0, 2, 1), stride).transpose(0, 2, 1)

    def __len__(self) -> int:
        return len(self._x)

    def apply(self, u: Tensor, rows: Tensor | slice = slice(None)) -> Tensor:
        """D u (b, m, m), m = S - 2 reach, of u (b, S, S) that belong to the fields `rows`."""
        d = self.reach
        inner = slice(d, -d)
        # u / d^2 would lose the digits that neighbours share: differences come first
        x = self._x[rows] * (u[:, d:, inner] - u[:, :-d, inner])
        y = self._y[rows] * (u[:, inner, d:] - u[:, inner, :-d])
        return ((x[:, :-d] - x[:, d:]) + (y[:, :, :-d] - y[:, :, d:])) * self._scale

    def relative(self, u: Tensor, rows: Tensor | slice = slice(None)) -> Tensor:
        """p (b,) = ||D u - g|| / ||f|| of u (b, S, S) that belong to the fields `rows` ((b,) indices or a slice)."""
        difference = self.apply(u, rows) - (self.f if self._rhs is None else self._rhs[rows])
        return torch.linalg.vector_norm(difference, dim=(1, 2)) / self.norm

    @property
    def norm(self) -> float:
        """||f|| over the m^2 rows."""
        return abs(self.f) * (self.size - 2 * self.reach)

    def matrix(self, row: int) -> tuple[sparse.csr_array, np.ndarray]:
        """D of one field as a float64 matrix (m^2, (S - 2)^2) on the interior nodes, and g (m^2,)."""
        m, d, size = self.size - 2 * self.reach, self.reach, self.size
        x, y = (k[row].double().cpu().numpy() * self._scale for k in (self._x, self._y))
        west, east, south, north = x[:-d], x[d:], y[:, :-d], y[:, d:]
        i, j = np.meshgrid(*2 * (np.arange(d, size - d),), indexing="ij")
        entries = ((0, 0, west + east + south + north), (-d, 0, -west), (d, 0, -east), (0, -d, -south), (0, d, -north))
        node = -np.ones((size, size), dtype=np.int64)  # of unknowns; -1 on the boundary, where u = 0
        node[1:-1, 1:-1] = np.arange((size - 2) ** 2).reshape(size - 2, size - 2)
        columns = np.stack([node[i + di, j + dj].ravel() for di, dj, _ in entries])
        values = np.stack([value.ravel() for _, _, value in entries])
        lines = np.broadcast_to(np.arange(m * m), columns.shape)
        kept = columns >= 0
        matrix = sparse.csr_array((values[kept], (lines[kept], columns[kept])), shape=(m * m, (size - 2) ** 2))
        if self._rhs is None:
            return matrix, np.full(m * m, self.f)
        return matrix, self._rhs[row].double().cpu().numpy().ravel()

    def lattice(self) -> np.ndarray:
        """The rows of `matrix`, (m^2,), one decoupled sub-lattice after the other."""
        m, d = self.size - 2 * self.reach, self.reach
        rows = np.arange(m * m).reshape(m, m)
        return np.concatenate([rows[i::d, j::d].ravel() for i in range(d) for j in range(d)])
