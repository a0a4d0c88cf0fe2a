"""The spectrum of one symmetric matrix A (p, p), such as a Hessian, known by its products with vectors.

    found = spectrum(of_one(hessian_product(gradients, params, rows)), p, like=params[0], chunk=10)
    found.highest.values[0], found.highest.residuals[0]       the highest eigenvalue and |A u - value u|
    found.trace.value, found.trace.error                      the trace and its standard error
    found.density.mass_within(1e-6 * found.norm)              share of the eigenvalues next to zero, error and bounds

Lanczos from random signs v (Rademacher), with the basis V = [v_1 .. v_m] kept orthogonal:

    A V = V T + beta_m v_{m+1} e_m',    T = S diag(theta) S' tridiagonal

- density: (1/p) sum_i f(lambda_i) = E[v' f(A) v] ~ sum_k w_k f(theta_k), w_k = S_1k^2 (density.py);
- eigenpairs: Ritz vectors V s_k, and what Rayleigh and Ritz make of those of all probes together, at no more products;
- trace: tr A = tr V' A V + E[(P z)' A (P z)] with z of random signs, P = I - V V' of the last probe, whose V takes the
  few large eigenvalues out of what has to be estimated
  (Meyer, Musco, Musco and Woodruff 2021, arXiv 2010.09649, with a Krylov space in place of their sketch).
  z is independent of V: no bias with a number of samples that is fixed. One that depends on the error which the samples
  themselves show, as here, leaves a little.

Coefficients are float64, vectors are of the precision and on the device that they start with. `dense` gives all of A,
for small p, and the same results exactly.

Memory, in vectors of p numbers: m + 1 for every probe at work, of which there are `chunk` or as many as fit into 4 GB
(but one at least), and 20 top beside them, or 40 where that is more: 201 in all with m = 100, top = 5, one probe.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .density import Density
from .hessian import Linear, dot

DOUBLE = torch.float64
DENSE = 1000  # rows up to which method "auto" takes all of the matrix
BASES = 4e9  # bytes of Lanczos vectors of probes side by side; a single probe may take more
ROUND = 10  # samples of the trace between two looks at its error, and the fewest


class Trace(NamedTuple):
    """A trace, its standard error, and the random vectors that it took."""

    value: float
    error: float
    samples: int


class Pairs(NamedTuple):
    """Approximate eigenpairs, the most extreme first.

    An eigenvalue lies within `residual` of each value. Among the highest, the j-th value is never above the j-th
    eigenvalue, among the lowest never below (rounding apart); those with large residuals are mixtures of many.
    """

    values: Tensor  # (k,) float64, on the CPU
    vectors: Tensor  # (k, p), orthonormal
    residuals: Tensor  # (k,) float64, on the CPU: |A u - value u|


@dataclass(frozen=True)
class Spectrum:
    """What is known of a symmetric matrix; all NaN and no pairs where a product was not finite."""

    method: str  # "lanczos" or "dense"
    highest: Pairs
    lowest: Pairs
    trace: Trace
    density: Density
    products: int  # vectors multiplied

    @property
    def finite(self) -> bool:
        """All products were finite."""
        return len(self.highest.values) > 0

    @property
    def norm(self) -> float:
        """The largest eigenvalue in magnitude, what "near zero" is relative to."""
        return max(abs(pairs.values[0].item()) for pairs in (self.highest, self.lowest)) if self.finite else math.nan


class Krylov(NamedTuple):
    """What Lanczos leaves of c starts: A V = V T + beta_m v_{m+1} e_m' with m = counts steps."""

    alphas: Tensor  # (c, steps) float64: diagonal of T
    betas: Tensor  # (c, steps) float64: beside it; beta_m, in column m - 1, is 0 where the space is closed
    counts: Tensor  # (c,)
    basis: Tensor  # (c, steps + 1, p): v_1 .. v_{m+1}, then zeros


class Counted:
    """A product that takes at most `chunk` vectors at a time, and counts them."""

    def __init__(self, product: Linear, chunk: int) -> None:
        self.product, self.chunk, self.count = product, chunk, 0

    def __call__(self, v: Tensor) -> Tensor:
        """v (c, p) -> A v, any c."""
        self.count += len(v)
        return torch.cat([self.product(part) for part in v.split(self.chunk)])


def of_one(product: Linear) -> Linear:
    """hessian_product's of a single run as v (c, p) -> A v (c, p); one vector goes without vmap."""
    return lambda v: product(v) if len(v) == 1 else product(v[:, None])[:, 0]


def signs(generator: torch.Generator, count: int, size: int, like: Tensor) -> Tensor:
    """Vectors (count, size) of random signs: one after another, so that `count` does not change them."""
    drawn = [torch.randint(2, (size,), generator=generator, dtype=torch.int8) for _ in range(count)]
    return torch.stack(drawn).to(like).mul_(2).sub_(1)


def lanczos(product: Linear, starts: Tensor, steps: int) -> Krylov:
    """Lanczos from c starts (c, p) side by side, reorthogonalised twice (Golub and Van Loan, section 10.3).

    A probe ends early where its Krylov space is closed: the remainder is rounding, relative to the matrix. Its density
    is then exact for its start. In exact arithmetic a multiple eigenvalue shows once in each probe.
    """
    count, size = starts.shape
    steps, rounding = min(steps, size), torch.finfo(starts.dtype).eps
    basis = starts.new_zeros(count, steps + 1, size)
    basis[:, 0] = starts / dot(starts, starts).sqrt().to(starts)[:, None]
    alphas, betas = (torch.zeros(count, steps, dtype=DOUBLE, device=starts.device) for _ in range(2))
    counts = torch.zeros(count, dtype=torch.int64, device=starts.device)
    going, norm = torch.ones_like(counts, dtype=torch.bool), alphas.new_zeros(count)
    for k in range(steps):
        w = torch.zeros_like(starts)
        w[going] = product(basis[going, k])
        alphas[:, k] = dot(basis[:, k], w)
        known = basis[:, : k + 1]
        for _ in range(2):  # twice is enough to stay orthogonal up to rounding
            w = w - ((known @ w[:, :, None]).mT @ known)[:, 0]
        beta = dot(w, w).sqrt()
        norm = torch.maximum(norm, alphas[:, k].abs() + beta)  # of the order of that of A
        betas[:, k] = torch.where(beta <= 10 * rounding * norm, 0.0, beta)
        counts += going
        going = going & (betas[:, k] > 0)  # not where NaN
        if not going.any():
            break
        basis[:, k + 1] = torch.where(going[:, None], w / beta.to(w)[:, None], 0.0)
    return Krylov(alphas, betas, counts, basis)


def ritz(krylov: Krylov, row: int) -> tuple[Tensor, Tensor]:
    """Ritz values (m,) of a probe, ascending, and the matrix S (m, m) of T's eigenvectors; float64 on the CPU."""
    m = int(krylov.counts[row])
    alphas, betas = krylov.alphas[row, :m].cpu(), krylov.betas[row, : m - 1].cpu()
    values, vectors = torch.linalg.eigh(alphas.diag() + betas.diag(1) + betas.diag(-1))
    return values, vectors


def quadrature(krylov: Krylov, row: int, values: Tensor, s: Tensor) -> np.ndarray:
    """Nodes, weights and ends of a probe's Gauss quadrature, as density.py has them, (3, m)."""
    rest = krylov.betas[row, len(s) - 1].item() * s[-1]
    return torch.stack([values, s[0].square(), rest.copysign(rest * s[0])]).numpy()


def extremes(count: int, top: int) -> list[int]:
    """The first and the last `top` of `count` ascending values."""
    return [k for k in range(count) if k < top or k >= count - top]


def ritz_vectors(krylov: Krylov, row: int, s: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Ritz vectors V s (k, p) of a probe and, by the Lanczos relation, their products A V s = theta V s + ..."""
    m = len(s)
    s, values, basis = (x.to(krylov.basis) for x in (s, values, krylov.basis[row, : m + 1]))
    vectors = s.T @ basis[:m]
    rest = krylov.betas[row, m - 1].to(s) * s[-1]
    return vectors, values[:, None] * vectors + rest[:, None] * basis[m]


def rayleigh_ritz(vectors: Tensor, images: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """The extreme Ritz vectors, lowest first, of A on the span of vectors (n, p), and their images under A.

    Images A u of the vectors are given. By the Courant-Fischer theorem a larger span only brings the j-th highest
    value nearer to the j-th highest eigenvalue. Vectors may be almost parallel: what differs by less than rounding
    allows is left out of the span.
    """
    gram, form = (vectors @ other.T for other in (vectors, images))
    sizes, basis = torch.linalg.eigh(gram.to(DOUBLE))
    kept = sizes > torch.finfo(vectors.dtype).eps ** 0.5 * sizes[-1]
    basis = basis[:, kept] / sizes[kept].sqrt()
    s = torch.linalg.eigh(basis.T @ ((form + form.T) / 2).to(DOUBLE) @ basis).eigenvectors
    chosen = (basis @ s[:, extremes(s.shape[1], top)]).T.to(vectors)
    return chosen @ vectors, chosen @ images


def extreme_pairs(values: Tensor, vectors: Tensor, residuals: Tensor, top: int) -> tuple[Pairs, Pairs]:
    """The highest and the lowest pairs of ascending ones."""
    values, residuals = values.cpu(), residuals.cpu()
    order = torch.arange(len(values))
    return tuple(Pairs(values[k], vectors[k.to(vectors.device)], residuals[k]) for k in (
        order.flip(0)[:top], order[:top]))


def deflated_trace(product: Linear, draw: Callable[[int], Tensor], samples: int, tol: float = 0.05,
                   basis: Tensor | None = None, known: float = 0.0) -> Trace:
    """Trace of A by Hutchinson's estimator beside a subspace on which it is known.

    Ends at `samples`, or after any ten where the standard error is at most tol |trace|. Without a subspace one sample
    is exact for a diagonal matrix.

    Args:
        draw: count -> (count, p) of random signs, independent of the basis.
        basis: (m, p) orthonormal, with known = tr(basis A basis').
    """
    forms = torch.zeros(0, dtype=DOUBLE)
    while True:
        z = draw(min(ROUND, samples - len(forms)))
        if basis is not None:
            for _ in range(2):
                z = z - (z @ basis.T) @ basis
        forms = torch.cat([forms, dot(z, product(z)).cpu()])
        value = known + forms.mean().item()
        error = forms.std().item() / math.sqrt(len(forms)) if len(forms) > 1 else math.nan
        if len(forms) >= samples or error <= tol * abs(value):
            return Trace(value, error, len(forms))


def dense(product: Linear, size: int, like: Tensor, chunk: int = 1) -> Tensor:
    """All of A, (p, p) float64, symmetrised: its columns are the products with unit vectors.

    Raises:
        ValueError: when it is not symmetric up to rounding: the product is not linear, or not that of a Hessian.
    """
    found = torch.empty(size, size, dtype=DOUBLE, device=like.device)
    for rows in torch.arange(size, device=like.device).split(chunk):
        units = like.new_zeros(len(rows), size)
        units[torch.arange(len(rows)), rows] = 1
        found[rows] = product(units).to(DOUBLE)
    off, largest = (found - found.T).abs().max().item(), found.abs().max().item()
    if off > torch.finfo(like.dtype).eps ** 0.5 * largest:
        raise ValueError(f"the product is not that of a symmetric matrix: entries of up to {largest:.3g} differ from "
                         f"those across the diagonal by up to {off:.3g}")
    return (found + found.T) / 2


def spectrum(product: Linear, size: int, *, like: Tensor, method: str = "auto", top: int = 5, iterations: int = 100,
             probes: int = 10, trace_samples: int = 100, chunk: int = 1, seed: int = 0) -> Spectrum:
    """Extreme eigenpairs, trace and density of one symmetric matrix.

    Lanczos takes probes times iterations products, 2 top for the residuals, and up to trace_samples. The results are
    those of any other chunk up to rounding.

    Args:
        product: v (c, p) -> A v, c at most `chunk`.
        like: a tensor with the dtype and device of the vectors.
        method: "lanczos", "dense", or "auto", dense up to 1000 rows.
        top: pairs at each end (fewer where the matrix is smaller).
    """
    counted, like = Counted(product, chunk), like.detach()
    if method == "dense" or method == "auto" and size <= DENSE:
        return _dense_spectrum(counted, size, like, top)
    generator = torch.Generator().manual_seed(seed)
    rules, vectors, images = [], like.new_zeros(0, size), like.new_zeros(0, size)
    fit = int(BASES / (like.element_size() * (min(iterations, size) + 1) * size))
    together = max(1, min(chunk, fit))
    for start in range(0, probes, together):
        krylov = None  # let go of before the next is made
        krylov = lanczos(counted, signs(generator, min(together, probes - start), size, like), iterations)
        if not krylov.alphas.isfinite().all() or not krylov.betas.isfinite().all():
            return _not_finite("lanczos", counted.count, like, size)
        for row in range(len(krylov.counts)):
            values, s = ritz(krylov, row)
            rules.append(quadrature(krylov, row, values, s))
            few = extremes(len(values), top)
            more = ritz_vectors(krylov, row, s[:, few], values[few])
            vectors, images = rayleigh_ritz(*(torch.cat(both) for both in zip((vectors, images), more)), top)
    trace = deflated_trace(counted, lambda count: signs(generator, count, size, like), trace_samples,
                           basis=krylov.basis[-1, : int(krylov.counts[-1])], known=krylov.alphas[-1].sum().item())
    vectors, images = rayleigh_ritz(vectors, counted(vectors), top)
    values = dot(vectors, images)
    rest = images - values.to(images)[:, None] * vectors
    highest, lowest = extreme_pairs(values, vectors, dot(rest, rest).sqrt(), top)
    return Spectrum("lanczos", highest, lowest, trace, Density.of(rules, min(iterations, size)), counted.count)


def _dense_spectrum(product: Counted, size: int, like: Tensor, top: int) -> Spectrum:
    """All from the whole matrix."""
    matrix = dense(product, size, like, product.chunk)
    if not matrix.isfinite().all():
        return _not_finite("dense", product.count, like, size)
    values, vectors = torch.linalg.eigh(matrix)
    residuals = (matrix @ vectors - values * vectors).norm(dim=0)
    few = extremes(size, top)
    highest, lowest = extreme_pairs(values[few], vectors.T[few].to(like), residuals[few], top)
    nodes = values.cpu().numpy()[None]
    density = Density(nodes, np.full((1, size), 1 / size), np.zeros((1, size)), exact=True)
    return Spectrum("dense", highest, lowest, Trace(matrix.trace().item(), 0.0, 0), density, product.count)


def _not_finite(method: str, products: int, like: Tensor, size: int) -> Spectrum:
    empty, none = torch.zeros(0, dtype=DOUBLE), np.zeros((3, 0))
    pairs = Pairs(empty, like.new_zeros(0, size), empty)
    return Spectrum(method, pairs, pairs, Trace(math.nan, math.nan, 0), Density.of([none], 1), products)
