"""Systems: exact solutions through residual and conditions; the numerical reference by convergence order."""

import math

import numpy as np
import pytest
import torch
from pinn.data import Grid
from pinn.pdes import SYSTEMS, logistic, strang

PI = math.pi


def hump(x):
    return torch.exp(-((x - PI) ** 2) / (2 * (PI / 4) ** 2))


# Solutions written down a second time, for torch.
EXACT = {
    "convection": ({"beta": 7.0}, lambda x, t, p: torch.sin(x - p["beta"] * t)),
    "reaction": ({"rho": 4.0, "sigma": PI / 4},
                 lambda x, t, p: hump(x) * torch.exp(p["rho"] * t) / (hump(x) * torch.exp(p["rho"] * t) + 1 - hump(x))),
    "wave": ({"c": 1.7, "beta": 3.0},
             lambda x, t, p: torch.sin(PI * x) * torch.cos(p["c"] * PI * t)
             + 0.5 * torch.sin(p["beta"] * PI * x) * torch.cos(p["beta"] * p["c"] * PI * t)),
}


def along(f, x, direction):
    (gradient,) = torch.autograd.grad(f.sum(), x, create_graph=True)
    return gradient @ direction


def apply(operator, u, x):
    """L u of a function on points x (n, 2), by autograd."""
    lu = along(u, x, operator.first[0])
    if operator.v is not None:
        lu = lu + operator.scale[0] * along(along(u, x, operator.w[0]), x, operator.v[0])
    return lu


@pytest.mark.parametrize("name", EXACT)
def test_exact_solution_satisfies_everything(name):
    system, (values, exact) = SYSTEMS[name], EXACT[name]
    p = {key: torch.tensor([value], dtype=torch.float64) for key, value in values.items()}
    grid = Grid(system.x_range, 33, 11)

    def at(points):
        points = torch.tensor(points).requires_grad_()
        return points, exact(points[:, 0], points[:, 1], p)

    x, u = at(grid.all_points())
    residual = system.residual(u[None], apply(system.operator(p), u, x)[None], p)
    assert residual.abs().max() < 1e-10
    np.testing.assert_allclose(system.solution(*grid.all_points().T, values), u.detach().numpy(), atol=1e-12)
    x_ic, u_ic = at(grid.initial)
    derivative = along(u_ic, x_ic, torch.tensor([0.0, 1.0], dtype=torch.float64))[None]
    target = system.initial(torch.tensor(grid.x), p)
    found = system.conditions(u_ic[None], at(grid.boundary(1))[1][None], at(grid.boundary(0))[1][None],
                              derivative if name == "wave" else None, target)
    assert {"pde", *found} == {c.name for c in system.components}
    assert all(c.abs().max() < 1e-12 for c in found.values())


@pytest.mark.parametrize("name", EXACT)
def test_a_wrong_parameter_leaves_a_residual(name):
    system, (values, exact) = SYSTEMS[name], EXACT[name]
    p = {key: torch.tensor([value], dtype=torch.float64) for key, value in values.items()}
    wrong = p | {system.physical: p[system.physical] * 1.1}
    x = torch.tensor(Grid(system.x_range, 33, 11).candidates).requires_grad_()
    u = exact(x[:, 0], x[:, 1], p)
    residual = system.residual(u[None], apply(system.operator(wrong), u, x)[None], wrong)
    assert residual.abs().max() > 0.05


def test_reaction_diffusion_operator_and_residual_on_a_known_function():
    """u = exp(-t) cos 2x: u_t - nu u_xx - rho u (1 - u) in closed form."""
    system = SYSTEMS["reaction_diffusion"]
    p = {"nu": torch.tensor([2.0]).double(), "rho": torch.tensor([5.0]).double(), "sigma": torch.tensor([0.8]).double()}
    x = torch.tensor(Grid(system.x_range, 17, 5).candidates).requires_grad_()
    u = torch.exp(-x[:, 1]) * torch.cos(2 * x[:, 0])
    expected = -u + 2 * 4 * u - 5 * u * (1 - u)
    found = system.residual(u[None], apply(system.operator(p), u, x)[None], p)[0]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_periodic_slope_is_a_component_of_reaction_diffusion():
    system = SYSTEMS["reaction_diffusion"]
    u, slope = torch.zeros(1, 5).double(), torch.arange(10).double()[None]
    found = system.conditions(torch.zeros(1, 7).double(), u, u, slope, torch.zeros(1, 7).double())
    assert torch.equal(found["bc_x"], torch.full((1, 5), -5.0).double())
    assert "bc_x" not in system.conditions(torch.zeros(1, 7), u, u, None, torch.zeros(1, 7))


@pytest.mark.parametrize(("nu", "rho"), [(2.0, 5.0), (5.0, 30.0)])
def test_strang_splitting_is_of_second_order(nu, rho):
    fine = strang(nu, rho, PI / 4, substeps=64)
    errors = [np.linalg.norm(strang(nu, rho, PI / 4, substeps=k) - fine) / np.linalg.norm(fine) for k in (1, 2, 4)]
    for coarse, half in zip(errors[:-1], errors[1:], strict=True):
        assert 1.9 < math.log2(coarse / half) < 2.1
    assert np.linalg.norm(strang(nu, rho, PI / 4) - fine) / np.linalg.norm(fine) < 2e-6


def test_reference_against_the_published_first_order_splitting():
    """Reaction, then diffusion, 100 steps: the fact that its own error is 1.5e-3 to 6.6e-3 (sigma = 1/2)."""
    x, dt, sigma, nu, rho = 2 * np.pi * np.arange(256) / 256, 0.01, 0.5, 2.0, 5.0
    k = np.fft.fftfreq(256, 1 / 256)
    u = np.exp(-((x - np.pi) ** 2) / (2 * sigma**2))
    table = [u]
    for _ in range(100):
        u = u * np.exp(rho * dt) / (u * np.exp(rho * dt) + 1 - u)
        u = np.fft.ifft(np.fft.fft(u) * np.exp(-nu * k**2 * dt)).real
        table.append(u)
    exact = strang(nu, rho, sigma)
    error = np.linalg.norm(np.stack(table) - exact) / np.linalg.norm(exact)
    assert 1.5e-3 < error < 6.6e-3


def test_limits_of_the_reference():
    x = 2 * np.pi * np.arange(256) / 256
    hump_ = np.exp(-((x - np.pi) ** 2) / (2 * 0.5**2))
    np.testing.assert_allclose(strang(0.0, 5.0, 0.5)[-1], logistic(hump_, 5.0), rtol=0, atol=1e-10)
    k = np.fft.fftfreq(256, 1 / 256)
    decayed = np.fft.ifft(np.fft.fft(hump_) * np.exp(-2.0 * k**2)).real
    np.testing.assert_allclose(strang(2.0, 0.0, 0.5)[-1], decayed, rtol=0, atol=1e-10)
    assert np.isfinite(logistic(np.array([1e-300, 0.5, 1.0]), 2000.0)).all()


def test_reaction_diffusion_reference_between_its_nodes():
    system, p = SYSTEMS["reaction_diffusion"], {"nu": 2.0, "rho": 5.0, "sigma": PI / 4}
    t = np.full(4, 0.37)
    on = system.solution(2 * np.pi * np.array([3, 10, 200, 256]) / 256, t, p)
    table = strang(2.0, 5.0, PI / 4)
    np.testing.assert_allclose(on, table[37, [3, 10, 200, 0]])
    off = system.solution(2 * np.pi * np.array([3, 10, 200, 256]) / 256 + 1e-3, t, p)
    finer = strang(2.0, 5.0, PI / 4, nodes=512)
    slope = (finer[37, [7, 21, 401, 1]] - finer[37, [5, 19, 399, 511]]) / (4 * np.pi / 512)
    np.testing.assert_allclose(off - on, 1e-3 * slope, atol=2e-6)
    with pytest.raises(ValueError, match="multiples"):
        system.solution(np.zeros(1), np.array([0.005]), p)
