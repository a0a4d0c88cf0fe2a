"""Residuals: eigenvalues, layered media, the solver's own scheme, the matrix, rounding, derivatives."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pino.darcy import sign_fields, solve
from pino.fields import Fields
from pino.residual import RESIDUALS, Residual, upscale


def pack(signs: np.ndarray, u: np.ndarray, stride: int = 1, high: float = 12.0, f: float = 1.0) -> Fields:
    """Fields of signs (n, N, N) and u on all nodes."""
    bits = np.packbits(signs.reshape(len(signs), -1), axis=1)
    return Fields(bits, signs.shape[1], 3.0, high, f, np.ascontiguousarray(u[:, ::stride, ::stride]), stride)


def solved(count: int = 3, size: int = 43, high: float = 30.0, stride: int = 1, f: float = 1.0) -> Fields:
    """Random fields with their solutions."""
    signs = sign_fields(range(count), 0, size)
    u = solve(torch.from_numpy(np.where(signs, high, 3.0)), f).u.numpy()
    return pack(signs, u, stride, high, f)


def sine(size: int) -> np.ndarray:
    """sin(pi x) sin(pi y), 0 on the boundary."""
    line = np.linspace(0, 1, size)
    line = np.sin(np.pi * np.minimum(line, 1 - line))
    return np.outer(line, line)


def test_eigenvalues_for_a_constant_coefficient() -> None:
    """-div(a grad) has the sine as eigenfunction, and so have its differences, with known eigenvalues."""
    size, stride = 121, 2
    u, h = sine(61), 1 / 60
    fields = pack(np.zeros((1, size, size), bool), np.zeros((1, size, size)))
    for kind, value in (("published", 6 * (math.sin(math.pi * h) / h) ** 2),
                        ("flux", 6 * (2 * math.sin(math.pi * h / 2) / h) ** 2)):
        residual = Residual(kind, fields, stride, dtype=torch.float64)
        inner = slice(residual.reach, -residual.reach)
        found = residual.apply(torch.from_numpy(u)[None])[0].numpy()
        np.testing.assert_allclose(found, value * u[inner, inner], rtol=2e-11)
        if kind == "published":
            assert round(value, 4) == 59.1635
            assert found.shape == (57, 57)


@pytest.mark.parametrize("kind", ["published", "flux"])
def test_residual_of_nothing_is_one(kind: str) -> None:
    fields = solved(2, f=2.5)
    for dtype in (torch.float32, torch.float64):
        residual = Residual(kind, fields, 7, dtype=dtype)
        assert residual.relative(torch.zeros(2, 7, 7, dtype=dtype)).tolist() == [1, 1]


@pytest.mark.parametrize("stride", [1, 2, 5])
def test_layers_conduct_in_series_across_and_in_parallel_along(stride: int) -> None:
    a = np.repeat(np.random.default_rng(0).uniform(1, 9, (1, 21, 1)), 21, axis=2)
    faces = (a[0, 1:, 0] + a[0, :-1, 0]) / 2
    across = 1 / (1 / faces).reshape(-1, stride).mean(1)
    np.testing.assert_allclose(upscale(a, stride)[0], np.repeat(across[:, None], 20 // stride - 1, 1), rtol=1e-13)
    nodes, half = a[0, :, 0], stride // 2
    volumes = [nodes[k - half:k + half + 1] for k in range(stride, 20, stride)]
    weights = np.ones(2 * half + 1)
    weights[[0, -1]] = 1 if stride % 2 else 0.5
    along = [v @ weights / stride for v in volumes]
    np.testing.assert_allclose(upscale(a.transpose(0, 2, 1), stride)[0], np.tile(along, (20 // stride, 1)), rtol=1e-13)


def test_flux_at_stride_1_is_the_scheme_of_the_data() -> None:
    fields = solved()
    found = Residual("flux", fields, 1, dtype=torch.float64).relative(torch.from_numpy(fields.u))
    assert found.max() < 1e-7
    wide = Residual("published", fields, 1, dtype=torch.float64).relative(torch.from_numpy(fields.u))
    assert wide.min() > 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_corrected_vanishes_at_the_restricted_solution_only(dtype: torch.dtype) -> None:
    for stride, of_u in ((7, 7), (6, 2), (1, 1)):
        fields = solved(stride=of_u)
        residual = Residual("corrected", fields, stride, dtype=dtype)
        u = torch.from_numpy(fields.u[:, ::stride // of_u, ::stride // of_u].copy()).to(dtype)
        assert not residual.relative(u).any()
        p = residual.relative(1.01 * u)
        expected = 0.01 * torch.linalg.vector_norm(residual.apply(u), dim=(1, 2)) / residual.norm
        torch.testing.assert_close(p, expected, rtol=1e-2, atol=0)


@pytest.mark.parametrize("kind", RESIDUALS)
@pytest.mark.parametrize("stride", [1, 3, 6, 7])
def test_matrix_is_the_operator(kind: str, stride: int) -> None:
    fields = solved(3)
    residual = Residual(kind, fields, stride, dtype=torch.float64)
    size = 42 // stride + 1
    u = np.zeros((2, size, size))
    u[:, 1:-1, 1:-1] = np.random.default_rng(0).normal(size=(2, size - 2, size - 2))
    rows = torch.tensor([2, 0])
    found = residual.relative(torch.from_numpy(u), rows)
    for k, row in enumerate(rows.tolist()):
        matrix, rhs = residual.matrix(row)
        p = np.linalg.norm(matrix @ u[k, 1:-1, 1:-1].ravel() - rhs) / residual.norm
        assert found[k].item() == pytest.approx(p, rel=1e-13)
    assert sorted(residual.lattice()) == list(range(matrix.shape[0]))


@pytest.mark.parametrize("kind", RESIDUALS)
def test_both_axes_are_treated_alike(kind: str) -> None:
    fields = solved(2, stride=7)
    turned = pack(fields.signs().transpose(0, 2, 1), fields.u.transpose(0, 2, 1), high=30.0)
    turned = Fields(turned.bits, 43, 3.0, 30.0, 1.0, turned.u, 7)
    u = torch.randn(2, 7, 7, dtype=torch.float64)
    there, back = (Residual(kind, x, 7, dtype=torch.float64) for x in (fields, turned))
    torch.testing.assert_close(there.relative(u), back.relative(u.transpose(1, 2)), rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", ["published", "flux"])
def test_float32_keeps_five_digits(kind: str) -> None:
    fields = solved(3, 121, stride=2)
    exact, rounded = (Residual(kind, fields, 2, dtype=dtype).relative(torch.from_numpy(fields.u).to(dtype))
                      for dtype in (torch.float64, torch.float32))
    torch.testing.assert_close(rounded.double(), exact, rtol=1e-5, atol=0)


@pytest.mark.parametrize("kind", RESIDUALS)
def test_differentiable_twice(kind: str) -> None:
    residual = Residual(kind, solved(2), 6, dtype=torch.float64)
    u = torch.randn(2, 8, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(residual.relative, u) and torch.autograd.gradgradcheck(residual.relative, u)


def test_refuses_what_has_no_residual() -> None:
    fields = solved(1, stride=2)
    for kind, stride, message in (("wide", 2, "one of published, flux, corrected"), ("flux", 4, "does not divide"),
                                  ("published", 14, "4 nodes a side"), ("flux", 42, "2 nodes a side"),
                                  ("corrected", 3, "every 2-th node")):
        with pytest.raises(ValueError, match=message):
            Residual(kind, fields, stride)
