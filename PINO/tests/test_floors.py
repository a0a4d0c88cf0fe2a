"""Floors: dual bounds, an independent minimiser, the two ends, the known table, the file beside the data."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pino import floors as module
from pino.darcy import sign_fields, solve
from pino.fields import Fields
from pino.floors import floors, minimum
from pino.residual import Residual
from scipy import sparse
from scipy.optimize import minimize


def solved(count: int, size: int, stride: int, ratio: float = 10.0, source: Path | None = None) -> Fields:
    """Random fields with their solutions at every `stride`-th node."""
    signs = sign_fields(range(count), 0, size)
    u = np.concatenate([solve(torch.from_numpy(np.where(signs[k:k + 4], 3 * ratio, 3.0))).u[:, ::stride, ::stride]
                        for k in range(0, count, 4)])
    bits = np.packbits(signs.reshape(count, -1), axis=1)
    return Fields(bits, size, 3.0, 3 * ratio, 1.0, u.astype(np.float32), stride, source)


def terms(fields: Fields, kind: str, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """d and p of grid functions u (n, S, S), by definition."""
    truth = fields.u.astype(np.float64)
    d = np.linalg.norm(u - truth, axis=(1, 2)) / np.linalg.norm(truth, axis=(1, 2))
    residual = Residual(kind, fields, fields.stride, dtype=torch.float64)
    return d, residual.relative(torch.from_numpy(np.ascontiguousarray(u, np.float64))).numpy()


def test_dual_certifies_the_minimum_and_both_ends() -> None:
    """Primal - dual bounds the error; weights from one end of the path to the other."""
    random = np.random.default_rng(0)
    for rows, columns in ((12, 12), (9, 15)):
        dense = random.normal(size=(rows, columns)) + 3 * np.eye(rows, columns)
        matrix, c = sparse.csr_array(dense), random.normal(size=rows)
        multipliers = []
        for a in np.logspace(-3, 2, 101):
            e, y, m = minimum(matrix, c, a, 1.0)
            value = a * np.linalg.norm(e) + np.linalg.norm(dense @ e + c)
            assert np.linalg.norm(y) <= 1 + 1e-8 and np.linalg.norm(dense.T @ y) <= a * (1 + 1e-8)
            assert abs(value - y @ c) < 1e-8 * value
            multipliers.append(m)
            if m == 0:
                assert not e.any()
            if m == math.inf:
                np.testing.assert_allclose(dense @ e, -c, atol=1e-10)
        assert multipliers[0] == math.inf and multipliers[-1] == 0
        inner = [m for m in multipliers if 0 < m < math.inf]
        assert len(inner) > 5 and inner == sorted(inner, reverse=True)


def test_weights_of_nothing() -> None:
    matrix, c = sparse.csr_array(np.diag([1.0, 2.0, 4.0])), np.ones(3)
    assert not minimum(matrix, c, 1.0, 0.0)[0].any()
    np.testing.assert_allclose(minimum(matrix, c, 0.0, 1.0)[0], [-1, -0.5, -0.25])
    assert not minimum(matrix, np.zeros(3), 1.0, 1.0)[0].any()


@pytest.mark.parametrize("kind", ["published", "flux"])
def test_floor_is_what_a_general_minimiser_finds(kind: str) -> None:
    fields = solved(2, 64, 7)
    found = floors(fields, kind, 7)
    residual, truth = Residual(kind, fields, 7, dtype=torch.float64), torch.from_numpy(fields.u).double()
    for row in range(2):
        def value(inside: np.ndarray, row: int = row) -> tuple[float, np.ndarray]:
            x = torch.from_numpy(inside).requires_grad_()
            u = torch.nn.functional.pad(0.01 * x.view(8, 8), (1, 1, 1, 1))
            loss = 5 * (u - truth[row]).norm() / truth[row].norm() + residual.relative(u[None], slice(row, row + 1))[0]
            return loss.item(), torch.autograd.grad(loss, x)[0].numpy()

        start = 100 * fields.u[row, 1:-1, 1:-1].astype(np.float64).ravel() + 1e-3
        best = minimize(value, start, jac=True, method="BFGS", options=dict(gtol=1e-12, maxiter=5000)).fun
        assert found.loss[row] == pytest.approx(best, rel=1e-6)
        assert found.loss[row] <= best * (1 + 1e-9)


@pytest.mark.parametrize("kind", ["published", "flux", "corrected"])
def test_no_candidate_lies_below(kind: str) -> None:
    fields = solved(3, 71, 7)
    found, random = floors(fields, kind, 7), np.random.default_rng(0)
    truth = fields.u.astype(np.float64)
    d, p = terms(fields, kind, truth)
    assert not d.any() and (found.loss <= p).all() and (kind == "corrected") == (not p.any())
    np.testing.assert_allclose(found.loss, 5 * found.d + found.p, rtol=1e-12)
    for size in np.logspace(-4, 0, 20):
        smooth = random.normal(size=(3, 1, 1)) * truth + 0.1 * size * random.normal(size=truth.shape) * truth
        d, p = terms(fields, kind, truth + size * smooth)
        assert (found.loss < 5 * d + p).all()


def test_table_of_the_published_residual() -> None:
    """J*, d and p of 40 fields of an earlier, anisotropic sampling; ours may differ by three standard errors."""
    count = 16
    for ratio, truth, loss, spread, d, p in ((4, 1.42, 0.064, 0.011, 0.0121, 0.0039),
                                             (10, 3.19, 0.118, 0.022, 0.0216, 0.0101)):
        fields = solved(count, 421, 7, ratio)
        found = floors(fields, "published", 7)
        errors = 3 * math.sqrt(1 / count + 1 / 40)
        assert abs(found.loss.mean() - loss) < errors * spread
        assert 0.5 * spread < found.loss.std() < 2 * spread
        assert abs(found.d.mean() - d) < errors * 0.25 * d and abs(found.p.mean() - p) < errors * 0.5 * p
        at_truth = terms(fields, "published", fields.u)[1]
        assert abs(at_truth.mean() - truth) < errors * max(at_truth.std(), 0.1 * truth)
        flux = floors(fields, "flux", 7, count=4)
        assert flux.loss.mean() < found.loss.mean() / 4


def test_homogeneous_field_has_the_known_floor() -> None:
    found = floors(solved(1, 421, 7, 1.0), "published", 7)
    assert round(found.loss[0], 4) == 0.0013 and round(found.d[0], 4) == 0.0001 and round(found.p[0], 4) == 0.0008


def test_rows_are_kept_beside_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fields, solves = solved(6, 43, 7, source=tmp_path / "darcy.h5"), []
    monkeypatch.setattr(module, "minimum", lambda *args: solves.append(1) or minimum(*args))

    def check(fields: Fields, count: int, new: int, kind: str = "published", **weights: float) -> None:
        solves.clear()
        found = floors(fields, kind, 7, count=count, **weights)
        assert len(solves) == new
        alone = floors(replace(fields, source=None), kind, 7, **weights)
        for name in ("loss", "d", "p"):  # to the last bit, whatever was there before
            np.testing.assert_array_equal(getattr(found, name), getattr(alone, name)[:count])

    check(fields, 2, 2)
    check(fields, 2, 0)
    check(fields, 5, 3)
    check(fields, 3, 0)
    check(fields, 6, 1)
    assert len(list(tmp_path.iterdir())) == 1
    check(fields, 2, 2, "flux")
    check(fields, 2, 2, xy_loss=7.0)
    changed = fields.u.copy()
    changed[3] *= 2
    check(replace(fields, u=changed), 6, 3)  # from the changed row on
    check(replace(fields, high=31.0), 6, 6)
    check(fields, 6, 6)
    file = tmp_path / "darcy.h5.floors_published_7_5_1.npz"
    for damage in (file.read_bytes()[:-40], b"", b"nothing"):
        file.write_bytes(damage)
        check(fields, 2, 2)
    check(replace(fields, source=file / "below" / "darcy.h5"), 2, 2)  # cannot be written


def test_what_was_found_before_an_interruption_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fields, solves = solved(4, 43, 7, source=tmp_path / "darcy.h5"), []
    monkeypatch.setattr(module, "SAVE_EVERY", 0.0)

    def stop(*args: object) -> object:
        solves.append(1)
        if len(solves) == 3:
            raise KeyboardInterrupt
        return minimum(*args)

    monkeypatch.setattr(module, "minimum", stop)
    with pytest.raises(KeyboardInterrupt):
        floors(fields, "published", 7)
    floors(fields, "published", 7)
    assert len(solves) == 3 + 2


def test_refuses_another_grid() -> None:
    with pytest.raises(ValueError, match="every 7-th node"):
        floors(solved(1, 43, 7), "published", 6)
