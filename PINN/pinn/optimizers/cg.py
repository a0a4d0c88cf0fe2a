"""Preconditioned conjugate gradients for R independent problems side by side."""

from typing import NamedTuple

import torch
from torch import Tensor

from ..hessian import Linear, dot

CG_EXIT = ("running", "tolerance", "max_iter", "negative_curvature", "breakdown")
RUNNING, TOLERANCE, MAX_ITER, NEGATIVE, BREAKDOWN = range(5)

class Solution(NamedTuple):
    """What conjugate gradients found for r systems A x = g."""

    x: Tensor  # (r, p)
    residual: Tensor  # (r,) |g - A x| / |g|, as the recursion has it
    iterations: Tensor  # (r,)
    exit: Tensor  # (r,) index into CG_EXIT
    products: Tensor  # (r,) products with A spent


def pcg(product: Linear, inverse: Linear, g: Tensor, x0: Tensor, tol: float, max_iter: int) -> Solution:
    """Preconditioned conjugate gradients for r systems A x = g (r, p) at once, each stopping by itself.

    A system ends at |g - A x| <= tol |g|, after max_iter iterations, at a direction q with q^T A q <= 0 (A is not
    positive definite; the iterate so far is kept), or where a number is not finite. It starts from x0 (r, p), or from
    zero where that is better. `product` is v (r, p) -> A v, `inverse` v -> P^-1 v, symmetric positive definite.
    """
    norm = dot(g, g).sqrt()
    residual = g - product(x0)
    better = (dot(residual, residual).sqrt() < norm)[:, None]  # False for NaN
    x, residual = torch.where(better, x0, 0.0), torch.where(better, residual, g)
    size = dot(residual, residual).sqrt()
    z = inverse(residual)
    q, rz = z, dot(residual, z)
    code = torch.where(size <= tol * norm, TOLERANCE, RUNNING)
    iterations = torch.zeros_like(code)
    for _ in range(max_iter):
        running = code == RUNNING
        if not running.any():
            break
        v = product(q)
        curvature = dot(q, v)
        step = rz / curvature
        next_residual = residual - step.to(g.dtype)[:, None] * v
        next_size = dot(next_residual, next_residual).sqrt()
        code = torch.where(running & ~next_size.isfinite(), BREAKDOWN, code)
        code = torch.where(running & (curvature <= 0), NEGATIVE, code)
        go = code == RUNNING
        x = torch.where(go[:, None], x + step.to(g.dtype)[:, None] * q, x)
        residual = torch.where(go[:, None], next_residual, residual)
        size = torch.where(go, next_size, size)
        iterations += go
        z = inverse(residual)
        rz, last = dot(residual, z), rz
        q = torch.where(go[:, None], z + (rz / last).to(g.dtype)[:, None] * q, q)
        code = torch.where(go & (size <= tol * norm), TOLERANCE, code)
    products = 1 + iterations + (code >= NEGATIVE)
    code = torch.where(code == RUNNING, MAX_ITER, code)
    return Solution(x, size / norm, iterations, code, products)
