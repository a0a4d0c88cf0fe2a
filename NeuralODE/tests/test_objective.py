"""The loss of the runs against its definition, pair by pair, and against identities it must obey."""

import numpy as np
import pytest
import torch
from node import rollout
from node.data import defect, make_pairs
from node.model import MLP, propagate
from node.objective import Objective, Problem
from node.pendulum import embed, trajectory, vector_field

INV_B, HORIZONS, SEEDS = [8.0, 1.0, 15.0, 4.0], [0.5, 2.0, 2.0, 5.0], [0, 1, 2, 0]
DT = 0.05
ALL = torch.arange(4)


def build(dtype=torch.float64, inv_b=INV_B, horizons=HORIZONS, seeds=SEEDS, **problem):
    problem = Problem(**problem)
    objective = Objective(problem, inv_b, horizons, dtype)
    return objective, list(MLP(seeds, problem.size, (16, 16, 16), dtype).parameters())


def one(params, r):
    return [p[r:r + 1].detach() for p in params]


def f_of(params, r, x):
    return propagate(one(params, r), torch.tensor(np.array(x))[None])[0]


def expected(objective, params, r):
    """L_data and L_phys of one run, written out."""
    p, pairs = objective.problem, objective.pairs[r]
    x, target = torch.tensor(np.array(pairs.x)), torch.tensor(np.array(pairs.target))
    predicted = x + p.dt * f_of(params, r, pairs.x)
    data = (predicted - target).square().mean()
    if p.mode == "none":
        return data, torch.zeros(())
    if p.mode == "sphere":
        return data, (predicted.square().sum(1) - 1).square().mean()
    return data, p.dt**2 * (f_of(params, r, pairs.x) - vector_field(x, 1 / objective.inv_b[r])).square().mean()


@pytest.mark.parametrize("problem", [
    dict(mode="pinn"), dict(mode="pinn", weight=0.3), dict(mode="pinn", weight=0.0), dict(mode="none"),
    dict(mode="none", state="embedded"), dict(mode="sphere", state="embedded", weight=2.0), dict(mode="pinn_alm"),
], ids=str)
@pytest.mark.parametrize("scale", ["unit", "paper"])
def test_loss_is_the_sum_of_its_terms(problem, scale):
    """Reported in the paper's units; what is minimised has the same gradient, up to the scale."""
    objective, params = build(scale=scale, **problem)
    terms = objective.terms(params)
    factor = 1.0 if scale == "paper" else DT**-2
    losses = objective.backward(params, ALL)
    for r in range(4):
        data, physics = expected(objective, params, r)
        assert terms["data"][r].item() == pytest.approx(data.item(), rel=1e-12)
        assert terms["physics"][r].item() == pytest.approx(physics.item(), rel=1e-12)
        assert terms["total"][r].item() == pytest.approx((data + objective.problem.weight * physics).item(), rel=1e-12)
        leaves = [p.requires_grad_() for p in one(params, r)]
        x = torch.tensor(np.array(objective.pairs[r].x))[None]
        f, target = propagate(leaves, x)[0], torch.tensor(np.array(objective.pairs[r].target))
        total = (x[0] + DT * f - target).square().mean()
        if objective.problem.mode == "sphere":
            total = total + 2.0 * ((x[0] + DT * f).square().sum(1) - 1).square().mean()
        elif objective.problem.mode != "none":
            residual = f - vector_field(x[0], 1 / INV_B[r])
            total = total + objective.problem.weight * DT**2 * residual.square().mean()
        for p, g in zip(params, torch.autograd.grad(total, leaves), strict=True):
            torch.testing.assert_close(p.grad[r:r + 1], factor * g, rtol=1e-9, atol=1e-14)
        constant = (data + objective.problem.weight * physics).item() * factor - losses[r].item()
        if objective.problem.mode in ("pinn", "pinn_alm"):
            weight = objective.problem.weight
            gap = weight / (1 + weight) * defect(objective.pairs[r], DT) * factor
            assert constant == pytest.approx(gap, rel=1e-9, abs=1e-12 * losses[r].item())
        else:
            assert constant == pytest.approx(0, abs=1e-12 * losses[r].item())


def test_decomposition_at_unit_weight():
    """L = 2 dt^2 mean |f - (q + F)/2|^2 + D/2, and no network gets below D/2."""
    objective, params = build(mode="pinn")
    total = objective.terms(params)["total"]
    for r in range(4):
        pairs = objective.pairs[r]
        middle = torch.tensor((pairs.q + pairs.field) / 2)
        regression = 2 * DT**2 * (f_of(params, r, pairs.x) - middle).square().mean().item()
        assert total[r].item() == pytest.approx(regression + defect(pairs, DT) / 2, rel=1e-6)
        assert total[r].item() > defect(pairs, DT) / 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_published_initial_losses(dtype):
    """Seed 0, 1/b = 8, T = 20 at the initial weights."""
    objective, params = build(dtype, [8.0], [20.0], [0])
    terms = objective.terms(params)
    assert terms["data"].item() == pytest.approx(9.49e-4, rel=1e-3)
    assert terms["physics"].item() == pytest.approx(9.47e-4, rel=1e-3)
    objective, params = build(dtype, [8.0], [20.0], [0], mode="none", state="embedded")
    assert objective.terms(params)["data"].item() == pytest.approx(5.87e-4, rel=2e-3)


MODES = [dict(mode="pinn"), dict(mode="sphere", state="embedded"),
         dict(mode="none", state="embedded", integrator="rk4"), dict(mode="pinn", training="rollout"),
         dict(mode="pinn", training="rollout", integrator="rk4")]


@pytest.mark.parametrize("problem", MODES, ids=str)
def test_company_changes_nothing(problem):
    """Runs of any length together, in blocks or not, are what each is alone; gradients of others are left alone."""
    objective, params = build(**problem)
    objective.points_a_block = 100
    losses = objective.backward(params, ALL)
    grads = [p.grad.clone() for p in params]
    terms, norms = objective.terms(params), objective.gradient_norms(params, ALL)
    columns = objective.columns(params, ALL)
    results = objective.results(params) if objective.problem.integrator == "euler" else {}  # five slow rollouts
    for r in range(4):
        alone = Objective(objective.problem, [INV_B[r]], [HORIZONS[r]], torch.float64)
        part = one(params, r)
        torch.testing.assert_close(alone.backward(part, torch.arange(1))[0], losses[r], rtol=1e-12, atol=0)
        for p, g in zip(part, grads, strict=True):
            torch.testing.assert_close(p.grad[0], g[r], rtol=1e-10, atol=1e-14)
        assert alone.terms(part)["total"][0].item() == pytest.approx(terms["total"][r].item(), rel=1e-12)
        assert alone.gradient_norms(part, torch.arange(1))[0] == pytest.approx(norms[r], rel=1e-10)
        for name, values in alone.results(part).items() if results else ():
            assert values[0] == pytest.approx(results[name][r], rel=1e-8), name
        error = alone.columns(part, torch.arange(1))["test_error"][0]
        assert error == pytest.approx(columns["test_error"][r], rel=1e-9)
    for p in params:
        p.grad.fill_(7.0)
    some = objective.backward(params, torch.tensor([1, 3]))
    assert some.isnan().tolist() == [True, False, True, False]
    for p, g in zip(params, grads, strict=True):
        assert (p.grad[[0, 2]] == 7).all()
        torch.testing.assert_close(p.grad[[1, 3]], g[[1, 3]], rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("problem", MODES, ids=str)
def test_graph_of_losses_gives_the_same_gradient(problem):
    objective, params = build(**problem)
    rows = torch.tensor([0, 2, 3])
    losses = objective.losses(params, rows)
    grads = torch.autograd.grad(losses.sum(), params, create_graph=True)
    found = objective.backward(params, rows)
    torch.testing.assert_close(losses[rows], found[rows], rtol=1e-12, atol=0)
    for p, g in zip(params, grads, strict=True):
        torch.testing.assert_close(g[rows], p.grad[rows], rtol=1e-9, atol=1e-14)
    assert all(h.isfinite().all() for h in torch.autograd.grad(sum(g.square().sum() for g in grads), params))


@pytest.mark.parametrize("problem", MODES, ids=str)
def test_training_losses_are_the_reported_ones(problem):
    """Whatever a strategy minimises, and left as it was afterwards."""
    objective, params = build(**problem)
    rows = torch.tensor([0, 2])
    before, wanted = objective.terms(params, rows)["total"][rows], objective.training_losses(params, rows)
    plain = torch.autograd.grad(wanted.sum(), params)
    if not objective.is_regression:
        torch.testing.assert_close(wanted[rows].detach(), before, rtol=1e-9, atol=0)
    objective.rescale("unit")
    objective.density = lambda name, c, at: c**4
    objective.batches = torch.tensor([0, 1, 0, 0])
    objective.offsets = torch.full((1, *objective.data.x.shape), 0.1, dtype=torch.float64)
    kept = objective.losses(params, rows).detach()
    for p, g in zip(plain, torch.autograd.grad(objective.training_losses(params, rows).sum(), params), strict=True):
        torch.testing.assert_close(g, p, rtol=1e-9, atol=1e-14)
    assert torch.equal(objective.losses(params, rows).detach(), kept)


def test_mini_batch_is_32_neighbours_or_what_is_left():
    objective, params = build(mode="pinn", inv_b=[8.0, 1.0], horizons=[2.0, 5.0], seeds=[0, 1])
    counts = objective.data.count.tolist()
    assert counts == [39, 99]
    for batches in ([0, 0], [1, 3], [1, 1]):
        objective.batches = torch.tensor(batches)
        losses = objective.backward(params, torch.arange(2))
        for r, k in enumerate(batches):
            pairs, chosen = objective.pairs[r], slice(32 * k, min(32 * k + 32, counts[r]))
            middle = torch.tensor((pairs.q + pairs.field) / 2)[chosen]
            value = 2 * (f_of(params, r, pairs.x[chosen]) - middle).square().mean().item()
            assert losses[r].item() == pytest.approx(value, rel=1e-12)


def test_residual_on_moved_copies():
    objective, params = build(mode="pinn_region", weight=0.5)
    generator = torch.Generator().manual_seed(0)
    objective.offsets = 0.05 * torch.randn(3, *objective.data.x.shape, generator=generator, dtype=torch.float64)
    losses = objective.backward(params, ALL)
    for r in range(4):
        n = len(objective.pairs[r].x)
        x = torch.tensor(np.array(objective.pairs[r].x))
        moved = torch.cat([x, *(x + offset[r, :n] for offset in objective.offsets)])
        residual = f_of(params, r, moved.numpy()) - vector_field(moved, 1 / INV_B[r])
        data = (f_of(params, r, x.numpy()) - torch.tensor(objective.pairs[r].q)).square().mean()
        assert losses[r].item() == pytest.approx((data + 0.5 * residual.square().mean()).item(), rel=1e-12)


def test_rollout_training_is_on_the_whole_trajectory():
    """Eq. 9: each x^_i from x_0 alone, mean square over times and components; eq. 10 along the prediction."""
    objective, params = build(mode="pinn", training="rollout", inv_b=[8.0, 1.0], horizons=[0.5, 1.0], seeds=[0, 1])
    terms = objective.terms(params)
    for r in range(2):
        truth = trajectory(objective.inv_b[r], objective.horizons[r], DT, (1.7, 0.0))
        state, squares, residuals = torch.tensor(truth[0]), [], []
        for after in truth[1:]:
            f = f_of(params, r, state[None].numpy())[0]
            residuals.append((f - vector_field(state, 1 / objective.inv_b[r])).square())
            state = state + DT * f
            squares.append((state - torch.tensor(after)).square())
        assert terms["data"][r].item() == pytest.approx(torch.stack(squares).mean().item(), rel=1e-10)
        assert terms["physics"][r].item() == pytest.approx(DT**2 * torch.stack(residuals).mean().item(), rel=1e-10)


def oracle(monkeypatch, inv_b):
    """An objective whose networks are the vector field itself."""
    objective, params = build(mode="pinn", inv_b=inv_b, horizons=[2.0] * len(inv_b), seeds=[0] * len(inv_b))
    field = {"b": 1 / torch.tensor(inv_b, dtype=torch.float64)}

    def exact(weights, x):
        return vector_field(x, field["b"][:len(x), None])
    monkeypatch.setattr("node.objective.propagate", exact)
    return objective, params, field


def test_errors_of_the_exact_field(monkeypatch):
    """Its Euler rollouts are 0.016 to 0.5 off: a perfect fit of the physics does not make the test error vanish."""
    objective, params, field = oracle(monkeypatch, [1.0, 8.0, 15.0])
    terms = objective.terms(params)
    assert terms["physics"].abs().max() < 1e-30
    for r in range(3):
        assert terms["data"][r].item() == pytest.approx(defect(objective.pairs[r], DT), rel=1e-12)
    found = objective.columns(params, torch.arange(3))["test_error"]
    assert found == pytest.approx([0.016, 0.264, 0.505], rel=0.03)


@pytest.mark.parametrize("state", ["raw", "embedded"])
def test_reported_errors_are_what_they_say(state):
    """One-step and rollout errors of an arbitrary network, by plain loops."""
    objective, params = build(mode="none", state=state, inv_b=[8.0], horizons=[2.0], seeds=[3], test_horizon=10.0,
                              probe_span=(1.0, 6.0), probe_dt=0.1)
    found = {name: values[0] for name, values in objective.results(params).items()}

    def truth(dt, horizon):
        states = trajectory(8.0, horizon, dt, (2.8, 0.0))
        return torch.tensor(embed(states) if state == "embedded" else np.array(states))

    def predicted(dt, horizon):
        states = [truth(dt, horizon)[0]]
        while len(states) < len(truth(dt, horizon)):
            states.append(states[-1] + dt * f_of(params, 0, states[-1][None].numpy())[0])
        return torch.stack(states)

    def by_component(dt, horizon):
        p, x = predicted(dt, horizon)[1:], truth(dt, horizon)[1:]
        return ((p - x).norm(dim=0) / x.norm(dim=0)).mean().item()

    def window(dt, low, high):
        p, x = (states[round(low / dt):] for states in (predicted(dt, high), truth(dt, high)))
        return ((p - x).norm(dim=1) / x.norm(dim=1)).mean().item()
    states = truth(DT, 10.0)
    one_step = states[:-1] + DT * f_of(params, 0, states[:-1].numpy()) - states[1:]
    train = make_pairs(8.0, 2.0, DT, state)
    train_step = torch.tensor(train.x) + DT * f_of(params, 0, train.x) - torch.tensor(train.target)
    wanted = {"test_mse": one_step.square().mean().item(), "test_sse": one_step.square().sum().item(),
              "train_mse": train_step.square().mean().item(), "train_sse": train_step.square().sum().item(),
              "test_rollout_l2": by_component(DT, 10.0),
              "test_rollout_mse": (predicted(DT, 10.0) - states)[1:].square().mean().item(),
              "test_rollout_sse": (predicted(DT, 10.0) - states)[1:].square().sum().item(),
              "test_rollout_l2_mean_rel_window": window(0.1, 1.0, 6.0),
              "test_rollout_l2_mean_rel_dt005_t0_20": window(0.05, 0.0, 20.0),
              "test_rollout_l2_dt050_hor10": by_component(0.5, 10.0),
              "test_rollout_l2_dt005_hor15": by_component(0.05, 15.0),
              "test_rollout_l2_dt005_hor20": by_component(0.05, 20.0)}
    if state == "raw":
        wanted["defect"] = defect(train, DT)
    assert found == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize(("integrator", "order"), [("euler", 1), ("rk4", 4), ("dopri5", 5)])
def test_integrators_fit_the_vector_field_to_their_order(monkeypatch, integrator, order):
    """e of the exact field is the integrator's own error a step, over dt."""
    objective, params, _ = oracle(monkeypatch, [8.0])
    errors = []
    for dt in (0.1, 0.05):
        problem = Problem(mode="pinn", integrator=integrator, tolerance="tight", dt=dt)
        exact = Objective(problem, [8.0], [2.0], torch.float64)
        errors.append(exact.terms(params)["data"].sqrt().item() / dt)
    if integrator == "dopri5":  # the adaptive one is as good as the data
        assert max(errors) < 1e-7
    else:
        assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.15)


def test_curriculum_moves_training_and_test_data():
    objective, params = build(inv_b=[8.0, 8.0], horizons=[2.0, 2.0], seeds=[0, 0])
    objective.columns(params, torch.arange(2))
    objective.set_physical([1.0, 8.0])
    fresh, _ = build(inv_b=[1.0, 8.0], horizons=[2.0, 2.0], seeds=[0, 0])
    assert objective.columns(params, torch.arange(2)) == fresh.columns(params, torch.arange(2))
    torch.testing.assert_close(objective.backward(params, torch.arange(2)), fresh.backward(params, torch.arange(2)))


def test_step_is_torchdiffeqs():
    """The shortcut for Euler's step, and one that is not finite."""
    from torchdiffeq import odeint
    x = torch.randn(3, 5, 2, dtype=torch.float64)
    b = torch.tensor([0.1, 1.0, 0.5], dtype=torch.float64)[:, None]
    for method in ("euler", "rk4"):
        found = rollout.step(lambda s: vector_field(s, b), x, DT, method)
        times = torch.tensor([0.0, DT], dtype=torch.float64)
        torch.testing.assert_close(found, odeint(lambda t, s: vector_field(s, b), x, times, method=method)[-1],
                                   rtol=1e-14, atol=1e-14)


def test_constraints_are_over_all_pairs():
    """Multipliers belong to pairs, so neither the mini-batch at hand nor moved copies may show in them."""
    objective, params = build(mode="pinn_region")
    whole = {name: objective.constraint(params, name) for name in ("data", "physics")}
    assert whole["physics"].shape == objective.data.x.shape
    objective.batches = torch.zeros(4, dtype=torch.long)
    objective.offsets = torch.full((2, *objective.data.x.shape), 0.1, dtype=torch.float64)
    for name, c in whole.items():
        assert torch.equal(objective.constraint(params, name), c)
    assert objective.batches is not None and objective.offsets.shape[0] == 2  # put back
