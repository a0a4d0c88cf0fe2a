"""Pendulum: published samples, closed forms, energy, and the accuracy of both tolerances."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from node import pendulum
from node.pendulum import TEST_START, TRAIN_START, count_samples, embed, trajectory, vector_field
from scipy.integrate import simpson, solve_ivp

DT = 0.05
HORIZON = 20.0
TIMES = DT * np.arange(400)


def at_8(start=TRAIN_START, tolerance="paper"):
    return trajectory(8.0, HORIZON, DT, start, tolerance)


@pytest.mark.parametrize(("inv_b", "start", "k", "expected"), [
    (8.0, TRAIN_START, 1, (1.69876296, -0.04943126)),
    (8.0, TRAIN_START, 100, (-0.55525747, 1.01671394)),
    (8.0, TRAIN_START, 399, (0.43731325, 0.08395418)),
    (8.0, TEST_START, 399, (-0.4691738, 0.48076971)),
    (1.0, TRAIN_START, 100, (-0.17266752, 0.10162245)),
    (15.0, TRAIN_START, 399, (0.57397393, 0.53567193)),
    (15.0, TEST_START, 399, (-1.09668401, -0.35048677)),
])
def test_samples_of_the_published_data(inv_b, start, k, expected):
    paper, tight = (trajectory(inv_b, HORIZON, DT, start, tolerance) for tolerance in ("paper", "tight"))
    assert paper.shape == (400, 2) and paper.dtype == np.float64
    np.testing.assert_allclose(paper[k], expected, rtol=0, atol=1e-7)
    np.testing.assert_allclose(tight[k], expected, rtol=0, atol=0.06)  # the global error of default tolerances
    assert (k == 1) == np.allclose(tight[k], expected, rtol=0, atol=1e-6)


def test_default_tolerances_make_the_data_depend_on_the_horizon():
    for tolerance, low, high in (("paper", 1e-4, 2e-4), ("tight", 0.0, 1e-9)):
        short, long = (trajectory(8.0, horizon, DT, TRAIN_START, tolerance)[:20] for horizon in (1.0, HORIZON))
        assert len(short) == 20 and low <= np.abs(short - long).max() <= high


def test_embedded_samples():
    found = embed(at_8())
    np.testing.assert_allclose(found[0], (0.99166481, 0.0, 0.12884449), rtol=0, atol=1e-8)
    np.testing.assert_allclose(found[100], (-0.2773733, -0.44829002, -0.84976474), rtol=0, atol=1e-7)


@pytest.mark.parametrize("convert", [np.asarray, torch.tensor])
def test_embedding_lies_on_the_sphere_and_is_not_injective(convert):
    state = np.random.default_rng(0).normal(size=(3, 5, 2)) * 2
    found = embed(convert(state))
    assert isinstance(found, torch.Tensor) == (convert is torch.tensor) and found.shape == (3, 5, 3)
    np.testing.assert_allclose((found**2).sum(-1), 1.0, rtol=1e-14)
    np.testing.assert_allclose(embed(convert(state * [-1, 1] + [0, math.pi])), found, atol=1e-14)
    np.testing.assert_allclose(embed(convert(state * [0, 1])), np.broadcast_to([0, 0, -1], (3, 5, 3)), atol=1e-14)
    assert np.abs(np.asarray(embed(convert(state * [-1, 1])) - found)).max() > 0.5


def test_vector_field_of_arrays_and_tensors():
    state, b = np.random.default_rng(1).normal(size=(4, 7, 2)), np.array([[0.1], [0.5], [1.0], [2.0]])
    expected = np.empty_like(state)
    for r, k in np.ndindex(4, 7):
        expected[r, k] = state[r, k, 1], -b[r, 0] * state[r, k, 1] - math.sin(state[r, k, 0])
    np.testing.assert_allclose(vector_field(state, b), expected, rtol=1e-14)
    found = vector_field(torch.tensor(state), torch.tensor(b))
    assert isinstance(found, torch.Tensor)
    np.testing.assert_allclose(found, expected, rtol=1e-14)


def test_count_of_samples():
    assert [count_samples(0.05 * k, DT) for k in range(1, 601)] == list(range(1, 601))
    assert all(count_samples(k / 20, DT) == k == len(np.arange(0, k / 20, DT)) for k in range(1, 601))
    horizons = {0.5: 10, 1: 20, 2: 40, 5: 100, 8: 160, 10: 200, 12: 240, 15: 300, 20: 400}
    assert {t: count_samples(t, DT) for t in horizons} == horizons
    # Rounding: floor loses a sample of the first; ceil, and so arange, adds one to the second.
    assert math.floor(0.3 / 0.1) == 2 and count_samples(0.3, 0.1) == 3
    assert math.ceil(0.05 * 3 / DT) == len(np.arange(0, 0.05 * 3, DT)) == 4 and count_samples(0.05 * 3, DT) == 3
    assert count_samples(0.32, 0.1) == 4 and count_samples(0.04, DT) == 1


@pytest.mark.parametrize("inv_b", [1.0, 8.0, 15.0])
def test_small_swings_are_the_linear_oscillator(inv_b):
    b, start = 1 / inv_b, 1e-4
    w = math.sqrt(1 - b**2 / 4)
    decay = start * np.exp(-b * TIMES / 2)
    theta = decay * (np.cos(w * TIMES) + b / (2 * w) * np.sin(w * TIMES))
    omega = -decay * np.sin(w * TIMES) / w
    found = trajectory(inv_b, HORIZON, DT, (start, 0.0), "tight")
    np.testing.assert_allclose(found, np.stack([theta, omega], 1), rtol=0, atol=1e-11)


@pytest.mark.parametrize("inv_b", [1.0, 8.0, 15.0])
@pytest.mark.parametrize("start", [TRAIN_START, TEST_START])
def test_energy_is_lost_to_the_damping_alone(inv_b, start):
    theta, omega = trajectory(inv_b, HORIZON, DT, start, "tight")[:-1].T  # an even number of intervals for Simpson
    energy = omega**2 / 2 + 1 - np.cos(theta)
    assert (np.diff(energy) < 0).all()
    assert energy[0] - energy[-1] == pytest.approx(simpson(omega**2, dx=DT) / inv_b, abs=1e-6)


@pytest.mark.parametrize("inv_b", [1.0, 8.0, 15.0])
@pytest.mark.parametrize("start", [TRAIN_START, TEST_START])
def test_tight_is_exact_to_3e_9_and_paper_is_not(inv_b, start):
    exact = solve_ivp(lambda _, s: (s[1], -s[1] / inv_b - math.sin(s[0])), (0, HORIZON), start, t_eval=TIMES,
                      rtol=1e-12, atol=1e-14).y.T
    assert np.abs(trajectory(inv_b, HORIZON, DT, start, "tight") - exact).max() < 3e-9
    assert 1e-4 < np.abs(trajectory(inv_b, HORIZON, DT, start, "paper") - exact).max() < 0.06


def test_local_defect_of_the_published_labels():
    """Each state against the exact flow over dt from the state before: MSE 8.6e-9 at 1/b = 8."""
    for tolerance, expected in (("paper", 8.6e-9), ("tight", 0.0)):
        states = at_8(tolerance=tolerance)
        flow = solve_ivp(lambda _, s: vector_field(s.reshape(-1, 2), 1 / 8).ravel(), (0, DT), states[:-1].ravel(),
                         method="DOP853", rtol=1e-12, atol=1e-14).y[:, -1]
        assert np.mean((states[1:].ravel() - flow) ** 2) == pytest.approx(expected, rel=0.01, abs=1e-18)


def test_trajectories_are_cached_and_read_only():
    assert at_8() is at_8()
    with pytest.raises(ValueError, match="read-only"):
        at_8()[0] = 0.0


@pytest.mark.parametrize("change", [{"inv_b": math.nan}, {"inv_b": 0.0}, {"horizon": math.inf}, {"dt": 0.0},
                                    {"start": (math.nan, 0.0)}])
def test_impossible_numbers(change):
    with pytest.raises(ValueError, match="no trajectory"):
        trajectory(**({"inv_b": 8.0, "horizon": 1.0, "dt": DT, "start": TRAIN_START} | change))


def test_a_solver_that_gives_up(monkeypatch):
    monkeypatch.setattr(pendulum, "solve_ivp", lambda *a, **k: SimpleNamespace(success=False, message="step too small"))
    with pytest.raises(RuntimeError, match="1/b = 7.125.*step too small"):
        trajectory(7.125, 1.0, DT, TRAIN_START)
