"""Eigenpairs, trace and density of one matrix: against closed forms, dense matrices and other programs, in float64."""

import math
import sys
from collections.abc import Callable
from pathlib import Path

import curvlinops
import numpy as np
import pyhessian
import pytest
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pinn import spectrum as module
from pinn.data import Grid
from pinn.density import Density
from pinn.hessian import hessian_product
from pinn.model import MLP
from pinn.objective import Objective
from pinn.pdes import SYSTEMS
from pinn.spectrum import deflated_trace, dense, lanczos, of_one, quadrature, ritz, signs, spectrum

DOUBLE = torch.float64
LIKE = torch.zeros(0, dtype=DOUBLE)


def generator(seed: int = 0) -> torch.Generator:
    """Random numbers on the CPU."""
    return torch.Generator().manual_seed(seed)


def symmetric(eigenvalues: Tensor, seed: int = 0) -> Tensor:
    """A matrix (p, p) with these eigenvalues (p,) and random eigenvectors."""
    normal = torch.randn(len(eigenvalues), len(eigenvalues), generator=generator(seed), dtype=DOUBLE)
    q = torch.linalg.qr(normal).Q
    return q * eigenvalues @ q.T


def apply(matrix: Tensor) -> Callable[[Tensor], Tensor]:
    """v (c, p) -> A v."""
    return lambda v: v @ matrix.to(v)


def outliers(size: int = 150) -> Tensor:
    """Eigenvalues as of a Hessian: few large ones of both signs, a bulk, and a third next to zero."""
    values = torch.linspace(-1, 2, size, dtype=DOUBLE) ** 3
    values[: size // 3] *= 1e-6
    values[-5:] = torch.tensor([-60, -25, 30, 80, 200.0], dtype=DOUBLE)
    return values


# ---- matrices ------------------------------------------------------------------------------------------------------


def moment(density: Density, k: int) -> tuple[float, float]:
    """Mean of lambda^k over all eigenvalues, tr(A^k) / p, and its standard error over the probes."""
    each = np.where(np.isnan(density.nodes), 0.0, density.weights * density.nodes**k).sum(1)
    return each.mean(), each.std(ddof=1) / math.sqrt(len(each)) if len(each) > 1 else 0.0


def resolved(pairs: module.Pairs, tol: float = 1e-3) -> Tensor:
    """Which pairs are eigenvalues, (k,)."""
    return pairs.residuals <= tol * pairs.values.abs()


@pytest.mark.parametrize("chunk", [1, 2])
def test_quadratic_toy(chunk):
    """L = sum a_i w_i^2 / 2: eigenvalues, the trace with one sample, and all moments, from six distinct a_i."""
    distinct = torch.tensor([-3.0, -0.5, 0.0, 1.0, 4.0, 50.0], dtype=DOUBLE)
    a = distinct.repeat_interleave(torch.tensor([2, 10, 30, 10, 7, 1]))
    found = spectrum(lambda v: a * v, 60, like=LIKE, method="lanczos", top=2, probes=3, iterations=20, chunk=chunk)
    assert found.highest.values[0].item() == pytest.approx(50) and found.lowest.values[0].item() == pytest.approx(-3)
    assert found.highest.residuals.max() < 1e-12 and found.norm == pytest.approx(50)
    assert found.density.ritz_values == 18 and found.products <= 18 + 4 + 100  # each probe ends after six steps
    np.testing.assert_allclose(found.density.weights.sum(1), 1)
    for k in range(12):  # of random signs, every one weighs the same
        assert moment(found.density, k) == pytest.approx((float((a**k).mean()), 0.0), rel=1e-9, abs=1e-9 * 50.0**k)
    assert found.density.mass_below(-1e-9) == pytest.approx((12 / 60, 0, 12 / 60, 12 / 60))
    assert found.density.mass_within(1e-9) == pytest.approx((0.5, 0, 0.5, 0.5))
    assert 60 * moment(found.density, 1)[0] == pytest.approx(a.sum().item())
    one = deflated_trace(lambda v: a * v, lambda count: signs(generator(), count, 60, LIKE), samples=1)
    assert one.value == pytest.approx(a.sum().item(), rel=1e-14) and one.samples == 1 and math.isnan(one.error)


def test_all_of_a_matrix(monkeypatch):
    """Pairs, residuals and trace against the dense answer, which is the same object; neither chunks nor how many bases
    are held at a time change anything.
    """
    values, seed, together = outliers(), 0, []
    matrix = symmetric(values, seed)
    monkeypatch.setattr(module, "BASES", 2.5 * 41 * 150 * 8)  # two and a half of them
    monkeypatch.setattr(module, "lanczos", lambda product, starts, steps: together.append(len(starts)) or lanczos(
        product, starts, steps))
    exact = spectrum(apply(matrix), 150, like=LIKE, chunk=64)
    assert (exact.method, exact.products, exact.trace.error) == ("dense", 150, 0)
    torch.testing.assert_close(exact.highest.values, values.sort(descending=True).values[:5])
    assert exact.trace.value == pytest.approx(values.sum().item())
    assert moment(exact.density, 3) == pytest.approx(((values**3).mean().item(), 0.0))
    assert exact.density.ritz_negative_share == pytest.approx((values < 0).double().mean().item())
    found, chunked = (spectrum(apply(matrix), 150, like=LIKE, method="lanczos", iterations=40, chunk=chunk, seed=seed)
                      for chunk in (1, 4))
    assert together == [1] * 10 + [2] * 5
    for pairs, others, known, sign in [(found.highest, chunked.highest, exact.highest, -1),
                                       (found.lowest, chunked.lowest, exact.lowest, 1)]:
        assert resolved(pairs)[:2].all() and (pairs.values.diff() * sign >= 0).all()
        assert ((pairs.values - known.values) * sign > -1e-9).all()  # from within
        true = (pairs.vectors @ matrix - pairs.values[:, None] * pairs.vectors).norm(dim=1)
        torch.testing.assert_close(pairs.residuals, true, rtol=1e-6, atol=1e-11)
        assert ((pairs.values - known.values).abs() <= pairs.residuals + 1e-10)[resolved(pairs)].all()
        torch.testing.assert_close(pairs.vectors @ pairs.vectors.T, torch.eye(5, dtype=DOUBLE))
        torch.testing.assert_close(pairs.values, others.values, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(torch.tensor(found.trace), torch.tensor(chunked.trace), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.density.nodes, chunked.density.nodes, rtol=1e-6, atol=1e-6)
    assert found.products == chunked.products == 400 + 10 + found.trace.samples
    assert abs(found.trace.value - exact.trace.value) <= 4 * found.trace.error


def test_multiple_eigenvalues():
    """One probe sees a multiple eigenvalue once; the probes together as often as there are probes."""
    values = torch.linspace(-1, 1, 100, dtype=DOUBLE)
    values[:3], values[-2:] = 7.0, -9.0
    one, more = (spectrum(apply(symmetric(values)), 100, like=LIKE, method="lanczos", top=4, probes=probes,
                          iterations=15) for probes in (1, 4))  # rounding brings the others in from about 25
    assert one.highest.values[0].item() == pytest.approx(7) and one.highest.values[1] < 1.1
    torch.testing.assert_close(more.highest.values[:3], values[:3])
    assert more.highest.values[3] < 1.1 and more.lowest.values[2] > -1.1
    assert resolved(more.highest, 1e-8)[:3].all() and resolved(more.lowest, 1e-8)[:2].all()
    assert more.trace.value == pytest.approx(values.sum().item(), abs=4 * more.trace.error)


@pytest.mark.parametrize("values", [[0.0] * 4, [-2.0], [3.0, -1.0], [5.0, 1.0, -4.0], [8.0, 3.0] + 28 * [0.0]])
def test_tiny_and_rank_deficient(values):
    """Fewer rows, or distinct eigenvalues, than steps: every probe ends there, and what it knows is exact."""
    matrix, exact = symmetric(torch.tensor(values, dtype=DOUBLE)), sorted(values)
    found = spectrum(apply(matrix), len(values), like=LIKE, method="lanczos", top=2, probes=8, iterations=30)
    few = min(2, len(values))
    assert found.lowest.values.tolist() == pytest.approx(exact[:few], abs=1e-12)
    assert found.highest.values.tolist() == pytest.approx(exact[::-1][:few], abs=1e-12)
    assert max(found.highest.residuals.max(), found.lowest.residuals.max()) < 1e-12
    assert found.density.ritz_values <= 8 * (len(set(values)) + 1)
    zero = found.density.mass_within(1e-9)
    assert zero.least == zero.value == zero.most
    assert zero.value == pytest.approx(values.count(0) / len(values), abs=4 * zero.error + 1e-12)
    assert found.trace.value == pytest.approx(sum(values), abs=4 * found.trace.error + 1e-9)
    if len(set(values)) == len(values):  # V spans everything
        assert found.trace.error < 1e-12


def test_trace_has_the_error_that_it_states():
    """Without bias and with rms (estimate - trace) / error of 1, over seeds; a negative trace takes its samples too."""
    values = outliers(80) - 1
    matrix = symmetric(values)
    traces = [spectrum(apply(matrix), 80, like=LIKE, method="lanczos", top=1, probes=1, iterations=8, seed=seed,
                       trace_samples=40).trace for seed in range(60)]
    scores = np.array([(t.value - values.sum().item()) / t.error for t in traces])
    assert abs(scores.mean()) < 4 / math.sqrt(60) and 0.75 < math.sqrt((scores**2).mean()) < 1.35
    negative = symmetric(-values.abs(), 1)
    rng = generator()
    few, all_of_them = (deflated_trace(apply(negative), lambda count: signs(rng, count, 80, LIKE), 50, tol)
                        for tol in (10.0, 0.0))
    assert few.samples == 10 and all_of_them.samples == 50  # not two
    assert abs(all_of_them.value + values.abs().sum().item()) < 4 * all_of_them.error


def test_the_trace_of_the_density():
    """p sum w theta is Hutchinson's estimate; taking the large eigenvalues out is far more precise."""
    matrix = symmetric(outliers(300), 5)
    found = spectrum(apply(matrix), 300, like=LIKE, method="lanczos", probes=20, iterations=50, trace_samples=20)
    (plain, error), trace = (300 * x for x in moment(found.density, 1)), matrix.trace().item()
    assert abs(plain - trace) < 3 * error and abs(found.trace.value - trace) < 3 * found.trace.error
    assert found.trace.error < error / 10


def test_bounds_of_masses():
    """They hold for each start's own distribution, everywhere; inside the cluster next to zero they are far apart."""
    values = outliers()
    q = torch.linalg.eigh(symmetric(values))
    starts = signs(generator(3), 6, 150, LIKE)
    krylov = lanczos(apply(symmetric(values)), starts, 12)
    for row, start in enumerate(starts):
        density = Density.of([quadrature(krylov, row, *ritz(krylov, row))], 12)
        weights = (q.eigenvectors.T @ start) ** 2 / 150
        nodes = density.nodes[0]
        for x in np.concatenate([np.linspace(-70, 210, 60), np.linspace(-1, 1, 41), nodes - 1e-6, nodes + 1e-6]):
            below, within = density.mass_below(x), density.mass_within(abs(x))
            assert below.least - 1e-9 <= weights[q.eigenvalues < x].sum().item() <= below.most + 1e-9
            assert within.least - 1e-9 <= weights[q.eigenvalues.abs() <= abs(x)].sum().item() <= within.most + 1e-9
            assert below.least - 1e-12 <= below.value <= below.most + 1e-12 and math.isnan(below.error)
    unresolved = spectrum(apply(symmetric(values)), 150, like=LIKE, method="lanczos", iterations=12).density
    assert unresolved.mass_within(1e-9).least == 0 and unresolved.mass_within(1e-9).most > 0.3
    coarse = unresolved.mass_below(-10)
    assert coarse.value == pytest.approx(2 / 150, abs=4 * coarse.error) and coarse.most - coarse.least < 0.005


def test_a_gap_and_a_cluster_are_told():
    """Bounds are sharp where few steps tell: in a gap between clusters, and at a cluster without width."""
    values = torch.cat([torch.zeros(70), torch.linspace(2, 3, 28), torch.tensor([-5.0, 40])]).to(DOUBLE)
    density = spectrum(apply(symmetric(values)), 100, like=LIKE, method="lanczos", iterations=12, probes=20).density
    below, within, gap = density.mass_below(-1e-3), density.mass_within(1e-3), density.mass_below(1)
    for mass, true in [(below, 0.01), (within, 0.7), (gap, 0.71)]:
        assert mass.most - mass.least < 1e-3 and mass.value == pytest.approx(true, abs=4 * mass.error)


@pytest.mark.parametrize("scale", [1e-5, 1.0, 1e5])
def test_curve(scale):
    """A mixture of Gaussians of the published variance, their masses right at any range; in proportion below 1."""
    rules = [[[-2, 1], [0.25, 0.75], [0, 0]], [[0, 3, 998], [0.5, 0.25, 0.25], [0, 0, 0]]]
    density = Density.of([np.array([np.array(rule[0]) * scale, *rule[1:]]) for rule in rules], 3)
    x, phi = density.curve()
    reach = 1000 * scale
    variance = 5e-5 * reach * min(reach, 1)
    expected = sum(w / 2 * np.exp(-((x - node * scale) ** 2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)
                   for node, w in [(-2, 0.25), (1, 0.75), (0, 0.5), (3, 0.25), (998, 0.25)])
    np.testing.assert_allclose(phi, expected, rtol=1e-3, atol=1e-9 / reach)
    far = x > 500 * scale
    assert np.trapezoid(phi, x) == pytest.approx(1, rel=1e-6)
    assert np.trapezoid(phi[far], x[far]) == pytest.approx(0.125, rel=1e-6)


def test_dense_refuses_what_is_not_a_hessian():
    torch.testing.assert_close(dense(apply(symmetric(outliers())), 150, LIKE, 7), symmetric(outliers()))
    for product in (lambda v: v.cumsum(-1), lambda v: v + torch.arange(9.0)):
        with pytest.raises(ValueError, match="not that of a symmetric matrix"):
            dense(product, 9, LIKE)


@pytest.mark.parametrize("method", ["dense", "lanczos"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_not_finite(method, bad):
    """Said, and no more products are spent."""
    matrix = symmetric(outliers(40))
    matrix[3, 5] = matrix[5, 3] = bad
    found = spectrum(apply(matrix), 40, like=LIKE, method=method)
    assert not found.finite and found.products == (40 if method == "dense" else 1)
    assert len(found.highest.values) == 0 and math.isnan(found.trace.value) and math.isnan(found.norm)
    assert found.density.ritz_values == 0 and found.density.nodes.shape == (1, 1)


def test_single_precision():
    """Vectors in float32, coefficients in float64: eigenvalues up to that rounding, residuals that do not lie."""
    matrix = symmetric(outliers())
    found = spectrum(apply(matrix), 150, like=LIKE.float(), method="lanczos", iterations=60)
    assert found.highest.vectors.dtype == torch.float32 and found.highest.values.dtype == DOUBLE
    torch.testing.assert_close(found.highest.values[:3], torch.tensor([200, 80, 30], dtype=DOUBLE), rtol=1e-6, atol=0)
    assert resolved(found.highest, 1e-5)[:3].all()
    assert found.trace.value == pytest.approx(outliers().sum().item(), abs=4 * found.trace.error + 1e-3)
    exact = spectrum(apply(matrix), 150, like=LIKE.float())
    torch.testing.assert_close(exact.lowest.values[:2], torch.tensor([-60, -25], dtype=DOUBLE), rtol=1e-6, atol=0)


# ---- a PINN --------------------------------------------------------------------------------------------------------


class Convection(nn.Module):
    """The same network and loss, written down once more: the sum of squares of what it gives, at N_f points."""

    def __init__(self, params: list[Tensor], objective: Objective) -> None:
        super().__init__()
        self.params = nn.ParameterList(p.detach().clone() for p in params)
        grid, self.beta = objective.grid, objective.physical[0]
        self.register_buffer("interior", objective.interior[0])
        for name, points in [("initial", grid.initial), ("right", grid.boundary(1)), ("left", grid.boundary(0))]:
            self.register_buffer(name, torch.tensor(points, dtype=DOUBLE))

    def u(self, points: Tensor) -> Tensor:
        """(n, 2) -> (n,)."""
        half = len(self.params) // 2
        for k in range(half):
            points = (points.tanh() if k else points) @ self.params[k][0] + self.params[half + k][0]
        return points[:, 0]

    def forward(self, factor: Tensor) -> Tensor:
        """`factor` (1,) is 1: a data set of one, for curvlinops."""
        along = torch.tensor([self.beta, 1.0], dtype=DOUBLE).expand_as(self.interior)
        _, residual = torch.func.jvp(self.u, (self.interior,), (along,))
        initial = self.u(self.initial) - self.initial[:, 0].sin()
        periodic = self.u(self.right) - self.u(self.left)
        return factor * torch.cat([c / math.sqrt(len(c)) for c in (residual, initial, periodic)])


class SquareSum(nn.Module):
    """The sum of squares, whatever there is to compare with."""

    reduction = "sum"

    def forward(self, c: Tensor, _: Tensor) -> Tensor:
        """(n,) -> ()."""
        return c.square().sum()


def pinn(hidden: tuple[int, ...], beta: float) -> tuple[Convection, Callable[[Tensor], Tensor], int]:
    """A network at its initial weights: as written down once more, its Hessian by product, and its size."""
    grid = Grid((0, 2 * math.pi), 17, 11)
    objective = Objective(SYSTEMS["convection"], [beta], {}, 40, [0], grid, dtype=DOUBLE)
    params = list(MLP([0], hidden, DOUBLE, "cpu").parameters())
    rows = torch.arange(1)
    graph = torch.autograd.grad(objective.losses(params, rows).sum(), params, create_graph=True)
    size = sum(p.numel() for p in params)
    return Convection(params, objective), of_one(hessian_product(lambda: [graph], params, rows)), size


def test_spectrum_of_a_pinn():
    """Both ends, trace and masses against the exact spectrum; vectors batched by vmap or one at a time."""
    _, product, size = pinn((12, 12), 5.0)
    exact = spectrum(product, size, like=LIKE, chunk=50)
    assert exact.method == "dense" and size == 205 and exact.lowest.values[0] < -1
    found, chunked = (spectrum(product, size, like=LIKE, method="lanczos", iterations=40, probes=6, chunk=chunk)
                      for chunk in (1, 6))
    for pairs in ("highest", "lowest"):
        close, other = getattr(found, pairs), getattr(chunked, pairs)
        torch.testing.assert_close(close.values, getattr(exact, pairs).values, rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(close.values, other.values, rtol=1e-9, atol=1e-9)
        assert resolved(close).all()
    assert found.trace == pytest.approx(chunked.trace)
    assert abs(found.trace.value - exact.trace.value) < 4 * found.trace.error
    for eps in (1e-6, 1e-3, 0.1, 0.3):
        for mass in ("mass_below", "mass_within"):
            x = eps * exact.norm * (-1 if mass == "mass_below" else 1)
            true, ours = getattr(exact.density, mass)(x), getattr(found.density, mass)(x)
            assert true.error == 0 and true.least == true.value == true.most
            assert ours.least - 4 * ours.error <= true.value <= ours.most + 4 * ours.error
    assert ours.most - ours.least < 0.02 and abs(ours.value - true.value) < 0.02  # resolved at 0.3


def test_pinn_against_torch_func():
    """The dense matrix, from the loss written down once more and forward over reverse differentiation."""
    again, product, size = pinn((4, 5), 30.0)
    names = [name for name, _ in again.named_parameters()]
    shapes = [p.shape for p in again.parameters()]
    flat = torch.cat([p.detach().flatten() for p in again.parameters()])

    def loss(w: Tensor) -> Tensor:
        pieces = [v.reshape(shape) for v, shape in zip(w.split([s.numel() for s in shapes]), shapes, strict=True)]
        weights = dict(zip(names, pieces, strict=True))
        return torch.func.functional_call(again, weights, (torch.ones(1, dtype=DOUBLE),)).square().sum()

    torch.testing.assert_close(dense(product, size, LIKE, 16), torch.func.hessian(loss)(flat), rtol=1e-9, atol=1e-9)


def test_pinn_against_other_programs():
    """Products are those of curvlinops; the eigenvalue of largest magnitude and the trace are PyHessian's."""
    again, product, size = pinn((8, 8), 5.0)
    one, loss = torch.ones(1, dtype=DOUBLE), SquareSum()
    theirs = curvlinops.HessianLinearOperator(again, loss, list(again.parameters()), [(one, one)])
    v = torch.randn(3, size, generator=generator(1), dtype=DOUBLE)
    torch.testing.assert_close(product(v), (theirs @ v.T).T, rtol=1e-9, atol=1e-9)
    found = spectrum(product, size, like=LIKE, method="lanczos", probes=4, iterations=60, chunk=4)
    torch.set_default_dtype(DOUBLE)  # of PyHessian's random vectors
    try:
        torch.manual_seed(0)
        other = pyhessian.hessian(again, loss, data=(one, one), cuda=False)
        (largest,), _ = other.eigenvalues(maxIter=1000, tol=1e-8)
        samples = np.array(other.trace(maxIter=100, tol=-math.inf))  # ended by a negative trace otherwise
    finally:
        torch.set_default_dtype(torch.float32)
    extreme = max(found.highest.values[0].item(), found.lowest.values[0].item(), key=abs)
    assert extreme == pytest.approx(largest, rel=1e-5)
    error = math.hypot(samples.std() / math.sqrt(100), found.trace.error)
    assert len(samples) == 100 and abs(samples.mean() - found.trace.value) < 4 * error
