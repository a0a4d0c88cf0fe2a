"""Darcy flow through a medium of two phases: random sign fields, and the solver of their equation.

    -div(a grad u) = f  on the unit square,  u = 0 on the boundary,  a = high where z >= 0, else low

z is a Gaussian random field on N x N nodes, boundary included; only its sign matters. Kinds:

    periodic   covariance (-Laplace + tau^2)^(-alpha) with periodic boundary conditions, zero mean: white noise w on the
               grid, filtered: z = F^-1[(4 pi^2 |k|^2 + tau^2)^(-alpha/2) F w], without k = 0; isotropic
    neumann    the same with Neumann conditions, as in the benchmark of Li et al. (arXiv 2010.08895): a cosine series
               with standard deviations (pi^2 |k|^2 + tau^2)^(-alpha/2); fields about 1.6 times as coarse
    published  periodic, drawn as complex numbers on the half spectrum, of which the inverse real transform drops half
               where k2 = 0: modes (k, 0) have half the variance of modes (0, k)

The operator is the 5-point flux form, with the mean of two nodes as the conductivity of the face between them:

    (A u)_ij = sum over the four neighbours k l of (a_ij + a_kl)/2 (u_ij - u_kl) / h^2,  h = 1/(N - 1)

It is solved by conjugate gradients in float64, preconditioned by the Poisson problem of a = 1 (fast sine transform,
float32), which bounds the condition number by the contrast high/low whatever N is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy.fft
import torch
from torch import Tensor

GRF = ("periodic", "neumann", "published")
SPLITS = ("train", "test")
TOL = 1e-8  # relative residual; u is then within 1e-11 of sparse LU (relative L2; measured, N = 421, r = 4, 10)
BATCH = {"cpu": 1, "cuda": 64}  # samples at a time: on a CPU what stays in the cache


# ---- sign fields -------------------------------------------------------------------------------


def sign_fields(rows: range, seed: int, size: int, grf: str = "periodic", tau: float = 3.0, alpha: float = 2.0,
                split: str = "train") -> np.ndarray:
    """Draw z >= 0 of some samples on size x size nodes, (len(rows), N, N) bool.

    A sample depends on its row, seed and split alone, so that a smaller set is the beginning of a larger one.
    """
    amplitude = _amplitude(size, grf, tau, alpha)
    signs = np.empty((len(rows), size, size), bool)
    for sign, row in zip(signs, rows):
        sequence = np.random.SeedSequence(seed, spawn_key=(SPLITS.index(split), row))
        sign[:] = _field(np.random.Generator(np.random.Philox(sequence)), amplitude, grf) >= 0
    return signs


def _amplitude(size: int, grf: str, tau: float, alpha: float) -> np.ndarray:
    """Standard deviation of the modes, up to a factor: (N, N) for neumann, else (N, N // 2 + 1)."""
    if grf == "neumann":
        one = two = np.arange(size)
    else:
        one, two = size * np.fft.fftfreq(size), np.arange(size // 2 + 1)
    unit = {"periodic": 4, "neumann": 1, "published": 4}[grf] * math.pi**2
    square = unit * (one[:, None] ** 2 + two[None, :] ** 2) + tau**2
    amplitude = (square / square[0, 0]) ** (-alpha / 2)  # at most 1: no overflow
    amplitude[0, 0] = 0
    return amplitude


def _field(random: np.random.Generator, amplitude: np.ndarray, grf: str) -> np.ndarray:
    """Draw z of one sample up to a factor, (N, N)."""
    size = len(amplitude)
    if grf == "neumann":  # sum of c(k1) c(k2) s(k) xi(k) cos(pi k1 x) cos(pi k2 y), c(0) = 1, c(k > 0) = sqrt(2)
        factor = np.full(size, math.sqrt(0.5))  # DCT-I counts twice all but the first and the last
        factor[0], factor[-1] = 1, math.sqrt(2)
        return scipy.fft.dctn(factor[:, None] * factor * amplitude * random.standard_normal((size, size)), type=1)
    if grf == "periodic":
        modes = scipy.fft.rfft2(random.standard_normal((size, size)))
    else:
        modes = random.standard_normal((*amplitude.shape, 2)).view(np.complex128)[..., 0]
    return scipy.fft.irfft2(amplitude * modes, (size, size))


# ---- solver ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Solution:
    """Solutions u (B, N, N), zero on the boundary, their relative residuals ||f - A u|| / ||f|| (B,), and the number
    of iterations (B,)."""

    u: Tensor
    residual: Tensor
    iterations: Tensor


class NotConverged(ArithmeticError):
    """The relative residual stays above the tolerance."""


def solve(a: Tensor, f: float = 1.0, tol: float = TOL) -> Solution:
    """Solve -div(a grad u) = f, u = 0 on the boundary, for nodal values a (B, N, N), float64, on the device of a.

    Raises:
        ValueError: for another shape or type, and where a is not positive and finite.
        NotConverged: where the relative residual does not come down to `tol`. Rounding alone leaves about
            1e-17 (N - 1)^2, 2e-12 at N = 421.
    """
    if a.ndim != 3 or a.shape[1] != a.shape[2] or a.shape[1] < 3 or a.dtype != torch.float64:
        raise ValueError(f"a must be (B, N, N) in float64 with N >= 3, got {tuple(a.shape)}, {a.dtype}")
    if not bool(((a > 0) & (a < math.inf)).all()):
        raise ValueError("a must be positive and finite")
    if len(a) == 0:
        return Solution(a.clone(), a.new_empty(0), a.new_empty(0, dtype=torch.int64))
    poisson = _Poisson(a.shape[1], a.device, dense=a.device.type != "cpu")
    parts = [_solve_batch(part, poisson, tol) for part in a.split(BATCH.get(a.device.type, 1))]
    u, residual, iterations = (torch.cat(part) for part in zip(*parts))
    return Solution(u.mul_(f / (a.shape[1] - 1) ** 2), residual, iterations)


class _Poisson:
    """Approximate inverse of h^2 A for a = 1: diagonal in the sine basis, applied in float32."""

    def __init__(self, size: int, device: torch.device, dense: bool) -> None:
        """Eigenvalues 4 sin^2(pi k / (2 (N-1))) an axis, k = 1..N-2; dense: products with the sine matrix, for GPUs."""
        k = torch.arange(1, size - 1, dtype=torch.float64, device=device)
        one = 4 * torch.sin(math.pi * k / (2 * (size - 1))) ** 2
        scale = (2 * (size - 1)) ** -2  # DST-I twice multiplies by 2 (N-1) an axis
        self.inverse = (scale / (one[:, None] + one)).float()
        self.sines = None
        if dense:
            self.sines = (2 * torch.sin(math.pi / (size - 1) * torch.outer(k, k))).float()

    def __call__(self, r: Tensor) -> Tensor:
        """Apply it to (B, N-2, N-2); float32."""
        return self._transform(self._transform(r.float()).mul_(self.inverse))

    def _transform(self, x: Tensor) -> Tensor:
        if self.sines is not None:
            return self.sines @ x @ self.sines
        workers = torch.get_num_threads()
        return torch.from_numpy(scipy.fft.dstn(x.numpy(), type=1, axes=(1, 2), overwrite_x=True, workers=workers))


class _Operator:
    """h^2 A on the inner nodes: fluxes through the faces, and their differences."""

    def __init__(self, a: Tensor) -> None:
        """Conductivities of the faces across x (B, N-1, N-2) and across y (B, N-2, N-1)."""
        self.x = (a[:, :-1, 1:-1] + a[:, 1:, 1:-1]) / 2
        self.y = (a[:, 1:-1, :-1] + a[:, 1:-1, 1:]) / 2
        self._u, self._x, self._y = torch.zeros_like(a), torch.empty_like(self.x), torch.empty_like(self.y)
        self._out = torch.empty_like(self.x[:, 1:])

    def __call__(self, inner: Tensor) -> Tensor:
        """Apply it to (B, N-2, N-2); the result is overwritten by the next call."""
        u = self._u  # with its zero boundary
        u[:, 1:-1, 1:-1] = inner
        x = torch.sub(u[:, 1:, 1:-1], u[:, :-1, 1:-1], out=self._x).mul_(self.x)
        y = torch.sub(u[:, 1:-1, 1:], u[:, 1:-1, :-1], out=self._y).mul_(self.y)
        out = torch.sub(x[:, :-1], x[:, 1:], out=self._out)
        return out.add_(y[:, :, :-1]).sub_(y[:, :, 1:])


def _dot(x: Tensor, y: Tensor) -> Tensor:
    """Inner products of the samples, (B, 1, 1)."""
    return x.flatten(1)[:, None, :] @ y.flatten(1)[:, :, None]


def _solve_batch(a: Tensor, poisson: _Poisson, tol: float) -> tuple[Tensor, Tensor, Tensor]:
    """Solution of h^2 A u = 1 (B, N, N), relative residuals and iterations (B,)."""
    operator, size = _Operator(a), a.shape[1] - 2
    u = a.new_zeros(len(a), size, size)
    r, iterations = torch.ones_like(u), torch.zeros(len(a), dtype=torch.int64, device=a.device)
    # the bound of conjugate gradients, from the condition number and with room for the other norm of the residual
    contrast = float((a.amax((1, 2)) / a.amin((1, 2))).max())
    limit = 30 + int(20 * math.sqrt(contrast))
    for _ in range(3):  # again where the residual that is carried along has lost touch with the true one
        _conjugate_gradients(operator, poisson, u, r, tol, limit, iterations)
        torch.sub(1, operator(u), out=r)
        residual = (_dot(r, r).sqrt() / size).flatten()
        if bool((residual <= tol).all()):
            return torch.nn.functional.pad(u, (1, 1, 1, 1)), residual, iterations
    raise NotConverged(f"relative residual {float(residual.max()):.1e} after {int(iterations.max())} iterations, "
                       f"allowed {tol:.1e}")


def _conjugate_gradients(operator: _Operator, poisson: _Poisson, u: Tensor, r: Tensor, tol: float, limit: int,
                         iterations: Tensor) -> None:
    """Improve u, of residual r, until the residual of each sample is at most tol; r and iterations change too."""
    p, rz = torch.zeros_like(u), None
    for _ in range(limit):
        active = _dot(r, r) > (tol * r.shape[1]) ** 2
        if not bool(active.any()):
            return
        z = poisson(r).double()
        old, rz = rz, _dot(r, z)
        p.mul_(rz / old if old is not None else 0).add_(z)
        q = operator(p)
        step = torch.where(active, rz / _dot(p, q), 0)  # a finished sample stays as it is, whatever its batch does
        u.addcmul_(step, p)
        r.addcmul_(step, q, value=-1)
        iterations += active.flatten()
