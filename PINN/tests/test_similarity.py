"""Centred kernel alignment against its definition and its invariances, in float64."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pinn.similarity import alignment, linear_kernel, rbf_kernel, similarity

DOUBLE = torch.float64


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Gaussian numbers in float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def definition(k: Tensor, q: Tensor) -> float:
    """tr(K H Q H) / sqrt(tr(K H K H) tr(Q H Q H)), H = I - 11'/N."""
    h = torch.eye(len(k), dtype=DOUBLE) - 1 / len(k)
    products = [torch.trace(a @ h @ b @ h) for a, b in ((k, q), (k, k), (q, q))]
    return (products[0] / (products[1] * products[2]).sqrt()).item()


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Linear CKA of features (N, d) and (N, d')."""
    return alignment([linear_kernel(x), linear_kernel(y)])[0, 1].item()


def rbf_cka(x: Tensor, y: Tensor, **width: float) -> float:
    """RBF CKA of features (N, d) and (N, d')."""
    return alignment([rbf_kernel(linear_kernel(z), **width) for z in (x, y)])[0, 1].item()


@pytest.mark.parametrize("n, d", [(30, 5), (10, 40)])
def test_against_the_definition(n: int, d: int) -> None:
    """Fewer and more features than inputs, a mean far from zero, sigma absolute or a fraction of the median."""
    x, y = 3 + normal(n, d), 1e3 + normal(n, d + 1, seed=1) @ normal(d + 1, d + 1, seed=2)
    assert linear_cka(x, y) == pytest.approx(definition(x @ x.T, y @ y.T), abs=1e-6)
    centred = [z - z.mean(0) for z in (x, y)]
    assert linear_cka(x, y) == pytest.approx(definition(*(z @ z.T for z in centred)), rel=1e-12)

    def kernel(z: Tensor, sigma: float) -> Tensor:
        return torch.exp(-torch.cdist(z, z, compute_mode="donot_use_mm_for_euclid_dist") ** 2 / (2 * sigma ** 2))
    assert rbf_cka(x, y, sigma=7.0) == pytest.approx(definition(kernel(x, 7.0), kernel(y, 7.0)), rel=1e-9)
    medians = [torch.pdist(z).median().item() for z in (x, y)]
    expected = definition(kernel(x, 0.6 * medians[0]), kernel(y, 0.6 * medians[1]))
    assert rbf_cka(x, y, bandwidth=0.6) == pytest.approx(expected, rel=1e-9)
    assert abs(rbf_cka(x, y) - expected) > 1e-3


def test_invariances() -> None:
    """1 with itself, also rotated, scaled and shifted; not under any linear map; near 0 for unrelated features."""
    x, other = normal(400, 6), normal(400, 6, seed=1)
    rotation = torch.linalg.qr(normal(6, 6, seed=2)).Q
    for cka in (linear_cka, rbf_cka):
        assert cka(x, x) == pytest.approx(1, rel=1e-12)
        assert cka(x, 1e-9 * x @ rotation - 5e-8) == pytest.approx(1, rel=1e-6)
        assert cka(x @ rotation, 40 * other) == pytest.approx(cka(x, other), rel=1e-9)
        assert cka(x, x * torch.tensor([10.0, 1, 1, 1, 1, 1], dtype=DOUBLE)) < 0.7
    assert linear_cka(x, other) < 0.05 and rbf_cka(x, other, bandwidth=1.0) < 0.1


def test_constant_features_have_none() -> None:
    """NaN, also where centring leaves rounding, where most inputs coincide and where features are not finite."""
    x = normal(20, 3)
    mostly = torch.zeros(20, 3, dtype=DOUBLE)
    mostly[0] = 1
    broken = x.clone()
    broken[2, 1] = torch.inf
    for constant in (torch.zeros(20, 3), torch.full((20, 3), 0.1), torch.full((20, 7), 1e6 / 3, dtype=DOUBLE), broken):
        assert np.isnan([linear_cka(x, constant), rbf_cka(constant, x), rbf_cka(x, constant, sigma=1.0)]).all()
    assert np.isnan(rbf_cka(x, mostly)) and not np.isnan([linear_cka(x, mostly), rbf_cka(x, mostly, sigma=1.0)]).any()
    assert np.isnan(rbf_cka(x, x, sigma=1e9))


def test_similarity_of_networks() -> None:
    """Layer by layer what two at a time give, symmetric, in any precision of the features; what does not match."""
    networks = [{"hidden_1": normal(25, 4, seed=k).tanh(), "output": normal(25, 1, seed=10 + k).float()}
                for k in range(3)]
    layers, linear, rbf = similarity(networks, bandwidth=0.5)
    assert layers == ["hidden_1", "output"] and linear.shape == rbf.shape == (2, 3, 3)
    for found, cka in ((linear, linear_cka), (rbf, lambda x, y: rbf_cka(x, y, bandwidth=0.5))):
        np.testing.assert_allclose(found, found.transpose(0, 2, 1), rtol=1e-14)
        np.testing.assert_allclose(found.diagonal(axis1=1, axis2=2), 1, rtol=1e-14)
        for layer, matrix in zip(layers, found):
            assert matrix[0, 2] == pytest.approx(cka(networks[0][layer], networks[2][layer]), rel=1e-12)
    absolute = similarity(networks, sigma=2.0)[2]
    assert absolute[0, 0, 1] == pytest.approx(rbf_cka(networks[0]["hidden_1"], networks[1]["hidden_1"], sigma=2.0))
    with pytest.raises(ValueError, match="different layers: hidden_1, output; output"):
        similarity([networks[0], {"output": normal(25, 1)}])
    with pytest.raises(ValueError, match="numbers of inputs: 24, 25"):
        similarity([networks[0], {name: x[:24] for name, x in networks[1].items()}])
