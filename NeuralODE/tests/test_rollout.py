"""Rollouts: the errors of the exact vector field, orders, stability, and runs that do not feel each other."""

import math

import numpy as np
import pytest
import torch
from node.pendulum import TEST_START, TRAIN_START, trajectory, vector_field
from node.rollout import INTEGRATORS, mean_relative_window, mse, relative_l2_by_component, rollout, sse

DT = 0.05
INV_B = (1.0, 8.0, 15.0)


def oracle(inv_b=INV_B, dtype=torch.float64):
    """The exact vector field of R runs."""
    b = 1 / torch.tensor(inv_b, dtype=dtype)
    return lambda state: vector_field(state, b)


def truth(inv_b=INV_B, start=TEST_START, tolerance="paper", horizon=20.0, dt=DT):
    """(R, K, 2)."""
    return torch.tensor(np.stack([trajectory(i, horizon, dt, start, tolerance) for i in inv_b]))


def test_euler_with_the_exact_field_is_a_bad_predictor():
    x = truth()
    found = relative_l2_by_component(rollout(oracle(), x[:, 0], DT, 399), x)
    assert found.tolist() == pytest.approx([0.016, 0.264, 0.505], abs=5e-4)


def test_holding_the_first_state():
    x = truth((8.0,))
    p = rollout(torch.zeros_like, x[:, 0], DT, 399)
    assert torch.equal(p, x[:, :1].expand_as(x))
    assert relative_l2_by_component(p, x).item() == pytest.approx(1.70, abs=5e-3)


def test_euler_is_a_plain_loop():
    b = 1 / torch.tensor(INV_B, dtype=torch.float64)
    states = [torch.tensor([TEST_START] * 3, dtype=torch.float64)]
    for _ in range(399):
        theta, omega = states[-1].T
        states.append(torch.stack([theta + DT * omega, omega + DT * (-b * omega - torch.sin(theta))], 1))
    torch.testing.assert_close(rollout(oracle(), states[0], DT, 399), torch.stack(states, 1), rtol=0, atol=1e-11)


@pytest.mark.parametrize("ratio", [0.8, 1.2])
def test_euler_is_stable_where_damping_exceeds_the_step(ratio):
    """Around rest theta^2 + b theta omega + omega^2 shrinks by 1 - b dt + dt^2 a step: it grows where b < dt."""
    b, steps = ratio * DT, 400
    start = torch.tensor([[1e-5, 0.0]], dtype=torch.float64)
    theta, omega = rollout(oracle((1 / b,)), start, DT, steps)[0].T
    size = theta**2 + b * theta * omega + omega**2
    factor = 1 - b * DT + DT**2
    assert (factor > 1) == (b < DT)
    torch.testing.assert_close(size[1:] / size[:-1], torch.full_like(size[1:], factor), rtol=1e-9, atol=0)


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("rk4", 4)])
def test_convergence_order(method, order):
    errors = []
    for dt in (0.05, 0.025, 0.0125) if method == "euler" else (0.2, 0.1, 0.05):
        x = truth((8.0,), TRAIN_START, "tight", 5.0 + dt, dt)  # the last sample is at t = 5
        errors.append((rollout(oracle((8.0,)), x[:, 0], dt, x.shape[1] - 1, method) - x)[0, -1].norm().item())
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    np.testing.assert_allclose(orders, order, atol=0.25)


def test_dopri5_is_exact_to_its_tolerance():
    x = truth(tolerance="tight")
    assert relative_l2_by_component(rollout(oracle(), x[:, 0], DT, 399, "dopri5"), x).max() < 1e-8
    single = rollout(oracle(dtype=torch.float32), x[:, 0].float(), DT, 399, "dopri5")
    assert single.dtype == torch.float32 and relative_l2_by_component(single, x).max() < 1e-4


@pytest.mark.parametrize("method", INTEGRATORS)
def test_a_run_in_a_batch_is_the_run_alone(method):
    """The first run hardly moves; under a step size of the average it would lend its tolerance to the others."""
    start = torch.tensor([[1e-3, 0.0]] * 20 + [TEST_START], dtype=torch.float64)
    inv_b = (8.0,) * 21
    together = rollout(oracle(inv_b), start, DT, 399, method)[-1:]
    alone = rollout(oracle((8.0,)), start[-1:], DT, 399, method)
    if method != "dopri5":
        torch.testing.assert_close(together, alone, rtol=0, atol=1e-13)
        return
    exact = truth((8.0,), tolerance="tight")
    assert (together - exact).abs().max() <= 1.5 * (alone - exact).abs().max() < 1e-7


@pytest.mark.parametrize("method", INTEGRATORS)
@pytest.mark.parametrize("where", ["start", "field"])
def test_a_run_that_is_nan_leaves_the_others_alone(method, where):
    field, start = oracle(), torch.tensor([TEST_START] * 3, dtype=torch.float64)
    clean = rollout(oracle((1.0, 15.0)), start[:2], DT, 100, method)
    if where == "start":
        start[1, 0] = math.nan
        bad = field
    else:
        factor = torch.tensor([[1.0], [math.inf], [1.0]], dtype=torch.float64)
        def bad(state):
            return field(state) * factor
    found = rollout(bad, start, DT, 100, method)
    assert found.shape == (3, 101, 2) and found[1].isnan().all()
    assert torch.equal(found[[0, 2]], clean)


@pytest.mark.parametrize("method", INTEGRATORS)
def test_no_sound_run_at_all(method):
    assert rollout(oracle(), torch.full((3, 2), math.nan).double(), DT, 5, method).isnan().all()
    assert rollout(torch.zeros_like, torch.full((3, 2), math.inf), DT, 5, method).isnan().all()  # a field that hides it


def blow_up(state):
    """x' = x^2 in the first component of runs 1 and 4: from 1 it is infinite at t = 1. The rest decays."""
    found = -state
    found[1, 0], found[4, 0] = state[1, 0] ** 2, state[4, 0] ** 2
    return found


def test_dopri5_gives_up_at_a_pole():
    start = torch.ones(1, 1)
    assert rollout(torch.square, start, DT, 21, "dopri5").isnan().all()
    torch.testing.assert_close(rollout(torch.square, start, DT, 10, "dopri5")[0, -1], torch.tensor([2.0]))


def test_runs_that_dopri5_cannot_finish_are_nan_and_the_others_go_on():
    def field(state):
        return torch.where(bad & (state < 0.5), math.nan, -state)

    bad = torch.tensor([False, True, False, False, True])[:, None]
    found = rollout(field, torch.ones(5, 2, dtype=torch.float64), DT, 40, "dopri5")
    assert found[[1, 4]].isnan().all()
    exact = torch.exp(-DT * torch.arange(41, dtype=torch.float64))[:, None].expand(3, 41, 2)
    torch.testing.assert_close(found[[0, 2, 3]], exact, rtol=0, atol=1e-8)


def test_a_run_that_overflows_under_euler_keeps_its_beginning():
    found = rollout(blow_up, torch.ones(5, 2, dtype=torch.float64), DT, 200)
    assert found[1, 10, 0] > 1 and not found[1, -1, 0].isfinite()
    expected = (1 - DT) ** torch.arange(201, dtype=torch.float64)[:, None].expand(3, 201, 2)
    torch.testing.assert_close(found[[0, 2, 3]], expected, rtol=1e-11, atol=0)


@pytest.mark.parametrize("method", INTEGRATORS)
def test_gradient(method):
    """x' = a x: dx(1)/da = x(1) for the exact flow, n (1 + a/n)^(n-1) / n for Euler; none by default."""
    a = torch.tensor([[0.5], [-0.3]], dtype=torch.float64, requires_grad=True)
    start = torch.ones(2, 1, dtype=torch.float64)
    assert not rollout(lambda x: a * x, start, DT, 20, method).requires_grad
    end = rollout(lambda x: a * x, start, DT, 20, method, grad=True)[:, -1]
    (found,) = torch.autograd.grad(end.sum(), a)
    exact = (1 + a * DT) ** 19 if method == "euler" else a.exp()
    torch.testing.assert_close(found, exact.detach(), rtol=1e-6, atol=0)


def test_an_error_of_the_field_is_not_taken_for_divergence():
    calls = []

    def broken(state):
        calls.append(1)
        assert len(calls) < 5, "a bug"
        return state

    with pytest.raises(AssertionError, match="a bug"):
        rollout(broken, torch.ones(2, 2), DT, 10)


@pytest.mark.parametrize(("change", "message"), [({"method": "midpoint"}, "euler, rk4, dopri5"),
                                                 ({"steps": 0}, "steps >= 1"), ({"dt": 0.0}, "dt > 0")])
def test_impossible_arguments(change, message):
    arguments = {"field": oracle(), "start": torch.zeros(3, 2), "dt": DT, "steps": 3} | change
    with pytest.raises(ValueError, match=message):
        rollout(**arguments)


def test_error_measures_by_hand():
    x = torch.tensor([[[9.0, 9.0], [3.0, 1.0], [4.0, 0.0]]] * 2)
    p = torch.tensor([[[9.0, 9.0], [3.0, 1.0], [9.0, 2.0]], [[9.0, 9.0], [math.nan, 1.0], [4.0, 0.0]]])
    for measure, expected in ((relative_l2_by_component, (5 / 5 + 2 / 1) / 2),
                              (mean_relative_window, math.sqrt(29) / 4 / 3), (sse, 29.0), (mse, 29 / 4)):
        found = measure(p, x)
        assert found.shape == (2,) and found.dtype == torch.float64
        assert found[0].item() == pytest.approx(expected, rel=1e-12) and found[1].isnan()
        assert (measure(x, x) == 0).all()


def test_relative_error_of_a_window_at_rest():
    x = torch.zeros(1, 3, 2)
    assert mean_relative_window(x, x).item() == 0 and mean_relative_window(x + 1, x).item() > 1e300
