"""The network: against the published formula, its boundary, size, initial weights, derivatives."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from pino.model import PRESETS, FNO2d
from torch import Tensor, nn
from torch.func import functional_call


def network(spectral: str = "dft", seed: int = 0, dtype: torch.dtype = torch.float64) -> FNO2d:
    """A small one with larger spectral weights than the initial ones."""
    model = FNO2d(3, 4, head=(8, 5), seed=seed, spectral=spectral, dtype=dtype)
    for layer in model.spectral_layers:
        layer.weight.data = 40 * layer.weight.data - 1
    return model


def coefficients(size: int, batch: int = 2) -> Tensor:
    """Random fields of two values."""
    signs = torch.rand(batch, size, size, generator=torch.Generator().manual_seed(1)) < 0.5
    return torch.where(signs, 3.0, 12.0).double()


def textbook(model: FNO2d, a: Tensor) -> Tensor:
    """The published network: channels first, two complex weight tensors, all modes."""
    size, m = a.shape[-1], model.modes
    x = torch.linspace(0, 1, size, dtype=a.dtype)
    planes = torch.stack([a, x[:, None].expand(a.shape), x.expand(a.shape)], 3)
    z = F.linear(planes, model.lift.weight, model.lift.bias).permute(0, 3, 1, 2)
    for number, (spectral, skip) in enumerate(zip(model.spectral_layers, model.skips)):
        weight = torch.complex(*spectral.weight.permute(3, 2, 4, 0, 1))  # in, out, k1, k2
        spectrum = torch.fft.rfft2(z)
        out = torch.zeros_like(spectrum)
        out[:, :, :m, :m] = torch.einsum("bixy,ioxy->boxy", spectrum[:, :, :m, :m], weight[:, :, :m])
        out[:, :, -m:, :m] = torch.einsum("bixy,ioxy->boxy", spectrum[:, :, -m:, :m], weight[:, :, m:])
        z = torch.fft.irfft2(out, s=(size, size)) + torch.einsum("oi,bixy->boxy", skip.weight, z) \
            + skip.bias[:, None, None]
        z = F.gelu(z) if number < 3 else z
    z = z.permute(0, 2, 3, 1)
    first, second, last = model.head
    net = last(F.gelu(second(F.gelu(first(z))))).squeeze(3)
    return 0.001 * torch.sin(math.pi * x)[:, None] * torch.sin(math.pi * x) * net


@pytest.mark.parametrize("spectral", ["dft", "fft"])
@pytest.mark.parametrize("size", [6, 11, 14])
def test_output_and_gradients_are_those_of_the_published_formula(spectral: str, size: int) -> None:
    model, a = network(spectral), coefficients(size)
    ours, theirs = model(a), textbook(model, a)
    assert ours.shape == a.shape and ours.std() > 1e-4
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-16)
    gradients = (torch.autograd.grad(1e3 * u.square().sum(), list(model.parameters())) for u in (ours, theirs))
    for mine, other in zip(*gradients):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-13)


def test_the_prime_grid_in_float32() -> None:
    """61 x 61, as published: rounding stays rounding, and u is 0 on the boundary."""
    a, model = coefficients(61), network()
    exact, rounded = model(a), network(dtype=torch.float32)(a.float())
    assert (exact - rounded).norm() < 1e-5 * exact.norm()
    inside = rounded[:, 1:-1, 1:-1].abs()
    assert inside.max() > 1e-4
    for edge in (rounded[:, 0], rounded[:, -1], rounded[:, :, 0], rounded[:, :, -1]):
        assert edge.abs().max() == 0


def test_hessian_vector_products_through_functional_call() -> None:
    """Both transforms give the same, that of differences of gradients."""
    products = []
    for spectral in ("dft", "fft"):
        model, a = network(spectral), coefficients(8)
        weights = {name: p.detach()[None].requires_grad_() for name, p in model.named_parameters()}
        leaves = list(weights.values())

        def gradients(create_graph: bool = False) -> tuple[Tensor, ...]:
            with torch.enable_grad():
                u = functional_call(model, {name: p.squeeze(0) for name, p in weights.items()}, (a,))  # noqa: B023
                return torch.autograd.grad(1e3 * u.square().sum(), leaves, create_graph=create_graph)  # noqa: B023

        v = [torch.randn(p.shape, generator=torch.Generator().manual_seed(3), dtype=p.dtype) for p in leaves]
        slope = sum((g * w).sum() for g, w in zip(gradients(True), v))
        products.append(torch.cat([h.flatten() for h in torch.autograd.grad(slope, leaves)]))
        sides = []
        for h in (1e-5, -1e-5):
            with torch.no_grad():
                for p, w in zip(leaves, v):
                    p.add_(w, alpha=h)
                sides.append(torch.cat([g.flatten() for g in gradients()]))
                for p, w in zip(leaves, v):
                    p.sub_(w, alpha=h)
        difference = (sides[0] - sides[1]) / 2e-5
        assert (difference - products[-1]).norm() < 1e-6 * difference.norm()
    torch.testing.assert_close(*products, rtol=1e-9, atol=1e-12)


def test_output_is_independent_of_the_company_in_a_batch() -> None:
    model, a = network(), coefficients(8, 5)
    alone = torch.cat([model(a[k:k + 1]) for k in range(5)])
    torch.testing.assert_close(model(a), alone, rtol=0, atol=1e-16)


def test_initial_weights_follow_from_the_seed_and_have_the_published_laws() -> None:
    before = torch.random.get_rng_state()
    a, b, c = FNO2d(8, 8, seed=5), FNO2d(8, 8, seed=5, dtype=torch.float64), FNO2d(8, 8, seed=6)
    assert torch.equal(before, torch.random.get_rng_state())
    for p, q, r in zip(a.parameters(), b.parameters(), c.parameters()):
        torch.testing.assert_close(p.double(), q, rtol=1e-6, atol=1e-9)
        assert not torch.equal(p, r)
    for layer in a.spectral_layers:
        scaled = layer.weight.detach() * 8**2
        assert 0 <= scaled.min() < 0.01 and 0.99 < scaled.max() < 1 and abs(scaled.mean() - 0.5) < 0.02
    for linear in a.modules():
        if isinstance(linear, nn.Linear):
            bound = 1 / math.sqrt(linear.in_features)
            largest = max(linear.weight.abs().max(), linear.bias.abs().max())
            assert 0.7 * bound < largest <= bound


def test_published_number_of_weights() -> None:
    counts = {}
    for name, preset in PRESETS.items():
        weights = list(FNO2d(**preset).parameters())
        assert not any(p.is_complex() for p in weights)
        counts[name] = sum(p.numel() for p in weights)
    assert counts == {"paper": 26_247_937, "small": 148_753, "tiny": 9_689}


def test_refuses_a_grid_that_lacks_the_modes() -> None:
    with pytest.raises(ValueError, match="fewer than the 6 modes"):
        network()(coefficients(5))
    with pytest.raises(ValueError, match="one of dft, fft"):
        network("fast")
