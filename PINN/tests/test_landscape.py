"""Surfaces of quadratics and of a PINN, in float64 unless precision is the matter."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pinn.data import Grid
from pinn.hessian import unflatten
from pinn.landscape import Surface, coordinates, log10, normalise, random_directions
from pinn.model import MLP
from pinn.objective import Objective
from pinn.pdes import SYSTEMS

DOUBLE = torch.float64
FILTERS = [1, None, 0]


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Gaussian numbers in float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def network(seed: int = 0) -> list[Tensor]:
    """A dense layer (in, out), its biases and a convolution (out, in, 3, 3)."""
    return [normal(1, 3, 4, seed=seed), normal(1, 1, 4, seed=seed + 1), normal(1, 5, 2, 3, 3, seed=seed + 2)]


def total_norm(tensors: list[Tensor]) -> float:
    return sum(t.double().square().sum().item() for t in tensors) ** 0.5


def filter_norms(x: Tensor, axis: int) -> Tensor:
    """One filter after another."""
    return torch.stack([one.flatten().norm() for one in x[0].unbind(axis)])


def test_filters_get_the_norm_of_the_weights() -> None:
    """Each filter keeps its direction and gets its norm; biases do not move, nor does a filter of norm zero."""
    theta, d = network(), network(seed=10)
    d[0][0, :, 2] = 0
    dense, biases, conv = normalise(d, theta, FILTERS, "filter")
    expected = filter_norms(theta[0], 1)
    expected[2] = 0
    torch.testing.assert_close(filter_norms(dense, 1), expected)
    torch.testing.assert_close(filter_norms(conv, 0), filter_norms(theta[2], 0))
    assert not biases.any()
    torch.testing.assert_close(dense[0, :, 3], d[0][0, :, 3] * (theta[0][0, :, 3].norm() / d[0][0, :, 3].norm()))


def test_other_normalisations() -> None:
    """Tensors, biases too, get the norms of theta's; or the whole direction has norm 1."""
    theta, d = network(), network(seed=10)
    for scaled, p, v in zip(normalise(d, theta, FILTERS, "tensor"), theta, d):
        torch.testing.assert_close(scaled, v * (p.norm() / v.norm()))
    unit = normalise(d, theta, FILTERS, "none")
    assert total_norm(unit) == pytest.approx(1)
    torch.testing.assert_close(unit[2] / unit[0][0, 0, 0], d[2] / d[0][0, 0, 0])
    zero = [torch.zeros_like(v) for v in d]
    assert all(total_norm(normalise(zero, theta, FILTERS, how)) == 0 for how in ("filter", "tensor", "none"))
    single = [p.float() for p in theta]
    assert {v.dtype for v in normalise(d, single, FILTERS, "filter")} == {torch.float32}
    with pytest.raises(ValueError, match="filter, tensor, none, got layer"):
        normalise(d, theta, FILTERS, "layer")


def test_random_directions() -> None:
    """Standard Gaussian, told by the seed, whatever the precision and number of directions; unlike each other."""
    params = [torch.zeros(1, 40, 50, dtype=DOUBLE), torch.zeros(1, 50)]
    one, two = random_directions(params, 2, seed=3)
    assert abs(one[0].mean()) < 0.1 and one[0].std().item() == pytest.approx(1, abs=0.05)
    assert one[0].shape == params[0].shape and (one[0].dtype, one[1].dtype) == (DOUBLE, torch.float32)
    assert abs((one[0] * two[0]).mean()) < 0.1
    again = random_directions([p.float() for p in params], 1, seed=3)[0]
    torch.testing.assert_close(again[0], one[0].float(), rtol=0, atol=0)
    assert not torch.equal(random_directions(params, 1, seed=4)[0][0], one[0])


def test_surface_of_a_quadratic() -> None:
    """Along eigenvectors from the minimum, f = c + (lambda_1 a^2 + lambda_2 b^2) / 2."""
    eigenvalues = torch.tensor([100.0, 7.0, 1.0, 0.1, -3.0, 0.0], dtype=DOUBLE)
    q = torch.linalg.qr(normal(6, 6)).Q
    matrix, minimum = q * eigenvalues @ q.T, [normal(1, 2, 2, seed=1), normal(1, 1, 2, seed=2)]
    like = minimum

    def losses(params: list[Tensor]) -> Tensor:
        step = torch.cat([(p - m).flatten(1) for p, m in zip(params, minimum)], 1)
        return 0.25 + (step @ matrix * step).sum(1) / 2
    d1, d2 = (unflatten(q[:, k][None], like) for k in (0, 4))
    surface = Surface(radius=0.3, grid=7, line_points=5)
    assert list(surface.evaluate(losses, minimum, d1, d2, batch=20)) == [3, 23, 43, 59]  # the centre is in three sets
    a = np.linspace(-0.3, 0.3, 7)
    np.testing.assert_allclose(surface.a, a, atol=1e-16)
    np.testing.assert_allclose(surface.loss, 0.25 + 50 * a[:, None] ** 2 - 1.5 * a ** 2, rtol=1e-13)
    np.testing.assert_allclose(surface.line, [-0.3, -0.15, 0, 0.15, 0.3])
    np.testing.assert_allclose(surface.line_1, 0.25 + 50 * surface.line ** 2, rtol=1e-13)
    np.testing.assert_allclose(surface.line_2, 0.25 - 1.5 * surface.line ** 2, rtol=1e-13)


def test_coordinates_hold_the_centre() -> None:
    """Zero and both ends exactly, whatever the rounding; no even number of points."""
    for radius, count in [(0.1, 7), (0.3, 51), (1.7, 201), (1e-3, 3)]:
        x = coordinates(radius, count)
        assert (len(x), x[count // 2], x[0], x[-1]) == (count, 0, -radius, radius)
    for count in (1, 2, 50):
        with pytest.raises(ValueError, match=f"odd.*at least 3, got {count}"):
            Surface(0.5, 5, count)


@pytest.fixture(scope="module")
def pinn() -> tuple[list[Tensor], object, list[list[Tensor]]]:
    """Weights of a PINN in float32, the losses of any number of such networks, two directions."""
    grid = Grid((0, 6.283185307179586), 17, 11)
    params = [p.detach() for p in MLP([0], (6, 6), torch.float32, "cpu").parameters()]
    one = Objective(SYSTEMS["convection"], [5.0], {}, 40, [0], grid, dtype=torch.float32)

    def losses(weights: list[Tensor]) -> Tensor:
        k = len(weights[0])
        many = one if k == 1 else Objective(SYSTEMS["convection"], [5.0] * k, {}, 40, [0] * k, grid,
                                            dtype=torch.float32)
        return many.terms(weights)["loss"].double()
    d1, d2 = (normalise(d, params, [1] * 3 + [None] * 3, "filter") for d in random_directions(params, 2, 0))
    return params, losses, [d1, d2]


def test_surface_of_a_pinn(pinn) -> None:
    """f(0, 0) is the loss to the last digit, many at a time are one by one, the weights are as before."""
    params, losses, directions = pinn
    before, loss = [p.clone() for p in params], losses(params).item()
    many, single = Surface(0.5, 5, 9), Surface(0.5, 5, 9)
    for surface, batch in ((many, 16), (single, 1)):
        assert list(surface.evaluate(losses, params, *directions, batch))[-1] == 43 and surface.done.all()
        assert surface.loss[2, 2] == surface.line_1[4] == surface.line_2[4] == loss
    np.testing.assert_allclose(many.values, single.values, rtol=1e-5)
    a, b = many.a[1], many.a[4]
    there = losses([p + a * u + b * v for p, u, v in zip(params, *directions)])
    assert many.loss[1, 4] == pytest.approx(there.item(), rel=1e-5) and abs(many.loss[1, 4] - many.loss[4, 1]) > 1e-4
    assert all(torch.equal(p, q) for p, q in zip(params, before))


def test_resumed_is_uninterrupted(pinn) -> None:
    """Left after some batches and gone on with from the saved numbers: the same, and nothing is evaluated twice."""
    params, losses, directions = pinn
    whole, first, second = (Surface(0.5, 5, 3) for _ in range(3))
    counts = list(whole.evaluate(losses, params, *directions, 7))
    for count in first.evaluate(losses, params, *directions, 7):
        if count == 17:
            break
    assert np.isnan(first.values).sum() == 31 - 17 == (~first.done).sum()
    second.values[:], second.done[:] = first.values, first.done
    assert list(second.evaluate(losses, params, *directions, 7)) == [count for count in counts if count > 17]
    np.testing.assert_array_equal(second.values, whole.values)
    assert not list(second.evaluate(losses, params, *directions, 7))


def test_losses_that_are_not_finite_are_kept() -> None:
    """They are inf, known, and inf on a logarithmic scale, which has a floor."""
    surface, theta = Surface(1.0, 3, 3), [torch.ones(1, 1, 2)]

    def losses(params: list[Tensor]) -> Tensor:
        x, y = params[0][:, 0].T
        return torch.where(x > 1, torch.nan, torch.where(y > 1, torch.inf, x))
    list(surface.evaluate(losses, theta, [torch.tensor([[[1.0, 0]]])], [torch.tensor([[[0, 1.0]]])], 4))
    np.testing.assert_array_equal(surface.loss, [[0, 0, np.inf], [1, 1, np.inf], [np.inf] * 3])
    np.testing.assert_array_equal(log10(surface.line_1), [-12, 0, np.inf])
    assert surface.done.all()
