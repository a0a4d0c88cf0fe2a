"""The stacked network against torch's own layers."""

import pytest
import torch
from node.model import MLP, least_squares, propagate
from torch import nn


def plain(seed, size, hidden=(16, 16, 16)):
    """One network of torch's layers, with torch's default initial weights after a global seed."""
    torch.manual_seed(seed)
    widths = [size, *hidden, size]
    layers = [layer for a, b in zip(widths[:-1], widths[1:], strict=True) for layer in (nn.Linear(a, b), nn.Tanh())]
    return nn.Sequential(*layers[:-1])


@pytest.mark.parametrize(("size", "weights"), [(2, 626), (3, 659)])
def test_is_torchs_network_of_the_same_seed(size, weights):
    stacked = MLP([0, 5, 0], size, (16, 16, 16))
    assert stacked.size == weights == sum(p.numel() for p in plain(0, size).parameters())
    x = torch.randn(3, 7, size)
    for r, seed in enumerate((0, 5, 0)):
        expected = plain(seed, size)(x[r])
        torch.testing.assert_close(stacked(x)[r], expected, rtol=1e-5, atol=1e-6)
        for ours, theirs in zip(stacked.weights, plain(seed, size)[::2], strict=True):
            assert torch.equal(ours[r].T, theirs.weight)


def test_precision_changes_no_draw():
    double, single = MLP([3], 2, (4, 5), torch.float64), MLP([3], 2, (4, 5))
    for a, b in zip(double.parameters(), single.parameters(), strict=True):
        assert a.dtype == torch.float64 and torch.equal(a.float(), b)


def test_least_squares_has_the_gradients_of_autograd():
    params = list(MLP([0, 5, 2], 3, (7, 4), torch.float64).parameters())
    generator = torch.Generator().manual_seed(0)
    x, target = torch.randn(2, 3, 9, 3, generator=generator, dtype=torch.float64)
    mask = (torch.rand(3, 9, generator=generator, dtype=torch.float64) > 0.3).double()
    count = torch.tensor([2, 18, 7])
    kept = x.clone(), target.clone()
    losses, grads = least_squares(params, x, target, mask, count, 0.3)
    expected = 0.3 * ((propagate(params, x) - target).square().sum(2) * mask).sum(1) / count
    torch.testing.assert_close(losses, expected.detach(), rtol=1e-13, atol=0)
    for found, wanted in zip(grads, torch.autograd.grad(expected.sum(), params), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-14)
    assert torch.equal(x, kept[0]) and torch.equal(target, kept[1])
