"""The loss: against a plain implementation, in blocks and whole, and the published figure at the start."""

import math

import numpy as np
import pytest
import torch
from pinn.data import Grid
from pinn.model import MLP
from pinn.objective import Objective
from pinn.pdes import SYSTEMS

PHYSICAL = {"convection": [5.0, 30.0], "reaction": [1.0, 5.0], "wave": [0.5, 3.0], "reaction_diffusion": [5.0, 20.0]}


def build(name, n=60, runs=2, **options):
    system = SYSTEMS[name]
    objective = Objective(system, (PHYSICAL[name] * runs)[:runs], system.defaults, n, [0] * runs,
                          Grid(system.x_range, 33, 11), dtype=torch.float64, **options)
    params = list(MLP(range(runs), [12, 12], torch.float64).parameters())
    return objective, params


def plain_loss(name, objective, params, r):
    """The loss of run r as one would write it first: separate x and t, nested autograd."""
    depth = len(params) // 2

    def net(x, t):
        h = torch.stack([x, t], 1)
        for k in range(depth):
            h = h @ params[k][r] + params[depth + k][r]
            h = torch.tanh(h) if k < depth - 1 else h
        return h[:, 0]

    def grad(f, x):
        return torch.autograd.grad(f.sum(), x, create_graph=True)[0]

    points = torch.tensor(objective.interior[0].numpy())
    x, t = points[:, 0].clone().requires_grad_(), points[:, 1].clone().requires_grad_()
    u = net(x, t)
    value = {key: float(v[r]) for key, v in objective.p.items()}
    grid_x, grid_t = torch.tensor(objective.grid.x), torch.tensor(objective.grid.t)
    low, high = (torch.full_like(grid_t, end).requires_grad_() for end in objective.system.x_range)
    zero = torch.zeros_like(grid_x).requires_grad_()
    ic, left, right = net(grid_x, zero), net(low, grid_t), net(high, grid_t)
    if name == "wave":
        residual = grad(grad(u, t), t) - value["c"] ** 2 * grad(grad(u, x), x)
        target = torch.sin(math.pi * grid_x) + torch.sin(value["beta"] * math.pi * grid_x) / 2
        conditions = [right, left, ic - target, grad(ic, zero)]
    else:
        hump = torch.exp(-((grid_x - math.pi) ** 2) / (2 * (math.pi / 4) ** 2))
        residual = {"convection": lambda: grad(u, t) + value["beta"] * grad(u, x),
                    "reaction": lambda: grad(u, t) - value["rho"] * u * (1 - u),
                    "reaction_diffusion": lambda: grad(u, t) - 2 * grad(grad(u, x), x) - value["rho"] * u * (1 - u),
                    }[name]()
        conditions = [right - left, ic - (torch.sin(grid_x) if name == "convection" else hump)]
        if name == "reaction_diffusion":
            conditions.append(grad(right, high) - grad(left, low))
    return (residual**2).mean() + sum((c**2).mean() for c in conditions)


@pytest.mark.parametrize("name", SYSTEMS)
def test_loss_and_gradient_equal_a_plain_implementation(name):
    objective, params = build(name)
    losses = objective.backward(params, torch.arange(2))
    for r in range(2):
        expected = plain_loss(name, objective, params, r)
        assert losses[r].item() == pytest.approx(expected.item(), rel=1e-12)
        for p, g in zip(params, torch.autograd.grad(expected, params), strict=True):
            torch.testing.assert_close(p.grad[r], g[r], rtol=1e-9, atol=1e-11)
    terms = objective.terms(params)
    torch.testing.assert_close(terms["loss"], losses, rtol=1e-12, atol=0)
    torch.testing.assert_close(terms["pde"] + terms["bc"] + terms["ic"], losses, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize(("points", "runs"), [(7, 1), (60, 2), (25, 3)])
def test_blocks_do_not_change_the_loss(name, points, runs):
    objective, params = build(name, runs=5)
    whole = objective.backward(params, torch.arange(5))
    gradients = [p.grad.clone() for p in params]
    objective.points_a_block, objective.runs_a_block = points, runs
    torch.testing.assert_close(objective.backward(params, torch.arange(5)), whole, rtol=1e-12, atol=0)
    for p, g in zip(params, gradients, strict=True):
        torch.testing.assert_close(p.grad, g, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(objective.losses(params, torch.arange(5)), whole, rtol=1e-12, atol=0)
    torch.testing.assert_close(objective.terms(params)["loss"], whole, rtol=1e-12, atol=0)


def test_only_wanted_runs_are_evaluated():
    objective, params = build("wave", runs=5)
    whole = objective.backward(params, torch.arange(5))
    gradients = [p.grad.clone() for p in params]
    for p in params:
        p.grad.fill_(7.0)
    objective.runs_a_block = 2
    wanted = torch.tensor([0, 2, 3])
    some = objective.backward(params, wanted)
    torch.testing.assert_close(some[wanted], whole[wanted], rtol=1e-12, atol=0)
    assert some[[1, 4]].isnan().all()
    for p, g in zip(params, gradients, strict=True):
        torch.testing.assert_close(p.grad[wanted], g[wanted], rtol=1e-10, atol=1e-12)
        assert (p.grad[[1, 4]] == 7).all()
    graph = objective.losses(params, wanted)
    torch.testing.assert_close(graph[wanted], whole[wanted], rtol=1e-12, atol=0)


def test_weight_and_penalties():
    objective, params = build("convection", weight=3.0)
    terms, losses = objective.terms(params), objective.backward(params, torch.arange(2))
    torch.testing.assert_close(losses, 3 * terms["pde"] + terms["bc"] + terms["ic"], rtol=1e-12, atol=0)
    c = build("convection")[0].vectors(params)
    for loss, pde, rest in [("l1", torch.abs, torch.abs), ("hybrid", None, torch.square), ("huber", None, None)]:
        terms = build("convection", loss=loss)[0].terms(params)

        def huber(v):
            return torch.where(v.abs() < 1, v**2 / 2, v.abs() - 0.5)
        torch.testing.assert_close(terms["pde"], (pde or huber)(c["pde"]).mean(1), rtol=1e-12, atol=0)
        torch.testing.assert_close(terms["ic"], (rest or huber)(c["ic"]).mean(1), rtol=1e-12, atol=0)


def test_slopes_at_the_ends_can_be_left_out():
    objective, params = build("reaction_diffusion", periodic_slope=False)
    full = build("reaction_diffusion")[0].terms(params)
    assert "bc_x" not in objective.vectors(params)
    assert (objective.terms(params)["bc"] < full["bc"]).all()


def test_each_run_can_have_its_own_points():
    system = SYSTEMS["convection"]
    params = list(MLP([0, 1], [12], torch.float64).parameters())

    def losses(seeds, rows):
        objective = Objective(system, [5.0] * len(rows), {}, 30, seeds, Grid(system.x_range), dtype=torch.float64)
        part = [p.detach()[rows].requires_grad_() for p in params]
        return objective.backward(part, torch.arange(len(rows))), objective.errors(part, "train")[1]

    both, errors = losses([0, 9], [0, 1])
    for r, seed in enumerate([0, 9]):
        alone, error = losses([seed], [r])
        assert alone.item() == pytest.approx(both[r].item(), rel=1e-12)
        assert error[0] == pytest.approx(errors[r], rel=1e-12)


def test_errors_are_measured_against_the_exact_solution():
    system = SYSTEMS["convection"]
    objective = Objective(system, [0.0], {}, 10, [0], Grid(system.x_range), dtype=torch.float64)
    net = MLP([0], [4], torch.float64)
    for p in net.parameters():
        p.data.zero_()
    assert objective.errors(list(net.parameters()))[1] == pytest.approx([1.0])
    net.biases[-1].data.fill_(0.5)
    points = objective.grid.coarse().all_points()
    exact = np.sin(points[:, 0])
    expected = np.linalg.norm(0.5 - exact) / np.linalg.norm(exact)
    assert objective.errors(list(net.parameters()))[1] == pytest.approx([expected])
