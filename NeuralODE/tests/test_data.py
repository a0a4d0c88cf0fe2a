"""Pairs: the published defect table, the identities of the losses, padding."""

import numpy as np
import pytest
import torch
from node.data import STATES, defect, make_pairs, pad
from node.pendulum import TEST_START, TRAIN_START, embed, trajectory

DT = 0.05
# D = dt^2 mean |q - F|^2 of the published data, by horizon, at 1/b = 1, 4, 8, 15.
DEFECTS = {
    0.5: (1.016e-6, 7.327e-7, 7.413e-7, 7.532e-7),
    2.0: (4.442e-7, 7.419e-7, 8.653e-7, 9.326e-7),
    5.0: (2.414e-7, 7.218e-7, 8.813e-7, 9.589e-7),
    10.0: (1.222e-7, 5.085e-7, 7.573e-7, 9.091e-7),
    20.0: (6.098e-8, 2.836e-7, 5.214e-7, 7.415e-7),
}


@pytest.mark.parametrize(("horizon", "column"), [(t, c) for t in DEFECTS for c in range(4)])
def test_defect_of_the_published_data(horizon, column):
    inv_b = (1.0, 4.0, 8.0, 15.0)[column]
    assert defect(make_pairs(inv_b, horizon, DT), DT) == pytest.approx(DEFECTS[horizon][column], rel=6e-4)


def test_defect_is_the_truncation_error_of_euler():
    """dt^2 (q - F) = dt^2 x'' / 2 + ...: D / dt^4 tends to mean |x''|^2 / 4."""
    values = [defect(make_pairs(4.0, 5.0, dt, tolerance="tight"), dt) / dt**4 for dt in (0.02, 0.01, 0.005)]
    x = trajectory(4.0, 5.0, 0.005, TRAIN_START, "tight")
    theta, omega = x.T
    alpha = -omega / 4 - np.sin(theta)
    limit = np.mean(np.stack([alpha, -alpha / 4 - np.cos(theta) * omega]) ** 2) / 4
    assert values[-1] == pytest.approx(limit, rel=5e-3)
    assert abs(values[0] / limit - 1) > 2 * abs(values[-1] / limit - 1)


@pytest.mark.parametrize("weight", [0.3, 1.0, 4.0])
def test_weighted_sum_of_both_terms_is_one_regression(weight):
    pairs = make_pairs(8.0, 5.0, DT)
    f = np.random.default_rng(0).normal(size=pairs.x.shape)
    total = np.mean((pairs.x + DT * f - pairs.target) ** 2) + weight * DT**2 * np.mean((f - pairs.field) ** 2)
    middle = (pairs.q + weight * pairs.field) / (1 + weight)
    floor = weight / (1 + weight) * defect(pairs, DT)
    assert total == pytest.approx((1 + weight) * DT**2 * np.mean((f - middle) ** 2) + floor, rel=1e-10)


@pytest.mark.parametrize("state", STATES)
def test_pairs_are_neighbours_on_the_trajectory(state):
    pairs = make_pairs(8.0, 2.0, DT, state, "tight", TEST_START)
    states = trajectory(8.0, 2.0, DT, TEST_START, "tight")
    points = embed(states) if state == "embedded" else states
    assert pairs.x.shape == pairs.target.shape == pairs.q.shape == (39, STATES[state])
    assert np.array_equal(pairs.x, points[:-1]) and np.array_equal(pairs.target, points[1:])
    np.testing.assert_allclose(pairs.x + DT * pairs.q, pairs.target, atol=1e-15)
    assert {a.dtype for a in (pairs.x, pairs.target, pairs.q)} == {np.dtype(np.float64)}
    if state == "raw":
        theta, omega = pairs.x.T
        np.testing.assert_allclose(pairs.field, np.stack([omega, -omega / 8 - np.sin(theta)], 1), rtol=1e-14)
    else:
        assert pairs.field is None
        with pytest.raises(ValueError, match="vector field"):
            defect(pairs, DT)


def test_defaults_are_the_published_training_pairs():
    pairs = make_pairs(8.0, 20.0, DT)
    assert pairs.x.shape == (399, 2) and tuple(pairs.x[0]) == TRAIN_START
    np.testing.assert_allclose(pairs.x[100], (-0.55525747, 1.01671394), atol=1e-7)


def test_too_short_a_horizon_and_unknown_states():
    assert len(make_pairs(8.0, 0.1, DT).x) == 1
    with pytest.raises(ValueError, match="a pair needs two"):
        make_pairs(8.0, 0.05, DT)
    with pytest.raises(ValueError, match="embedded, raw"):
        make_pairs(8.0, 1.0, DT, "polar")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_padding(dtype):
    pairs = [make_pairs(8.0, 0.5, DT), make_pairs(1.0, 2.0, DT), make_pairs(4.0, 0.1, DT)]
    batch = pad(pairs, dtype, "cpu")
    assert batch.count.tolist() == [9, 39, 1] and batch.count.dtype == torch.int64
    assert batch.mask.shape == (3, 39) and batch.mask.sum(1).tolist() == [9, 39, 1]
    for name in ("x", "target", "q", "field"):
        padded = getattr(batch, name)
        assert padded.shape == (3, 39, 2) and padded.dtype == dtype
        for row, mask, one in zip(padded, batch.mask, pairs):
            assert torch.equal(row[mask == 1], torch.tensor(getattr(one, name), dtype=dtype))
            assert (row[mask == 0] == 0).all()
    assert batch.mask.dtype == dtype


def test_defects_of_a_batch_from_its_mask():
    pairs = [make_pairs(8.0, 0.5, DT), make_pairs(1.0, 2.0, DT)]
    batch = pad(pairs, torch.float64)
    squares = ((batch.q - batch.field) ** 2).mean(-1) * batch.mask
    found = DT**2 * squares.sum(1) / batch.count
    assert found.tolist() == pytest.approx([defect(p, DT) for p in pairs], rel=1e-12)


def test_padding_without_a_field_and_of_different_states():
    embedded = make_pairs(8.0, 0.5, DT, "embedded")
    assert (pad([embedded]).field == 0).all() and pad([embedded]).x.shape == (1, 9, 3)
    for wrong in ([], [embedded, make_pairs(8.0, 0.5, DT)]):
        with pytest.raises(ValueError, match="at least one run, and the same state"):
            pad(wrong)
