"""The three systems, linear with constant coefficients on the periodic unit square, and their exact discrete solution.

    poisson     -div(K grad u) = f                              K = 0.01 R(-t) diag(1, e) R(t), e in [e1, e2]
    advdiff     -(1-L) div(K grad u) + L v.grad u = f           e in [1, 5], |v| = 1, L by Psi in [adr1, adr2]
    helmholtz   -(0.01 Laplace u + w u) = f                     w a whole number in [o1, o2]

The symbol of the operator is linear in the stored coefficients (`tensor`): A(k) = sum_j tensor_j s_j(k), and on the
N x N grid, x_j = j/N, u = Re ifft2(fft2(f) / A), in arrays [iy, ix]. The published code counts the Nyquist frequency as
+N/2 and drops the imaginary part; `solve` does the same with real transforms. A new system is a subclass of `System`
and an entry in `SYSTEMS`.
"""

import math
from functools import cache

import numpy as np
import torch
from torch import Tensor

from fno.psi import PSI_MODES, find_lambda, lambda_grid, nearest, realised
from fno.streams import VF, amplitudes, uniforms

SIGMA = 1 / 32  # width of the Gaussians of the forcing; their centres are 2 sigma apart
DIFFUSION = 0.01


class Grid:
    """N x N points, N even, and the half spectrum of rfft2 on it: M = N (N/2 + 1) modes, ky slow and kx fast.

    Attributes:
        bumps: (q, N) Gaussians in one dimension, q^2 = ng of them in two.
        k: (2, M) frequencies kx, ky; Nyquist is +N/2.
        edge: indices of the Nyquist modes; `mirror` (2, .) holds -k for them, in which Nyquist is +N/2 again.
        weight: (M,) multiplicity of a mode in the full spectrum; 0 at Nyquist, where no derivative of a real function
            is defined.
    """

    def __init__(self, n: int = 128, ng: int = 144, dtype: torch.dtype = torch.float64,
                 device: torch.device | str = "cpu") -> None:
        q, to = math.isqrt(ng), {"dtype": dtype, "device": device}
        self.n = n
        centres = 0.5 + 2 * SIGMA * (np.arange(q) - (q - 1) / 2)
        bumps = np.exp(-(((np.arange(n) / n - centres[:, None]) / SIGMA) ** 2) / 2)
        ky = np.abs(np.fft.fftfreq(n, 1 / n)) * np.where(np.arange(n) > n // 2, -1, 1)
        k = np.stack([a.ravel() for a in np.meshgrid(np.arange(n // 2 + 1), ky)])
        nyquist = (k == n // 2).any(0)
        self.bumps, self.k = torch.tensor(bumps, **to), torch.tensor(k, **to)
        self.edge = torch.tensor(np.flatnonzero(nyquist), device=device)
        self.mirror = torch.tensor(np.where(k == n // 2, k, -k)[:, nyquist], **to)
        self.weight = torch.tensor(np.where(nyquist, 0, np.where(k[0] == 0, 1, 2)), **to)

    def forcing(self, p: Tensor, zero_mean: bool) -> Tensor:
        """f = g / max g with g = bumps^T P bumps, mean removed where asked: (B, N, N) from amplitudes (B, ng).

        p is row-major with y slow.
        """
        q, n = self.bumps.shape
        rows = self.bumps.T @ p.view(-1, q, q)
        g = (rows.view(-1, q) @ self.bumps).view(-1, n, n)
        g.mul_(1 / g.amax((1, 2), keepdim=True))
        return g.sub_(g.mean((1, 2), keepdim=True)) if zero_mean else g

    def transform(self, f: Tensor) -> Tensor:
        """Half spectrum (B, M) of (B, N, N)."""
        return torch.fft.rfft2(f).flatten(1)

    def energy(self, f_hat: Tensor) -> Tensor:
        """Sum of |f_hat|^2 over the full spectrum without Nyquist, (B,), from a half spectrum (B, M)."""
        return torch.view_as_real(f_hat).flatten(1).square() @ self.weight.repeat_interleave(2)


class System:
    """What the systems share; subclasses say which symbols and coefficients they have.

    Attributes:
        name, title: on the command line and in words.
        physical: name of the swept range in run folders; `tag` in file names; `flag` of the generator (e: --e1, --e2).
        number: type of the bounds, `defaults` of the generator.
        coefficients: names of the columns of `tensor`; the last `odd` of them multiply imaginary symbols.
        columns: how many uniforms the coefficients of a sample take.
        zero_mean: f and u have mean zero.
        largest: draws whose max|u| exceeds it are rejected and drawn again.
        folder: where the data are looked for, below FNO/.
    """

    name: str
    title: str
    physical: str
    tag: str
    flag: str
    number: type = float
    defaults: tuple[float, float]
    coefficients: tuple[str, ...]
    odd = 0
    columns: int
    zero_mean = True
    largest = math.inf
    psi_modes: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        """Default folder of the data below FNO/."""
        return f"data/{self.name}"

    @property
    def flags(self) -> tuple[str, str]:
        """Names of the two bounds: e1, e2."""
        return f"{self.flag}1", f"{self.flag}2"

    @property
    def key(self) -> int:
        """Number of the system's random streams."""
        return list(SYSTEMS).index(self.name)

    @property
    def datasets(self) -> tuple[str, ...]:
        """Names of the datasets in a file."""
        return "fields", "tensor"

    def stem(self, lower: float, upper: float) -> str:
        """How a range is called in file names: k1.0_2.5, adr0.2_0.4, o1_10."""
        return f"{self.tag}{self.number(lower)!r}_{self.number(upper)!r}"

    def symbols(self, k: Tensor) -> Tensor:
        """s_j(k), (coefficients, M), from frequencies (2, M); of the odd ones the imaginary part."""
        raise NotImplementedError

    def tensor(self, u: Tensor, bounds: tuple[float, float], f_hat: Tensor, grid: Grid,
               psi: str) -> tuple[Tensor, Tensor | None]:
        """Coefficients (B, .) from uniforms u (B, columns), and the realised Psi (B, 1) where there is one."""
        raise NotImplementedError


def anisotropic(e: Tensor, angle: Tensor) -> Tensor:
    """K = R(-t) diag(1, e) R(t), (B, 3) as k11, k22, k12: eigenvalues 1 and e."""
    c, s = angle.cos(), angle.sin()
    return torch.stack([c * c + e * s * s, s * s + e * c * c, (e - 1) * s * c], 1)


class Poisson(System):
    """-div(K grad u) = f."""

    name, title, physical, tag, flag = "poisson", "2D Poisson", "k", "k", "e"
    defaults, coefficients, columns = (1.0, 2.5), ("k11", "k22", "k12"), 2

    def symbols(self, k: Tensor) -> Tensor:
        """4 pi^2 (kx^2, ky^2, 2 kx ky)."""
        return 4 * math.pi**2 * torch.stack([k[0] ** 2, k[1] ** 2, 2 * k[0] * k[1]])

    def tensor(self, u, bounds, f_hat, grid, psi) -> tuple[Tensor, None]:
        """e uniform in the range, angle uniform."""
        return DIFFUSION * anisotropic(bounds[0] + (bounds[1] - bounds[0]) * u[:, 0], 2 * math.pi * u[:, 1]), None


class AdvectionDiffusion(Poisson):
    """-(1-L) div(K grad u) + L v.grad u = f, with L chosen for a target Psi drawn from the range."""

    name, title, physical, tag, flag = "advdiff", "2D advection-diffusion", "psi", "adr", "adr"
    defaults, coefficients, columns, odd = (0.2, 1.0), ("k11", "k22", "k12", "v1", "v2"), 4, 2
    psi_modes = PSI_MODES

    @property
    def datasets(self) -> tuple[str, ...]:
        """`other` is the realised Psi."""
        return "fields", "tensor", "other"

    def symbols(self, k: Tensor) -> Tensor:
        """Those of diffusion, and 2 pi (kx, ky)."""
        return torch.cat([super().symbols(k), 2 * math.pi * k])

    def parts(self, u: Tensor, f_hat: Tensor, grid: Grid) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """0.01 K (B, 3), v (B, 2), spectral energy of f (B, M) and squared ratio (v.k / k.K k)^2 of symbols (B, M)."""
        diffusion = DIFFUSION * anisotropic(1 + 4 * u[:, 0], 2 * math.pi * u[:, 1])
        v = torch.stack([(2 * math.pi * u[:, 2]).cos(), (2 * math.pi * u[:, 2]).sin()], 1)
        symbols = _symbols(self, grid)[0]
        ratio = (v.to(f_hat.real.dtype) @ symbols[3:]) / (diffusion.to(f_hat.real.dtype) @ symbols[:3])
        ratio[:, 0] = 0  # 0/0 in the mean, which f does not have
        energy = (f_hat.real.square() + f_hat.imag.square()).mul_(grid.weight)
        return diffusion, v, energy, ratio.square_()

    def tensor(self, u, bounds, f_hat, grid, psi) -> tuple[Tensor, Tensor]:
        """(1-L) 0.01 K and L v; `table` takes the L whose mean Psi is nearest to the target, `exact` solves for it."""
        diffusion, v, energy, ratio = self.parts(u, f_hat, grid)
        target = bounds[0] + (bounds[1] - bounds[0]) * u[:, 3]
        lam = find_lambda(energy, ratio, target) if psi == "exact" else nearest(target, *lambda_table())
        tensor = torch.cat([(1 - lam)[:, None] * diffusion, lam[:, None] * v], 1)
        return tensor, realised(energy, ratio, lam)[:, None]


class Helmholtz(System):
    """-(0.01 Laplace u + w u) = f. The irrational 0.01 4 pi^2 |k|^2 never equals w, but may come near it."""

    name, title, physical, tag, flag, number = "helmholtz", "2D Helmholtz", "o", "o", "o", int
    defaults, coefficients, columns, zero_mean, largest = (1, 10), ("diffusion", "w"), 1, False, 2.0

    def symbols(self, k: Tensor) -> Tensor:
        """4 pi^2 |k|^2 and -1."""
        return torch.stack([4 * math.pi**2 * (k[0] ** 2 + k[1] ** 2), -torch.ones_like(k[0])])

    def tensor(self, u, bounds, f_hat, grid, psi) -> tuple[Tensor, None]:
        """W uniform among the whole numbers of the range."""
        w = bounds[0] + (u[:, 0] * (bounds[1] - bounds[0] + 1)).floor()
        return torch.stack([torch.full_like(w, DIFFUSION), w], 1), None


SYSTEMS: dict[str, System] = {s.name: s for s in (Poisson(), AdvectionDiffusion(), Helmholtz())}


# ---- solution ----------------------------------------------------------------------------------


@cache
def _symbols(system: System, grid: Grid) -> tuple[Tensor, Tensor]:
    """Symbols on the half spectrum, and at the mirror images of its Nyquist modes."""
    return system.symbols(grid.k), system.symbols(grid.mirror)


def _symbol(system: System, tensor: Tensor, symbols: Tensor) -> Tensor:
    """A(k), (B, .), real where the system has no odd symbols."""
    even = len(symbols) - system.odd
    real = tensor[:, :even] @ symbols[:even]
    return torch.complex(real, tensor[:, even:] @ symbols[even:]) if system.odd else real


def solve(system: System, f_hat: Tensor, tensor: Tensor, grid: Grid) -> Tensor:
    """u = Re ifft2(f_hat / A), (B, N, N), from the half spectrum f_hat (B, M) and coefficients (B, .).

    The real part of a full inverse transform is the real inverse transform of the Hermitian part, (G(k) + conj G(-k))/2
    with G = 1/A. Both terms are the same but at Nyquist, whose mirror image is counted as +N/2 too.
    """
    here, there = _symbols(system, grid)
    inverse = _symbol(system, tensor, here).reciprocal_()
    mirrored = _symbol(system, tensor, there).reciprocal_()
    inverse[:, grid.edge] = (inverse[:, grid.edge] + mirrored.conj()) / 2
    u_hat = f_hat * inverse
    if system.zero_mean:
        u_hat[:, 0] = 0
    return torch.fft.irfft2(u_hat.unflatten(1, (grid.n, -1)), s=(grid.n, grid.n))


def residual(system: System, f_hat: Tensor, u: Tensor, tensor: Tensor, grid: Grid) -> Tensor:
    """||A u - f|| / ||f||, (B,), of u (B, N, N) on the grid.

    Nyquist modes are left out: there a real function has no derivative of odd order, and A u = f is no equation for u.
    """
    found = grid.transform(u).mul_(_symbol(system, tensor, _symbols(system, grid)[0]))
    return (grid.energy(found.sub_(f_hat)) / grid.energy(f_hat)).sqrt()


@cache
def lambda_table(samples: int = 400) -> tuple[Tensor, Tensor]:
    """The 59 values of lambda and the mean Psi of each, (59,) float64, over a fixed stream of samples.

    On 64 x 64 points, which resolve the forcing (its spectrum has fallen by e^-39 at their Nyquist frequency).
    """
    system, grid, ng, means = SYSTEMS["advdiff"], Grid(64), 144, []
    for block in range(len(VF)):
        rows = uniforms(0, system.key, "table", block, np.arange(samples // len(VF)), system.columns + 2 * ng + 1)
        p = torch.from_numpy(amplitudes(rows[:, system.columns:], ng, block))
        f_hat = grid.transform(grid.forcing(p, system.zero_mean))
        energy, ratio = system.parts(torch.from_numpy(rows), f_hat, grid)[2:]
        means.append(torch.stack([realised(energy, ratio, lam.expand(len(p))).mean() for lam in lambda_grid()]))
    return lambda_grid(), torch.stack(means).mean(0)


# ---- names of the files ------------------------------------------------------------------------


def file_name(system: System, split: str, lower: float, upper: float) -> str:
    """The published name of a data file, which says 32k or 4k whatever the size: _train_k1.0_2.5_32k.h5."""
    return f"_{split}_{system.stem(lower, upper)}_{'32k' if split == 'train' else '4k'}.h5"


def scales_name(system: System, lower: float, upper: float) -> str:
    """The name of the scales of a training file: _train_k1.0_2.5_32k_scales.npy."""
    return file_name(system, "train", lower, upper).removesuffix(".h5") + "_scales.npy"
