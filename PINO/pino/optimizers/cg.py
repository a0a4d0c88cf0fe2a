# Twin of PINN/pinn/optimizers/cg.py - edit there and run: python experiments/twins.py --fix
"""Hessian-vector products and preconditioned conjugate gradients for R independent problems side by side."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .nystrom import Linear

CG_EXIT = ("running", "tolerance", "max_iter", "negative_curvature", "breakdown")
RUNNING, TOLERANCE, MAX_ITER, NEGATIVE, BREAKDOWN = range(5)

Gradient = Sequence[Tensor | None]  # one a parameter; None where the loss does not depend on it


class Solution(NamedTuple):
    """What conjugate gradients found for r systems A x = g."""

    x: Tensor  # (r, p)
    residual: Tensor  # (r,) |g - A x| / |g|, as the recursion has it
    iterations: Tensor  # (r,)
    exit: Tensor  # (r,) index into CG_EXIT
    products: Tensor  # (r,) products with A spent


def flatten(tensors: Sequence[Tensor | None], like: Sequence[Tensor], *lead: int) -> Tensor:
    """Tensors (*lead, R, ...) side by side as (*lead, R, p), zeros for None."""
    full = [p.new_zeros(*lead, *p.shape) if t is None else t for t, p in zip(tensors, like, strict=True)]
    return torch.cat([t.reshape(*lead, len(p), -1) for t, p in zip(full, like, strict=True)], -1)


def unflatten(vectors: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """(*lead, r, p) cut into the shapes of the parameters, (*lead, r, ...)."""
    pieces = vectors.split([p[0].numel() for p in like], -1)
    return [v.reshape(*v.shape[:-1], *p.shape[1:]) for v, p in zip(pieces, like, strict=True)]


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products (r, p) x (r, p) -> (r,), summed in float64."""
    return (a * b).sum(-1, dtype=torch.float64)


def hessian_product(gradients: Callable[[], Iterable[Gradient]], params: Sequence[Tensor], rows: Tensor) -> Linear:
    """Function v -> H v of the runs `rows` (ascending): v is (r, p), or (c, r, p) for c vectors at once by vmap.

    `gradients` gives those of the summed loss with their graphs: one, or one after another those of the parts that the
    loss is a sum of, which takes the memory of one part.
    """
    runs = len(params[0])

    def product(v: Tensor) -> Tensor:
        lead = v.shape[:-2]
        if len(rows) < runs:
            v = v.new_zeros(*lead, runs, v.shape[-1]).index_copy(-2, rows, v)
        pieces, out = unflatten(v, params), torch.zeros_like(v)
        with torch.enable_grad():  # parts are evaluated as they are asked for
            for gradient in gradients():
                curved = [k for k, g in enumerate(gradient) if g is not None and g.requires_grad]
                if curved:
                    columns = torch.autograd.grad([gradient[k] for k in curved], params, [pieces[k] for k in curved],
                                                  retain_graph=True, allow_unused=True, is_grads_batched=bool(lead))
                    out += flatten(columns, params, *lead)
                del gradient  # not while the next part is evaluated
        return out if len(rows) == runs else out.index_select(-2, rows)

    return product


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
