"""Random sign fields by their statistics, the solver by sparse direct solutions and closed forms."""

import numpy as np
import pytest
import scipy.fft
import scipy.sparse as sp
import torch
from pino import darcy
from pino.darcy import sign_fields, solve
from scipy.sparse.linalg import spsolve


def direct(a: np.ndarray, f: float = 1.0) -> np.ndarray:
    """u (N, N) from the incidence matrix of the nodes' faces, by sparse LU."""
    size = len(a)
    difference = sp.diags([-1.0, 1.0], [0, 1], (size - 1, size))
    gradients = sp.kron(difference, sp.eye(size)), sp.kron(sp.eye(size), difference)
    faces = (a[1:] + a[:-1]) / 2, (a[:, 1:] + a[:, :-1]) / 2
    matrix = sum(g.T @ sp.diags(face.ravel()) @ g for g, face in zip(gradients, faces)) * (size - 1) ** 2
    inner = np.zeros((size, size), bool)
    inner[1:-1, 1:-1] = True
    inner, u = np.flatnonzero(inner), np.zeros(size**2)
    u[inner] = spsolve(sp.csc_matrix(matrix)[inner][:, inner], np.full(len(inner), f))
    return u.reshape(size, size)


def two_phase(signs: np.ndarray, r: float) -> torch.Tensor:
    return torch.from_numpy(np.where(signs, 3.0 * r, 3.0))


# ---- sign fields -------------------------------------------------------------------------------


@pytest.mark.parametrize("grf", darcy.GRF)
def test_a_sample_depends_on_seed_split_and_row_alone(grf):
    all_rows = sign_fields(range(6), 3, 31, grf)
    assert all_rows.shape == (6, 31, 31) and all_rows.dtype == bool
    assert (sign_fields(range(2, 5), 3, 31, grf) == all_rows[2:5]).all()
    others = [sign_fields(range(6), 4, 31, grf), sign_fields(range(6), 3, 31, grf, split="test"), all_rows[::-1]]
    for other in [*others, sign_fields(range(6), 3, 31, grf, alpha=4), sign_fields(range(6), 3, 31, grf, tau=30)]:
        assert ((other != all_rows).mean((1, 2)) > 0.01).all()


@pytest.mark.parametrize(("grf", "ratio"), [("periodic", 1), ("published", 0.5)])
def test_modes_have_the_variance_of_the_covariance_operator(grf, ratio):
    size, tau, alpha, power = 32, 3.0, 2.0, 0
    amplitude, random = darcy._amplitude(size, grf, tau, alpha), np.random.default_rng(0)
    for _ in range(4000):
        power = power + abs(np.fft.fft2(darcy._field(random, amplitude, grf))) ** 2
    k = size * np.fft.fftfreq(size)
    power *= (4 * np.pi**2 * (k[:, None] ** 2 + k**2) + tau**2) ** alpha  # now alike for all modes
    assert power[0, 0] < 1e-20 * power[0, 1]
    one, two = power[1:6, 0].mean(), power[0, 1:6].mean()  # each of 20,000 exponential variables: 1 % of error
    assert one / two == pytest.approx(ratio, rel=0.05)
    assert power[1:6, 1:6].mean() / two == pytest.approx(1, rel=0.05)
    assert power[0, 1:3].mean() / power[0, 8:10].mean() == pytest.approx(1, rel=0.06)


def test_cosine_modes_have_the_variance_of_the_covariance_operator():
    size, tau, alpha, power = 33, 3.0, 2.0, 0
    amplitude, random = darcy._amplitude(size, "neumann", tau, alpha), np.random.default_rng(0)
    for _ in range(2000):
        modes = scipy.fft.idctn(darcy._field(random, amplitude, "neumann"), type=1)[:12, :12]
        modes = modes * np.where(np.arange(12) == 0, 1, 2**0.5) * np.where(np.arange(12) == 0, 1, 2**0.5)[:, None]
        power = power + modes**2  # of orthonormal cosines
    k = np.arange(12)
    power *= (np.pi**2 * (k[:, None] ** 2 + k**2) + tau**2) ** alpha
    assert power[0, 0] < 1e-20 * power[0, 1]
    for part in (power[1:, 0], power[0, 1:], power[1:, 1:4], power[8:, 8:]):
        assert part.mean() == pytest.approx(power[1:, 1:].mean(), rel=0.05)


@pytest.mark.parametrize(("grf", "along_x", "along_y", "spread"), [
    ("periodic", 3.1, 3.1, 0.037), ("published", 3.1, 3.3, 0.037), ("neumann", 1.95, 1.95, 0.058)])
def test_fields_are_as_fine_as_the_published_ones(grf, along_x, along_y, spread):
    """Sign changes a grid line, spread of the high fraction, and agreement of opposite edges; all at N = 61."""
    signs = sign_fields(range(400), 0, 61, grf)
    for axis, changes in ((1, along_x), (2, along_y)):
        assert abs(np.diff(signs.astype(np.int8), axis=axis)).sum() / (400 * 61) == pytest.approx(changes, abs=0.12)
    fraction, opposite = signs.mean((1, 2)), (signs[:, 0] == signs[:, -1]).mean()
    assert fraction.mean() == pytest.approx(0.5, abs=3 * spread / 20)
    assert fraction.std() == pytest.approx(spread, rel=0.1)
    assert opposite < 0.6 if grf == "neumann" else opposite == pytest.approx(0.94, abs=0.03)


# ---- solver ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [31, 44])
@pytest.mark.parametrize("r", [1, 4, 10])
def test_solutions_equal_those_of_a_sparse_direct_solver(size, r):
    a = two_phase(sign_fields(range(2), 0, size), r)
    found = solve(a, f=-2.5, tol=1e-12)
    assert found.u.shape == a.shape and float(found.residual.max()) <= 1e-12
    for u, one in zip(found.u.numpy(), a.numpy()):
        expected = direct(one, f=-2.5)
        assert abs(u - expected).max() < 1e-11 * abs(expected).max()
    border = found.u.clone()
    border[:, 1:-1, 1:-1] = 0
    assert not border.any()
    assert torch.allclose(solve(a, f=-2.5).u, -2.5 * solve(a).u, rtol=1e-14, atol=0)


def test_default_tolerance_at_full_size():
    """The mean rms of u of 6 fields against that of 10 published ones, and one field against sparse LU, N = 421."""
    signs = sign_fields(range(6), 0, 421)
    for r, rms in ((4, 0.00628), (10, 0.00375)):
        found = solve(two_phase(signs, r))
        assert float(found.u.square().mean((1, 2)).sqrt().mean()) == pytest.approx(
            rms, abs=3 * 0.0006 * (1 / 6 + 1 / 10) ** 0.5)  # three standard errors
        assert float(found.residual.max()) <= darcy.TOL and int(found.iterations.max()) <= 40
    expected = direct(two_phase(signs[:1], 10)[0].numpy())
    assert np.linalg.norm(found.u[0].numpy() - expected) < 1e-10 * np.linalg.norm(expected)


def test_constant_coefficient():
    found = solve(two_phase(sign_fields(range(1), 0, 421), 1))
    odd = np.arange(1, 400, 2)  # u(1/2, 1/2) = 16/pi^4 sum +-1/(j k (j^2 + k^2)) of -Laplace u = 1
    signs = np.where(odd % 4 == 1, 1, -1)
    series = 16 / np.pi**4 * (signs[:, None] * signs / (odd[:, None] * odd * (odd[:, None] ** 2 + odd**2))).sum()
    assert float(found.u.max()) == pytest.approx(0.0245570, abs=5e-8)
    assert float(found.u.max()) == pytest.approx(series / 3, rel=2e-5) and int(found.iterations) <= 3


def test_a_result_does_not_depend_on_its_batch(monkeypatch):
    signs = sign_fields(range(4), 0, 43)
    a = torch.cat([two_phase(signs[i:i + 1], r) for i, r in enumerate((10, 1, 4, 2))])
    together = solve(a)
    for i in range(4):
        alone = solve(a[i:i + 1])
        assert torch.equal(alone.u[0], together.u[i]) and alone.residual[0] == together.residual[i]
        assert alone.iterations[0] == together.iterations[i]
    assert len(set(together.iterations.tolist())) == 4
    monkeypatch.setitem(darcy.BATCH, "cpu", 3)  # as on a GPU: side by side, each with its own end
    batched = solve(a)
    assert torch.equal(batched.iterations, together.iterations)
    assert (batched.u - together.u).abs().max() < 1e-12 * together.u.abs().max()
    assert len(solve(a[:0]).u) == 0


def test_dense_sine_transforms_equal_fast_ones():
    r, cpu = torch.randn(2, 40, 40, dtype=torch.float64, generator=torch.manual_seed(0)), torch.device("cpu")
    fast, dense = darcy._Poisson(42, cpu, dense=False)(r), darcy._Poisson(42, cpu, dense=True)(r)
    back = darcy._Operator(torch.ones(2, 42, 42, dtype=torch.float64))(fast.double())
    assert (fast - dense).norm() < 1e-5 * fast.norm() and (back - r).norm() < 1e-4 * r.norm()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_gpu_and_cpu_agree():
    a = two_phase(sign_fields(range(3), 0, 421), 10)
    one, two = solve(a), solve(a.cuda())
    assert (two.u.cpu() - one.u).norm() < 1e-9 * one.u.norm() and float(two.residual.max()) <= darcy.TOL


def test_second_order_for_a_smooth_coefficient():
    errors = []
    for size in (17, 33, 65):
        x, y = torch.meshgrid(*2 * [torch.linspace(0, 1, size, dtype=torch.float64)], indexing="ij")
        sx, cx, sy, cy = (torch.pi * x).sin(), (torch.pi * x).cos(), (2 * torch.pi * y).sin(), (2 * torch.pi * y).cos()
        a, exact = (x + y**2).exp(), sx * sy
        # -div(a grad u) = -a (u_x + 2 y u_y + Laplace u)
        right = -a * (torch.pi * cx * sy + 4 * torch.pi * y * sx * cy - 5 * torch.pi**2 * exact)
        u, r = torch.zeros(1, size - 2, size - 2, dtype=torch.float64), right[None, 1:-1, 1:-1].clone()
        poisson = darcy._Poisson(size, a.device, dense=False)
        darcy._conjugate_gradients(darcy._Operator(a[None]), poisson, u, r, 1e-10, 200, torch.zeros(1))
        errors.append(float((u[0] / (size - 1) ** 2 - exact[1:-1, 1:-1]).abs().max()))
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1) and errors[1] / errors[2] == pytest.approx(4, rel=0.05)


def test_high_contrast_and_failure():
    a = two_phase(sign_fields(range(2), 0, 43), 1e4)
    found = solve(a, tol=1e-9)
    expected = direct(a[0].numpy())
    assert float(found.residual.max()) <= 1e-9 and abs(found.u[0].numpy() - expected).max() < 1e-7 * expected.max()
    with pytest.raises(darcy.NotConverged, match="relative residual .* allowed 1.0e-18"):
        solve(a, tol=1e-18)
    for bad in (a.float(), a[0], a[:, 1:], -a, a * torch.nan, a[:, :2, :2]):
        with pytest.raises(ValueError, match="a must be"):
            solve(bad)
