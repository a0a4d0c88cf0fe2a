"""The network of the neural ODE: R fully connected tanh networks side by side, dx/dt = f(x).

Weights are stacked on a leading `runs` axis, W_k (R, in, out) and b_k (R, 1, out), and

    f = W_K tanh( ... tanh(x W_0 + b_0) ... ) + b_K,            x = (theta, omega) or its embedding on the sphere.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class MLP(nn.Module):
    """R stacked tanh networks d -> hidden -> ... -> hidden -> d.

    Weights and biases are those of `torch.nn.Linear` after `torch.manual_seed(seed)`: uniform in +-1/sqrt(fan in),
    drawn in float32 layer by layer. They depend on the run's seed alone, so the runs of one seed start alike.

    Args:
        seeds: one seed a run.
        size: d, the dimension of the state.
        hidden: widths of the hidden layers.
    """

    def __init__(self, seeds: Sequence[int], size: int, hidden: Sequence[int], dtype: torch.dtype = torch.float32,
                 device: torch.device | str = "cpu") -> None:
        super().__init__()
        widths = [size, *hidden, size]
        drawn = {seed: _draw(seed, widths) for seed in dict.fromkeys(seeds)}
        for kind, name in enumerate(("weights", "biases")):
            stacked = [torch.stack([drawn[seed][layer][kind] for seed in seeds]) for layer in range(len(widths) - 1)]
            setattr(self, name, nn.ParameterList(nn.Parameter(part.to(device, dtype)) for part in stacked))

    @property
    def size(self) -> int:
        """Number of weights of one network: 626 for three hidden layers of 16 in the plane, 659 on the sphere."""
        return sum(p[0].numel() for p in self.parameters())

    def forward(self, x: Tensor) -> Tensor:
        """f at states x (R, n, d) -> (R, n, d)."""
        return propagate(list(self.parameters()), x)


def _draw(seed: int, widths: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    layers = []
    for fan_in, fan_out in zip(widths[:-1], widths[1:], strict=True):
        bound = 1 / math.sqrt(fan_in)
        weight = torch.empty(fan_out, fan_in).uniform_(-bound, bound, generator=generator)
        bias = torch.empty(1, fan_out).uniform_(-bound, bound, generator=generator)
        layers.append((weight.T, bias))
    return layers


def propagate(params: Sequence[Tensor], x: Tensor) -> Tensor:
    """f of the stacked networks at states x (R, n, d) -> (R, n, d).

    Args:
        params: W_0 ... W_K, b_0 ... b_K as `MLP.parameters()` gives them, each with leading axis R.
        x: states.
    """
    depth = len(params) // 2
    for layer in range(depth):
        x = torch.baddbmm(params[depth + layer], x, params[layer])
        if layer < depth - 1:
            x = torch.tanh(x)
    return x


@torch.no_grad()
def least_squares(params: Sequence[Tensor], x: Tensor, target: Tensor, mask: Tensor, count: Tensor,
                  factor: float) -> tuple[Tensor, list[Tensor]]:
    """Losses factor / count sum_n mask_n |f(x_n) - target_n|^2, (R,), and their gradients, one a parameter.

    The reverse pass is written out: for networks this small autograd's bookkeeping costs as much as the arithmetic.

    Args:
        params: as in `propagate`.
        x, target: (R, n, d).
        mask: (R, n).
        count: (R,).
    """
    depth = len(params) // 2
    inputs, z = [x], x
    for layer in range(depth):
        z = torch.baddbmm(params[depth + layer], z, params[layer])
        if layer < depth - 1:
            inputs.append(z.tanh_())
    e = z.sub_(target)
    losses = factor * (e.square().sum(2) * mask).sum(1) / count
    grad = (mask * (count.to(x).reciprocal() * factor)[:, None])[..., None] * (2 * e)
    grads: list[Tensor] = [e] * len(params)
    for layer in range(depth - 1, -1, -1):
        a = inputs[layer]
        grads[layer], grads[depth + layer] = torch.bmm(a.mT, grad), grad.sum(1, keepdim=True)
        if layer > 0:
            grad = torch.ops.aten.tanh_backward(torch.bmm(grad, params[layer].mT), a)  # times 1 - a^2
    return losses, grads
