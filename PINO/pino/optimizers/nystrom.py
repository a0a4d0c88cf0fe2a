# Twin of PINN/pinn/optimizers/nystrom.py - edit there and run: python experiments/twins.py --fix
"""Low-rank sketch U Lambda U^T of R Hessians from products with random vectors, and the preconditioner made of it.

Frangella, Tropp, Udell 2023 (SIAM J. Matrix Anal. Appl. 44(2)), with a way out for Hessians that are indefinite.
"""

import math

import torch
from torch import Tensor

from ..hessian import Linear

SKETCH = ("none", "shifted", "rayleigh_ritz")  # none: H v is not finite, no preconditioner


def shifted_nystrom(omega: Tensor, y: Tensor, shift: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Nystrom approximation of H + shift I, with the shift (r,) >= 0 taken off its eigenvalues again.

    omega (r, p, s) has orthonormal columns, y = H omega. With Y = y + shift omega in every place (a shift of the core
    alone approximates no matrix) it is Y (omega^T Y)^-1 Y^T = B B^T with B = Y C^-T, C C^T = omega^T Y.
    Returns U (r, p, s) orthonormal, eigenvalues (r, s) >= 0 descending, and (r,) whether the core was safely positive
    definite; where not, the other two mean nothing.
    """
    y = y + shift[:, None, None] * omega
    core = omega.mT @ y
    core = (core + core.mT) / 2
    safe = torch.linalg.eigvalsh(core)[:, 0] > shift / 2  # H >= 0 gives the shift or more, up to rounding
    identity = torch.eye(core.shape[-1], dtype=core.dtype, device=core.device)
    c, failed = torch.linalg.cholesky_ex(torch.where(safe[:, None, None], core, identity))
    q, upper = torch.linalg.qr(torch.linalg.solve_triangular(c, y.mT, upper=False).mT)
    left, sigma, _ = torch.linalg.svd(upper)
    return q @ left, (sigma.square() - shift[:, None]).clamp(min=0), safe & (failed == 0)


def rayleigh_ritz(basis: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
    """U (r, p, s) and max(Ritz values, 0) (r, s) of H on an orthonormal basis, image = H basis.

    No Ritz value exceeds the largest eigenvalue of H, whatever the signs of the others.
    """
    core = basis.mT @ image
    values, vectors = torch.linalg.eigh((core + core.mT) / 2)
    return basis @ vectors.flip(-1), values.flip(-1).clamp(min=0)


def sketch_hessian(product: Linear, omega: Tensor, eps: float,
                   method: str = "shifted") -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Randomized low-rank approximation of Hessians that may be indefinite.

    Nystrom where the core is positive definite and the first pair has u^T H u >= eigenvalue / 1.1: so it is for every
    semidefinite H, and it keeps the sketch from exceeding the largest eigenvalue of H by more. Else (or always, with
    method "rayleigh_ritz") Rayleigh-Ritz on the range of H omega; on that of omega itself an isolated eigenvalue is
    seen reduced by about s / p.

    `product` maps V (r, p, k) to H V in float64, behind it is arithmetic with machine epsilon `eps`; omega (r, p, s) is
    Gaussian. Returns U (r, p, s), eigenvalues (r, s) >= 0 descending, (r,) index into SKETCH, (r,) products H v spent.
    """
    omega = torch.linalg.qr(omega).Q
    size, rank = omega.shape[1:]
    y = product(omega)
    finite = y.isfinite().flatten(1).all(1)
    y = torch.where(finite[:, None, None], y, 0.0)
    u, values, good = omega, torch.zeros_like(omega[:, 0]), torch.zeros_like(finite)
    products = torch.full_like(finite, rank, dtype=torch.int64)  # spent
    if method == "shifted":
        largest = torch.linalg.eigvalsh(y.mT @ y)[:, -1].clamp(min=0).sqrt()
        u, values, good = shifted_nystrom(omega, y, math.sqrt(size) * eps * largest)
        top = u[:, :, :1]
        good &= finite & (values[:, 0] <= 1.1 * (top * product(top)).sum((1, 2)))
        products += 1
    ritz = finite & ~good
    if ritz.any():
        products += rank * ritz
        basis = torch.linalg.qr(y).Q
        image = product(basis * ritz[:, None, None])
        ritz &= image.isfinite().flatten(1).all(1)
        ritz_u, ritz_values = rayleigh_ritz(basis, torch.where(ritz[:, None, None], image, 0.0))
        u = torch.where(ritz[:, None, None], ritz_u, u)
        values = torch.where(ritz[:, None], ritz_values, values)
    values = torch.where((good | ritz)[:, None], values, 0.0)  # none: the preconditioner is the identity
    return u, values, good * SKETCH.index("shifted") + ritz * SKETCH.index("rayleigh_ritz"), products


def precondition(v: Tensor, u: Tensor, values: Tensor, mu: Tensor) -> Tensor:
    """P^-1 v = (lambda_s + mu) U (Lambda + mu)^-1 U^T v + (v - U U^T v), (r, p) -> (r, p)."""
    factor = (values[:, -1:] + mu[:, None]) / (values + mu[:, None]) - 1
    return v + (u @ (factor.to(v.dtype)[:, :, None] * (u.mT @ v[:, :, None])))[:, :, 0]
