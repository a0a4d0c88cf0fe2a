# Twin of PINN/pinn/hessian.py - edit there and run: python experiments/twins.py --fix
"""Hessians of R independent losses side by side: products with vectors, and the highest eigenvalue by Lanczos.

    H v = d/dtheta (g(theta) . v),    g = dL/dtheta,    theta (R, ...) with one row a run

    product = hessian_product(gradients_of(losses, params), params, rows)
    top = top_eigenvalue(product, torch.randn(r, p))
    top = lambda_max(losses, params, rows)              # both, from a start vector of its own
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from .files import UsageError

Linear = Callable[[Tensor], Tensor]
Gradient = Sequence[Tensor | None]  # one a parameter; None where the loss does not depend on it


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


def gradients_of(losses: Tensor | Iterable[Tensor], params: Sequence[Tensor]) -> Callable[[], Iterable[Gradient]]:
    """What `hessian_product` takes: the gradients of losses (R,), or of the parts that they are a sum of.

    That of a tensor is computed once and its graph kept; parts are walked again for every product.
    """
    def gradient(part: Tensor) -> Gradient:
        return torch.autograd.grad(part.sum(), params, create_graph=True, allow_unused=True)

    if not isinstance(losses, Tensor):
        return partial(map, gradient, losses)
    kept = [gradient(losses)]
    return lambda: kept


class Top(NamedTuple):
    """The highest eigenvalues of r symmetric matrices."""

    value: Tensor  # (r,) float64; NaN where a product was not finite
    residual: Tensor  # (r,) |A u - value u| of the unit vector u: an eigenvalue lies at least as near
    products: Tensor  # (r,) products A v spent


def top_eigenvalue(product: Linear, start: Tensor, tol: float = 1e-3, max_iter: int = 100) -> Top:
    """Highest (not: largest in magnitude) eigenvalue of r symmetric matrices A, by Lanczos with reorthogonalisation.

    Each of them ends where the residual is at most `tol` times the eigenvalue in magnitude (or rounding, where a far
    larger negative one is there), which the error of an isolated eigenvalue undercuts by far; or after max_iter
    products, which the residual then tells. Golub and Van Loan, Matrix Computations, section 10.1.

    Args:
        product: v (r, p) -> A v (r, p).
        start: (r, p), random; its precision is that of the basis, of which at most max_iter vectors are held.
    """
    runs, size = start.shape
    value, residual = (torch.full((runs,), torch.nan, dtype=torch.float64, device=start.device) for _ in range(2))
    products = torch.zeros(runs, dtype=torch.int64, device=start.device)
    going = torch.ones(runs, dtype=torch.bool, device=start.device)
    tridiagonal = value.new_zeros(runs, max_iter, max_iter)
    basis, rounding = [], torch.finfo(start.dtype).eps
    v = start / dot(start, start).sqrt().to(start)[:, None]
    for k in range(min(max_iter, size)):
        basis.append(v)
        w = product(v)
        tridiagonal[:, k, k] = dot(v, w)
        for q in basis + basis:  # twice is enough to stay orthogonal up to rounding
            w = w - dot(q, w).to(w)[:, None] * q
        beta = dot(w, w).sqrt()
        part = tridiagonal[:, : k + 1, : k + 1]
        finite = part.isfinite().all(-1).all(-1) & beta.isfinite()
        ritz, vectors = torch.linalg.eigh(torch.where(finite[:, None, None], part, 0.0))
        products += going
        value = torch.where(going, torch.where(finite, ritz[:, -1], torch.nan), value)
        residual = torch.where(going, beta * vectors[:, -1, -1].abs(), residual)
        least = torch.maximum(tol * ritz[:, -1].abs(), rounding * ritz.abs().amax(-1))
        going = going & finite & (residual > least)
        if not going.any() or k + 1 == max_iter:
            break
        tridiagonal[:, k, k + 1] = tridiagonal[:, k + 1, k] = beta
        v = torch.where(going[:, None], w / beta.to(w)[:, None], 0.0)
    return Top(value, residual, products)


def lambda_max(losses: Tensor | Iterable[Tensor], params: Sequence[Tensor], rows: Tensor) -> Top:
    """The highest eigenvalues of the Hessians of losses (R,), or parts of them, of the runs `rows` (r,), ascending.

    All start from one random vector that never changes: a run's value does not depend on its company, up to rounding.
    """
    like, rows = params[0], rows.to(params[0].device)
    start = torch.randn(1, sum(p[0].numel() for p in params), generator=torch.Generator().manual_seed(0)).to(like)
    return top_eigenvalue(hessian_product(gradients_of(losses, params), params, rows), start.expand(len(rows), -1))


@dataclass(frozen=True)
class Times:
    """When `lambda_max` is computed along training; both 0: never. The command line's `--hessian_every`.

    every: iterations (or epochs) from one time to the next. points: number of log-spaced times.
    """

    every: int = 0
    points: int = 0

    @classmethod
    def parse(cls, text: str, flag: str = "--hessian_every") -> Times:
        """0, N, log (20 points) or log:K.

        Raises:
            UsageError: for anything else.
        """
        form, _, number = text.partition(":")
        if form == "log":
            number = number if ":" in text else "20"
            if number.isdecimal() and int(number):
                return cls(points=int(number))
        elif text.isdecimal():
            return cls(every=int(text))
        raise UsageError(f"{flag} must be a whole number from 0 (never), log, or log:K with K log-spaced times, "
                         f"got {text!r}")

    def __bool__(self) -> bool:
        """Whether there is any time at all."""
        return bool(self.every or self.points)

    def __str__(self) -> str:
        """As on the command line."""
        return f"log:{self.points}" if self.points else str(self.every)

    def due(self, before: int, now: int, last: int) -> bool:
        """Tell whether a time was passed, of training that is to end at `last`: before < time <= now.

        Log-spaced are last^(j / (K - 1)), j = 0 ... K - 1, rounded, and `last` itself for K = 1.
        """
        if self.every:
            return before // self.every < now // self.every
        gaps = max(self.points - 1, 1)
        return any(before < round(last ** ((gaps - j) / gaps)) <= now for j in range(self.points))
