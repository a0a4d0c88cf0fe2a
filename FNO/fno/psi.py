"""The ratio Psi of advection to diffusion, and the weight lambda that gives a sample the Psi that it should have.

    Psi = ||L v.grad u|| / ||(1-L) div(K grad u)||         (1-L) a + i L b the symbol of the operator, r = L / (1-L)

By Parseval, with |u_hat|^2 = |f_hat|^2 / ((1-L)^2 a^2 + L^2 b^2) and the share of diffusion in f

    D(r) = sum |f_hat|^2 / (1 + (r b/a)^2) / sum |f_hat|^2,        Psi^2 = (1 - D) / D,

so that Psi grows monotonically with lambda, and needs no inverse transform. Nyquist modes are left out of the sums.
"""

import torch
from torch import Tensor

PSI_MODES = ("table", "exact")
TOLERANCE = 1e-9  # relative, of Psi^2


def lambda_grid() -> Tensor:
    """The published lambdas, (59,): 20 log-spaced, 20 from 0.14 to 0.9, and 0.9 + the first 19 of the former."""
    low = torch.logspace(-3, -1, 20, dtype=torch.float64)
    return torch.cat([low, torch.linspace(0.14, 0.9, 20, dtype=torch.float64), 0.9 + low[:19]])


def realised(energy: Tensor, ratio: Tensor, lam: Tensor) -> Tensor:
    """Psi (B,) from |f_hat|^2 with multiplicities (B, M), (b/a)^2 (B, M) and lambda (B,)."""
    rest = energy / (1 + (lam / (1 - lam)).square().to(energy.dtype)[:, None] * ratio)
    diffusion = rest.sum(1)
    return ((energy.sum(1) - diffusion) / diffusion).sqrt().to(lam.dtype)


def nearest(target: Tensor, values: Tensor, means: Tensor) -> Tensor:
    """For each target (B,) the lambda whose mean Psi over other samples is nearest, as published."""
    closest = (target[:, None] - means.to(target.device)).abs().argmin(1)
    return values.to(target.device)[closest]


def find_lambda(energy: Tensor, ratio: Tensor, target: Tensor) -> Tensor:
    """Lambda (B,) with Psi = target (B,), by Newton's method on log Psi^2 as a function of log r^2, kept in a bracket.

    Raises:
        ArithmeticError: where Psi cannot be reached (v at right angles to much of the spectrum of f).
    """
    dtype = torch.float64
    energy, ratio = energy.to(dtype), ratio.to(dtype)
    energy = energy / energy.sum(1, keepdim=True)
    keep = energy.amax(0) > 1e-18  # the forcing is smooth: most modes cannot change a digit
    energy, ratio = energy[:, keep], ratio[:, keep]
    goal = 2 * target.to(dtype).log()
    low, high = goal - 60, goal + 60
    s = goal.clone()
    for _ in range(200):
        spread = s.exp()[:, None] * ratio  # (r b / a)^2
        rest = energy / (1 + spread)
        diffusion = rest.sum(1)
        advection = (rest * spread).sum(1)
        error = (advection / diffusion).log() - goal
        if bool((error.abs() <= TOLERANCE).all()):
            return torch.sigmoid(s / 2).to(target.dtype)  # r / (1 + r)
        low, high = torch.where(error < 0, s, low), torch.where(error > 0, s, high)
        change = (rest * spread / (1 + spread)).sum(1) * (1 / advection + 1 / diffusion)
        step = s - error / change
        s = torch.where((step > low) & (step < high), step, (low + high) / 2)
    raise ArithmeticError(f"no lambda gives Psi = {float(target[error.abs().argmax()]):g} for some sample")
