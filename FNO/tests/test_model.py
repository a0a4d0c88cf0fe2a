"""The network: against the textbook formula, symmetries of the torus, published sizes, seeds."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from fno.configs import SIZES
from fno.model import DFT, FNO2d
from torch import Tensor

MODES, WIDTH = 3, 4


def network(spectral: str = "dft", modes: int = MODES, seed: int = 0) -> FNO2d:
    """A small one, in float64, with larger spectral weights than the initial ones."""
    model = FNO2d(3, modes, WIDTH, 2 * WIDTH, seed=seed, spectral=spectral, dtype=torch.float64)
    for layer in model.spectral_layers:
        layer.weight.data = 40 * layer.weight.data - 1
    return model


def inputs(n: int, batch: int = 2) -> tuple[Tensor, Tensor]:
    """Random forcings and coefficients."""
    generator = torch.Generator().manual_seed(1)
    return (torch.randn(batch, n, n, generator=generator, dtype=torch.float64),
            torch.randn(batch, 3, generator=generator, dtype=torch.float64))


def textbook(model: FNO2d, f: Tensor, coefficients: Tensor) -> Tensor:
    """The published network: planes of coefficients, full complex FFTs, a loop over the kept modes."""
    n, m = f.shape[-1], model.modes
    planes = coefficients[:, :, None, None].expand(-1, -1, n, n)
    z = torch.einsum("oi,biyx->boyx", model.lift.weight, torch.cat([f[:, None], planes], 1))
    z = z + model.lift.bias[:, None, None]
    for number, (spectral, skip) in enumerate(zip(model.spectral_layers, model.skips)):
        spectrum = torch.fft.rfft2(z, norm="ortho")
        out = torch.zeros_like(spectrum)
        for ky in range(-m, m):
            for kx in range(m):
                pair = spectral.weight[ky, kx]  # (in, 2, out)
                weight = torch.complex(pair[:, 0], pair[:, 1])
                out[:, :, ky, kx] = spectrum[:, :, ky, kx] @ weight
        z = torch.fft.irfft2(out, s=(n, n), norm="ortho") + torch.einsum("oi,biyx->boyx", skip.weight, z) \
            + skip.bias[:, None, None]
        z = F.gelu(z) if number < len(model.skips) - 1 else z
    return model.output(F.gelu(model.hidden(z.permute(0, 2, 3, 1)))).squeeze(3)


@pytest.mark.parametrize("spectral", ["dft", "fft"])
@pytest.mark.parametrize("n", [6, 9, 16])
def test_output_and_gradients_are_those_of_the_textbook_formula(spectral: str, n: int) -> None:
    model = network(spectral)
    f, coefficients = (x.requires_grad_() for x in inputs(n))
    ours, theirs = model(f, coefficients), textbook(model, f, coefficients)
    assert ours.shape == (2, n, n) and ours.std() > 1e-3
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)
    wanted = [f, coefficients, *model.parameters()]
    gradients = zip(*(torch.autograd.grad(u.square().sum(), wanted) for u in (ours, theirs)))
    for a, b in gradients:
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)


def test_second_derivatives_of_both_transforms_agree() -> None:
    """Hessian-vector products go through the matrices as through the FFT."""
    products = []
    for spectral in ("dft", "fft"):
        model, (f, coefficients) = network(spectral), inputs(8)
        parameters = list(model.parameters())
        gradients = torch.autograd.grad(model(f, coefficients).square().sum(), parameters, create_graph=True)
        slope = sum((g * torch.ones_like(g)).sum() for g in gradients)
        products.append(torch.autograd.grad(slope, parameters))
    for a, b in zip(*products):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


def test_matrices_are_the_transform_of_the_lowest_modes_and_its_adjoint() -> None:
    n, m = 10, 3
    transform = DFT(n, m, torch.float64, torch.device("cpu"))
    z = torch.randn(n, n, 2, WIDTH, dtype=torch.float64)
    modes = transform.forward(z)
    spectrum = torch.fft.rfft2(z, dim=(0, 1), norm="ortho")
    kept = torch.cat([spectrum[:m, :m], spectrum[-m:, :m]])
    torch.testing.assert_close(torch.complex(modes[:, :, 0], modes[:, :, 1]), kept)
    none = torch.zeros_like(spectrum)
    none[:m, :m], none[-m:, :m] = kept[:m], kept[m:]
    back = transform.inverse(modes.transpose(1, 2), torch.ones_like(z))
    torch.testing.assert_close(back, 1 + torch.fft.irfft2(none, s=(n, n), dim=(0, 1), norm="ortho"))


@pytest.mark.parametrize("spectral", ["dft", "fft"])
def test_commutes_with_translations_of_the_torus(spectral: str) -> None:
    model, (f, coefficients) = network(spectral), inputs(12)
    for shift in ((1, 0), (0, 5), (-3, 7)):
        moved = model(f.roll(shift, (1, 2)), coefficients)
        torch.testing.assert_close(moved, model(f, coefficients).roll(shift, (1, 2)), rtol=0, atol=1e-13)


def test_output_is_independent_of_the_company_in_a_batch() -> None:
    model, (f, coefficients) = network(), inputs(8, 5)
    alone = torch.cat([model(f[k:k + 1], coefficients[k:k + 1]) for k in range(5)])
    torch.testing.assert_close(model(f, coefficients), alone, rtol=0, atol=1e-13)


@pytest.mark.parametrize(("size", "coefficients", "count"), [
    ("64K", 3, 66_025), ("1M", 5, 1_050_353)])  # the others: test_configs.py
def test_published_numbers_of_parameters(size: str, coefficients: int, count: int) -> None:
    modes, width = SIZES[size]
    model = FNO2d(coefficients, modes, width, 2 * width)
    assert sum(p.numel() for p in model.parameters()) == count


def test_initial_weights_follow_from_the_seed_and_have_the_published_laws() -> None:
    before = torch.random.get_rng_state()
    a, b, c = FNO2d(3, 8, 8, 16, seed=5), FNO2d(3, 8, 8, 16, seed=5, dtype=torch.float64), FNO2d(3, 8, 8, 16, seed=6)
    assert torch.equal(before, torch.random.get_rng_state())
    for p, q, r in zip(a.parameters(), b.parameters(), c.parameters()):
        torch.testing.assert_close(p.double(), q, rtol=1e-6, atol=1e-9)
        assert not torch.equal(p, r)
    for layer in a.spectral_layers:
        scaled = layer.weight.detach() * 8**2
        assert 0 <= scaled.min() < 0.01 and 0.99 < scaled.max() < 1 and abs(scaled.mean() - 0.5) < 0.02
    for linear in (a.lift, a.skips[0], a.hidden, a.output):
        bound = 1 / math.sqrt(linear.in_features)
        largest = max(linear.weight.abs().max(), linear.bias.abs().max())
        assert 0.7 * bound < largest <= bound


def test_refuses_a_grid_that_lacks_the_modes() -> None:
    with pytest.raises(ValueError, match="fewer than the 6 modes"):
        network()(*inputs(5))
    with pytest.raises(ValueError, match="one of dft, fft"):
        network("fast")
