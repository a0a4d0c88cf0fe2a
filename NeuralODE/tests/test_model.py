"""The stacked network against torch's own layers."""

import pytest
import torch
from node.model import MLP
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
