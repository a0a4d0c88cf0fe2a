"""Curves between networks: their geometry, bends with closed-form optima, and measures of paths; in float64."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pinn.curves import KINDS, Curve, measure, train_bends

DOUBLE = torch.float64
PLANE = [torch.zeros(1, 2, dtype=DOUBLE)]


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Gaussian numbers in float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def ring(params: list[Tensor], step: int = 0) -> tuple[Tensor, list[Tensor]]:
    """(|x|^2 - 1)^2 and its gradient: a valley on the unit circle."""
    x, = params
    excess = x.square().sum(1) - 1
    return excess ** 2, [4 * excess[:, None] * x]


def on_circle(degrees: float) -> Tensor:
    return torch.tensor([math.cos(math.radians(degrees)), math.sin(math.radians(degrees))], dtype=DOUBLE)


def along(curve: Curve, batch: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """61 t and the losses in the plane."""
    t, loss = np.linspace(0, 1, 61), np.full(61, np.nan)
    for rows, weights in curve.networks(t, PLANE, batch):
        loss[rows] = ring(weights)[0]
    return t, loss


@pytest.mark.parametrize("bends", [0, 1, 3])
def test_points_are_those_of_the_definition(bends: int) -> None:
    """Bezier by de Casteljau's recursion, polygonal by linear interpolation."""
    control, t = normal(bends + 2, 5), torch.linspace(0, 1, 13, dtype=DOUBLE)
    points = list(control[:, None].expand(-1, len(t), -1))
    while len(points) > 1:
        points = [(1 - t[:, None]) * p + t[:, None] * q for p, q in zip(points, points[1:])]
    torch.testing.assert_close(Curve("bezier", control).at(t), points[0])
    corners = np.linspace(0, 1, bends + 2)
    expected = np.stack([np.interp(t.numpy(), corners, column) for column in control.T.numpy()], 1)
    torch.testing.assert_close(Curve("polygonal", control).at(t), torch.from_numpy(expected))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bends", [0, 1, 2, 3])
def test_a_straight_curve_is_the_chord(kind: str, bends: int) -> None:
    """To rounding in between, to the last digit at the ends, also where the bends are not finite."""
    a, b = normal(2, 40).float()
    curve, t = Curve.straight(kind, a, b, bends), torch.linspace(0, 1, 9, dtype=DOUBLE)
    torch.testing.assert_close(curve.at(t), torch.lerp(a, b, t[:, None].float()))
    curve.control[1:-1] = torch.nan
    assert torch.equal(curve.at(t)[[0, -1]], torch.stack([a, b]))
    assert curve.control.data_ptr() != a.data_ptr()


def test_networks_along_a_curve() -> None:
    """All of them in order, ends alone, shaped like the parameters, the same in any batches."""
    like, curve = [torch.zeros(1, 2, 3, dtype=DOUBLE), torch.zeros(1, 4, dtype=DOUBLE)], Curve("bezier", normal(4, 10))
    t = np.linspace(0, 1, 8)
    parts = list(curve.networks(t, like, 4))
    assert [(rows.start, rows.stop) for rows, _ in parts] == [(0, 1), (1, 5), (5, 7), (7, 8)]
    assert [[w.shape for w in weights] for _, weights in parts][1] == [(4, 2, 3), (4, 4)]
    found = torch.cat([torch.cat([w.flatten(1) for w in weights], 1) for _, weights in parts])
    torch.testing.assert_close(found, curve.at(torch.from_numpy(t)))
    assert torch.equal(parts[0][1][1][0], curve.control[0, 6:])
    assert [rows for rows, _ in curve.networks([0.25, 0.5, 0.75], like, 2)] == [slice(0, 2), slice(2, 3)]


def test_bends_take_the_steps_of_adam() -> None:
    """Those of autograd through the definitions of both curves, at the same t and learning rates; the ends stay."""
    m, a, b = normal(3, 2)
    curves, starts = [Curve.straight(kind, a, b, 1) for kind in KINDS], [((a + b) / 2).requires_grad_() for _ in KINDS]

    def loss_and_gradients(x: list[Tensor], step: int) -> tuple[Tensor, list[Tensor]]:
        return (x[0] - step * m).square().sum(1), [2 * (x[0] - step * m)]
    losses = np.stack(list(train_bends(curves, PLANE, loss_and_gradients, 20, 0.1, 7)))
    optimizer, expected = torch.optim.Adam(starts, lr=0.1), []
    for step, t in enumerate(torch.rand(20, generator=torch.Generator().manual_seed(7), dtype=DOUBLE)):
        quadratic = (1 - t) ** 2 * a + 2 * t * (1 - t) * starts[0] + t ** 2 * b
        broken = torch.lerp(a, starts[1], 2 * t) if t < 0.5 else torch.lerp(starts[1], b, 2 * t - 1)
        values = [(x - step * m).square().sum() for x in (quadratic, broken)]
        optimizer.zero_grad()
        sum(values).backward()
        optimizer.param_groups[0]["lr"] = 0.1 * np.interp(step / 20, [0.5, 0.9], [1, 0.01])
        optimizer.step()
        expected.append([value.item() for value in values])
    np.testing.assert_allclose(losses, expected, rtol=1e-12)
    for curve, bend in zip(curves, starts):
        torch.testing.assert_close(curve.control[1], bend.detach(), rtol=1e-12, atol=1e-12)
        assert torch.equal(curve.control[[0, 2]], torch.stack([a, b]))


def test_curves_go_around_a_barrier() -> None:
    """On a ring the chord climbs to (sin^2 20 - 1)^2 = 0.78; trained curves follow it, in company as alone."""
    a, b = on_circle(160), on_circle(20)
    assert measure(*along(Curve.straight("bezier", a, b))).barrier == pytest.approx(
        (math.sin(math.radians(20)) ** 2 - 1) ** 2)
    curves, alone = ([Curve.straight(kind, a, b, 3) for kind in kinds] for kinds in (KINDS, ["polygonal"]))
    losses = np.stack(list(train_bends(curves, PLANE, ring, 400, 0.03, 0)))
    assert losses.shape == (400, 2) and losses[-100:].max() < 0.05 < losses[:100].max()
    assert max(measure(*along(curve)).barrier for curve in curves) < 0.02
    list(train_bends(alone, PLANE, ring, 400, 0.03, 0))
    torch.testing.assert_close(alone[0].control, curves[1].control, rtol=0, atol=1e-10)
    torch.testing.assert_close(*(along(curves[0], batch)[1] for batch in (1, 100)), rtol=1e-12, atol=1e-12)


def test_updates_that_are_not_finite_are_left_out() -> None:
    """One curve's loss or gradient, infinite or too large to be squared: it waits, the other goes on as if alone."""
    a, b = on_circle(160), on_circle(20)
    bad = {0: (torch.nan, 0.0), 3: (1.0, torch.inf), 4: (torch.inf, 1.0), 5: (1.0, 1e200)}

    def broken(params: list[Tensor], step: int) -> tuple[Tensor, list[Tensor]]:
        losses, (gradients,) = ring(params)
        if step in bad and len(losses) == 2:
            losses[1], gradients[1] = bad[step]
        return losses, [gradients]
    curves, alone = [Curve.straight("bezier", a, b, 1) for _ in range(2)], Curve.straight("bezier", a, b, 1)
    steps = train_bends(curves, PLANE, broken, 40, 0.02, 0)
    first = next(steps)
    assert np.isnan(first).tolist() == [False, True]
    torch.testing.assert_close(curves[1].control, Curve.straight("bezier", a, b, 1).control)
    losses = np.stack([first, *steps])
    assert np.flatnonzero(np.isnan(losses[:, 1])).tolist() == list(bad) and not np.isnan(losses[:, 0]).any()
    list(train_bends([alone], PLANE, ring, 40, 0.02, 0))
    torch.testing.assert_close(curves[0].control, alone.control)
    assert curves[1].control.isfinite().all() and losses[-1, 1] < losses[1, 1]


def test_measures() -> None:
    """A bump of height h between equal ends gives mc = -h, where the paper's argmin gives 0; unequal ends; a dip."""
    t = np.linspace(0, 1, 61)
    bump = np.sin(math.pi * t) ** 2
    found = measure(t, 0.2 + 3 * bump)
    assert found[:2] == (pytest.approx(3), 0.5) and found[3:5] == (pytest.approx(-3), 0.5)
    assert found.barrier_log10 == pytest.approx(math.log10(3.2 / 0.2)) == -found.mc_log10
    assert np.abs(0.2 - (0.2 + 3 * bump)).min() == 0
    monotone = measure(t, 10.0 ** (-2 - 2 * t))  # a straight line of logarithms: below the chord, no barrier
    assert monotone.barrier == 0 and monotone.barrier_log10 == pytest.approx(0, abs=1e-12)
    assert (monotone.mc, monotone.mc_t, monotone.mc_log10) == (pytest.approx(-0.495e-2), 0, pytest.approx(-1))
    assert measure(t, 10.0 ** (-4 + 2 * t))[3:] == (monotone.mc, 1, pytest.approx(-1))
    dip = measure(t, 1 - 0.5 * bump)
    assert (dip.barrier, dip.mc) == (0, pytest.approx(0.5)) and dip.mc_t == 0.5
    tilted = measure(t, 1 + t + bump)  # the barrier is over the line of the ends, not over their mean
    assert tilted.barrier == pytest.approx(1) and tilted.barrier_t == 0.5
    assert tilted.mc == pytest.approx(-1.0255, abs=1e-4) and tilted.mc_t == pytest.approx(0.55)


def test_measures_of_losses_that_are_not_finite() -> None:
    """An infinite barrier on the way; nothing to tell with such an end; no t but from 0 to 1."""
    t, loss = np.linspace(0, 1, 5), np.ones(5)
    for value in (np.nan, np.inf):
        loss[3] = value
        assert measure(t, loss) == (np.inf, 0.75, np.inf, -np.inf, 0.75, -np.inf)
    loss[0] = np.nan
    assert np.isnan(measure(t, loss)).all()
    zero = measure(t, np.array([0, 1, 1, 1, 0.0]))
    assert zero.barrier_log10 == 12
    with pytest.raises(ValueError, match="from 0 to 1, got 0.25 to 1.0"):
        measure(t[1:], loss[1:])
