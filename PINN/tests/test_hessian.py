"""Hessian tools against dense matrices and dense Hessians, in float64 unless precision is the matter."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pinn.data import Grid
from pinn.hessian import flatten, hessian_product, top_eigenvalue
from pinn.model import MLP
from pinn.objective import Objective
from pinn.pdes import SYSTEMS

DOUBLE = torch.float64


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Gaussian numbers in float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def symmetric(eigenvalues: Tensor, seed: int = 0) -> Tensor:
    """Matrices (r, p, p) with these eigenvalues (r, p) and random eigenvectors."""
    q = torch.linalg.qr(normal(*eigenvalues.shape, eigenvalues.shape[-1], seed=seed)).Q
    return q @ torch.diag_embed(eigenvalues) @ q.mT


def apply(h: Tensor) -> Callable[[Tensor], Tensor]:
    """v (r, p) -> H v."""
    return lambda v: (h @ v[:, :, None])[:, :, 0]


def test_hessian_product_is_exact():
    """Against the dense Hessian; an unused and a linear parameter have none."""
    a = symmetric(normal(3, 6).abs(), 1)
    x, y, unused = normal(3, 6).requires_grad_(), normal(3, 2).requires_grad_(), normal(3, 1).requires_grad_()
    params, rows = [x, y, unused], torch.tensor([0, 2])
    loss = ((x * apply(a)(x)).sum(1) / 2 + y.sum(1)).sum()
    graph = torch.autograd.grad(loss, params, create_graph=True, allow_unused=True)
    v = normal(2, 9)
    expected = torch.cat([apply(a[rows])(v[:, :6]), torch.zeros(2, 3, dtype=DOUBLE)], 1)
    product = hessian_product(lambda: [graph], params, rows)
    torch.testing.assert_close(product(v), expected)
    torch.testing.assert_close(product(torch.stack([v, 2 * v])), torch.stack([expected, 2 * expected]))


def test_top_eigenvalue_of_matrices():
    """Indefinite, negative, far larger at the negative end, repeated, of rank one, and zero: side by side."""
    spectra = normal(6, 40, seed=1)
    spectra[1] = -spectra[1].abs()
    spectra[2, 0] = -100.0
    spectra[3, :5] = 7.0
    spectra[4] = 0.0
    spectra[4, 0] = 3.0
    spectra[5] = 0.0
    matrices = symmetric(spectra, 2)
    top = top_eigenvalue(apply(matrices), normal(6, 40, seed=3), tol=1e-9)
    torch.testing.assert_close(top.value, spectra.amax(1), rtol=1e-9, atol=1e-9)
    assert (top.residual <= 1e-9 * spectra.abs().amax(1) + 1e-12).all()
    assert top.products[4] == 2 and top.products[5] == 1 and top.products.max() <= 40
    alone = [top_eigenvalue(apply(m[None]), v[None], tol=1e-9) for m, v in zip(matrices, normal(6, 40, seed=3))]
    torch.testing.assert_close(torch.cat([t.value for t in alone]), top.value, rtol=1e-12, atol=1e-12)
    assert torch.cat([t.products for t in alone]).tolist() == top.products.tolist()


@pytest.mark.parametrize("lowest", [-1e2, -1e4, -1e6])
def test_top_eigenvalue_beside_a_far_larger_negative_one(lowest):
    """The default tolerance is relative to the eigenvalue, not to the largest in magnitude."""
    diagonal = torch.linspace(-1, 1, 500, dtype=DOUBLE)
    diagonal[0], diagonal[-1] = lowest, 8.0
    top = top_eigenvalue(lambda v: diagonal * v, normal(5, 500, seed=6))
    torch.testing.assert_close(top.value, torch.full((5,), 8.0, dtype=DOUBLE), rtol=1e-3, atol=0)
    assert (top.residual <= 8e-3).all()


def test_top_eigenvalue_stops_where_it_is_told():
    """The residual is that of the matrix and bounds the error; a limit and a number that is not finite end it."""
    matrix = symmetric(torch.linspace(-1, 1, 200, dtype=DOUBLE)[None] ** 3)
    for tol in (1e-1, 1e-3, 1e-6):
        top = top_eigenvalue(apply(matrix), normal(1, 200, seed=4), tol=tol)
        assert abs(top.value - 1) <= top.residual <= tol and top.products < 100
    limited = top_eigenvalue(apply(matrix), normal(1, 200, seed=4), tol=0.0, max_iter=5)
    assert limited.products == 5 and 0.5 < limited.value < 1
    broken = symmetric(normal(2, 8).abs())
    broken[0, 3, 3] = torch.nan
    top = top_eigenvalue(apply(broken), normal(2, 8, seed=5), tol=1e-10)
    assert top.value[0].isnan() and top.products[0] == 1
    torch.testing.assert_close(top.value[1], torch.linalg.eigvalsh(broken[1])[-1])


@pytest.mark.parametrize("dtype, tolerance", [(DOUBLE, 1e-9), (torch.float32, 1e-4)])
def test_top_eigenvalue_of_a_pinn(dtype, tolerance):
    """Two networks of 57 weights on convection against their dense Hessians."""
    objective = Objective(SYSTEMS["convection"], [5.0, 30.0], {}, 40, [0, 0], Grid((0, 6.283185307179586), 17, 11),
                          dtype=dtype)
    params = list(MLP([0, 1], (4, 6), dtype, "cpu").parameters())
    rows = torch.arange(2)
    graph = torch.autograd.grad(objective.losses(params, rows).sum(), params, create_graph=True)
    product = hessian_product(lambda: [graph], params, rows)
    size = flatten(params, params).shape[1]
    dense = torch.stack([product(torch.eye(size, dtype=dtype)[k].repeat(2, 1)) for k in range(size)], -1)
    torch.testing.assert_close(dense, dense.mT, rtol=1e-3, atol=1e-3)
    start = torch.randn(2, size, generator=torch.Generator().manual_seed(0), dtype=dtype)
    top = top_eigenvalue(product, start, tol=tolerance)
    torch.testing.assert_close(top.value, torch.linalg.eigvalsh(dense.double())[:, -1], rtol=tolerance, atol=0)
