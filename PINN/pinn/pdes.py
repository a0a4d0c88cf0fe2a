"""The four systems of the paper on t in [0, 1]: residual, conditions, and the solution to test against.

    convection           u_t + beta u_x = 0                     u(x, 0) = sin x             periodic in x in [0, 2 pi]
    reaction             u_t - rho u (1 - u) = 0                u(x, 0) = h(x)              periodic
    wave                 u_tt - c^2 u_xx = 0                    u(x, 0) = sin(pi x) + sin(beta pi x) / 2, u_t(x, 0) = 0,
                                                                u(0, t) = u(1, t) = 0 in x in [0, 1]
    reaction_diffusion   u_t - nu u_xx - rho u (1 - u) = 0      u(x, 0) = h(x)              periodic, u_x too

with h(x) = exp(-(x - pi)^2 / (2 sigma^2)), sigma = pi/4. The physical difficulty of a regime map is beta, rho, c and
rho. A new system is a subclass of `System` and an entry in `SYSTEMS`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pinn.model import Operator

Parameters = Mapping[str, Tensor]  # physical parameters by name, (R,) each


@dataclass(frozen=True)
class Component:
    """One vector of residuals c_i. `term` says which of the three logged losses its mean square belongs to."""

    name: str
    term: str


class System:
    """A system with periodic boundary values, u_t + ... = f(u); subclasses say what differs.

    Attributes:
        name: as on the command line.
        physical: the parameter that is swept; it has no default.
        defaults: the other parameters.
        x_range: the interval of x; t runs over [0, 1].
        components: residual vectors in the order of the bits of `--alm_hc`.
        derivative: where the conditions need a derivative: "ic", "bc" or None; its direction is `derivative_direction`.
    """

    name: str
    physical: str
    defaults: Mapping[str, float] = {}
    x_range = (0.0, 2 * math.pi)
    components = (Component("pde", "pde"), Component("bc", "bc"), Component("ic", "ic"))
    derivative: str | None = None
    derivative_direction = (0.0, 0.0)

    def operator(self, p: Parameters) -> Operator:
        """The linear operator that is carried through the network."""
        raise NotImplementedError

    def residual(self, u: Tensor, lu: Tensor, p: Parameters) -> Tensor:
        """The residual of the equation, (R, n), from u and L u."""
        return lu

    def initial(self, x: Tensor, p: Parameters) -> Tensor:
        """u(x, 0), (R, n), at x (n,)."""
        raise NotImplementedError

    def conditions(self, u_ic: Tensor, u_upper: Tensor, u_lower: Tensor, derivative: Tensor | None,
                   target: Tensor) -> dict[str, Tensor]:
        """Residual vectors of the initial and boundary conditions, (R, n_i) each.

        u_ic at t = 0, u_upper and u_lower at the right and left end; `derivative` at the points that `self.derivative`
        names; `target` is u(x, 0).
        """
        return {"bc": u_upper - u_lower, "ic": u_ic - target}

    def solution(self, x: np.ndarray, t: np.ndarray, p: Mapping[str, float]) -> np.ndarray:
        """The exact or reference solution at points (n,), in float64."""
        raise NotImplementedError


def _direction(x: Tensor | float, t: Tensor | float, like: Tensor) -> Tensor:
    """(R, 2) directions from numbers or (R,) tensors."""
    return torch.stack([torch.as_tensor(v, dtype=like.dtype, device=like.device).expand(len(like)) for v in (x, t)], 1)


def gaussian(x, sigma):
    """h(x) = exp(-(x - pi)^2 / (2 sigma^2)), for arrays and tensors."""
    return (torch if isinstance(x, Tensor) else np).exp(-((x - math.pi) ** 2) / (2 * sigma**2))


class Convection(System):
    """u_t + beta u_x = 0."""

    name, physical = "convection", "beta"

    def operator(self, p: Parameters) -> Operator:
        """d/dt + beta d/dx."""
        return Operator(_direction(p["beta"], 1.0, p["beta"]))

    def initial(self, x: Tensor, p: Parameters) -> Tensor:
        """sin x."""
        return torch.sin(x).expand(len(p["beta"]), -1)

    def solution(self, x: np.ndarray, t: np.ndarray, p: Mapping[str, float]) -> np.ndarray:
        """sin(x - beta t)."""
        return np.sin(x - p["beta"] * t)


class Reaction(System):
    """u_t - rho u (1 - u) = 0: a logistic equation at every x."""

    name, physical, defaults = "reaction", "rho", {"sigma": math.pi / 4}

    def operator(self, p: Parameters) -> Operator:
        """d/dt."""
        return Operator(_direction(0.0, 1.0, p["rho"]))

    def residual(self, u: Tensor, lu: Tensor, p: Parameters) -> Tensor:
        """u_t - rho u (1 - u)."""
        return lu - p["rho"][:, None] * u[:, :lu.shape[1]] * (1 - u[:, :lu.shape[1]])

    def initial(self, x: Tensor, p: Parameters) -> Tensor:
        """h(x)."""
        return gaussian(x, p["sigma"][:, None])

    def solution(self, x: np.ndarray, t: np.ndarray, p: Mapping[str, float]) -> np.ndarray:
        """h e^(rho t) / (h e^(rho t) + 1 - h)."""
        return logistic(gaussian(x, p["sigma"]), p["rho"] * t)


class Wave(System):
    """u_tt - c^2 u_xx = 0. The operator factors: (d_t - c d_x)(d_t + c d_x)."""

    name, physical, defaults, x_range = "wave", "c", {"beta": 3.0}, (0.0, 1.0)
    components = (Component("pde", "pde"), Component("bc_upper", "bc"), Component("bc_lower", "bc"),
                  Component("ic", "ic"), Component("ic_t", "ic"))
    derivative, derivative_direction = "ic", (0.0, 1.0)

    def operator(self, p: Parameters) -> Operator:
        """D_v D_w with v = (c, 1) and w = (-c, 1)."""
        c = p["c"]
        return Operator(_direction(0.0, 0.0, c), _direction(c, 1.0, c), _direction(-c, 1.0, c), torch.ones_like(c))

    def initial(self, x: Tensor, p: Parameters) -> Tensor:
        """sin(pi x) + sin(beta pi x) / 2."""
        return torch.sin(math.pi * x) + torch.sin(math.pi * p["beta"][:, None] * x) / 2

    def conditions(self, u_ic, u_upper, u_lower, derivative, target) -> dict[str, Tensor]:
        """Zero at both ends; at t = 0 the given shape, at rest."""
        return {"bc_upper": u_upper, "bc_lower": u_lower, "ic": u_ic - target, "ic_t": derivative}

    def solution(self, x: np.ndarray, t: np.ndarray, p: Mapping[str, float]) -> np.ndarray:
        """Sum of two standing waves."""
        def mode(k: float) -> np.ndarray:
            return np.sin(k * np.pi * x) * np.cos(k * p["c"] * np.pi * t)
        return mode(1.0) + mode(p["beta"]) / 2


class ReactionDiffusion(Reaction):
    """u_t - nu u_xx - rho u (1 - u) = 0.

    The paper prints the reaction with the other sign; published code and earlier work agree on this one, whose limit
    nu = 0 is the paper's own reaction equation.
    """

    name, physical, defaults = "reaction_diffusion", "rho", {"nu": 2.0, "sigma": math.pi / 4}
    components = (*System.components, Component("bc_x", "bc"))
    derivative, derivative_direction = "bc", (1.0, 0.0)

    def operator(self, p: Parameters) -> Operator:
        """d/dt - nu d2/dx2."""
        rho = p["rho"]
        x = _direction(1.0, 0.0, rho)
        return Operator(_direction(0.0, 1.0, rho), x, x, -p["nu"])

    def conditions(self, u_ic, u_upper, u_lower, derivative, target) -> dict[str, Tensor]:
        """Periodic in value and, unless it was switched off, in slope: a second-order problem needs both."""
        found = {"bc": u_upper - u_lower, "ic": u_ic - target}
        if derivative is not None:
            found["bc_x"] = derivative[:, :u_upper.shape[1]] - derivative[:, u_upper.shape[1]:]
        return found

    def solution(self, x: np.ndarray, t: np.ndarray, p: Mapping[str, float]) -> np.ndarray:
        """`strang` on its grid, read off at (x, t) by trigonometric interpolation in x; t must be on the grid of 0.01.

        Raises:
            ValueError: for a time that is no multiple of 0.01.
        """
        nodes, steps = 256, 100
        row = np.rint(t * steps).astype(int)
        if not np.allclose(row / steps, t, atol=1e-9):
            raise ValueError("the reference solution is stored at multiples of 0.01 in t")
        table = strang(p["nu"], p["rho"], p["sigma"], nodes, steps)
        column = x / (2 * np.pi) * nodes
        on_grid = np.rint(column).astype(int)
        if np.allclose(on_grid, column, atol=1e-6):
            return table[row, on_grid % nodes]
        k = np.fft.rfftfreq(nodes, 1 / nodes)
        weight = np.where((k == 0) | (k == nodes // 2), 1.0, 2.0) / nodes
        return (np.fft.rfft(table)[row] * np.exp(1j * k * x[:, None]) * weight).sum(1).real


def logistic(u0: np.ndarray, exponent: np.ndarray | float) -> np.ndarray:
    """Exact flow of u' = rho u (1 - u) over rho t = exponent, written so that a large exponent does not overflow."""
    return u0 / (u0 + (1 - u0) * np.exp(-np.asarray(exponent)))


def strang(nu: float, rho: float, sigma: float, nodes: int = 256, steps: int = 100, substeps: int = 20) -> np.ndarray:
    """Reference solution of reaction-diffusion on [0, 2 pi), (steps + 1, nodes), float64.

    Strang splitting, both parts by their exact flows: half a reaction, a diffusion in Fourier space, half a reaction;
    second order in 1 / (steps * substeps), spectral in x. With the default 2,000 steps the error is about 1e-6 or less
    (the published first-order splitting with 100 steps has 1.5e-3 to 7e-3).
    """
    x = 2 * np.pi * np.arange(nodes) / nodes
    dt = 1 / (steps * substeps)
    decay = np.exp(-nu * np.fft.rfftfreq(nodes, 1 / nodes) ** 2 * dt)
    u = gaussian(x, sigma)
    table = [u]
    for _ in range(steps):
        for _ in range(substeps):
            u = logistic(u, rho * dt / 2)
            u = np.fft.irfft(np.fft.rfft(u) * decay, nodes)
            u = logistic(u, rho * dt / 2)
        table.append(u)
    return np.stack(table)


SYSTEMS: dict[str, System] = {s.name: s for s in (Convection(), Reaction(), Wave(), ReactionDiffusion())}
