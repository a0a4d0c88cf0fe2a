"""The spectral convolution of a Fourier neural operator: products of the lowest modes with a matrix each.

S multiplies the m x 2m lowest Fourier modes, kx in [0, m) and ky in [-m, m), by a complex width x width matrix each
and drops the others. Fields are kept as (y, x, sample, channel). A Fourier transform that keeps few modes is then a
product with a small matrix along one axis, twice, without any copy in between:

    Z(ky, kx) = sum_y exp(-2 pi i ky y / N) sum_x exp(-2 pi i kx x / N) z(y, x) / N

which takes half the time of an FFT of all modes for 8 and 16 modes on a CPU; `SPECTRAL` names both ways.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

SPECTRAL = ("dft", "fft")


class SpectralConv(nn.Module):
    """S: a complex width x width matrix for each of the kept modes.

    weight: (2m, m, width, 2, width): ky = 0 ... m-1, -m ... -1; kx; input channel; real and imaginary part; output
    channel.
    """

    def __init__(self, width: int, modes: int) -> None:
        super().__init__()
        self.modes = modes
        self.weight = nn.Parameter(torch.empty(2 * modes, modes, width, 2, width))

    def forward(self, z: Tensor, skip: Tensor, transform: DFT | None) -> Tensor:
        """S z + skip, all (N, N, B, width); with the matrices of `transform`, or by FFT."""
        if transform is None:
            return skip + self._by_fft(z)
        return transform.inverse(self.mix(transform.forward(z)), skip)

    def mix(self, modes: Tensor) -> Tensor:
        """Multiply (2m, m, 2, B, width), real and imaginary part on axis 2, by the weights; (2m, 2, m, B, width)."""
        rows, columns, _, samples, width = modes.shape
        product = torch.bmm(modes.reshape(rows * columns, 2 * samples, width), self.weight.flatten(3).flatten(0, 1))
        (rr, ri), (ir, ii) = (part.unbind(3) for part in product.view(rows, columns, 2, samples, 2, width).unbind(2))
        return torch.stack([rr - ii, ri + ir], 1)

    def _by_fft(self, z: Tensor) -> Tensor:
        m, size = self.modes, z.shape[0]
        spectrum = torch.fft.rfft2(z, dim=(0, 1), norm="ortho")
        kept = torch.cat([spectrum[:m, :m], spectrum[-m:, :m]])
        mixed = self.mix(torch.stack([kept.real, kept.imag], 2))
        mixed = torch.complex(mixed[:, 0], mixed[:, 1])
        full = torch.zeros_like(spectrum)
        full[:m, :m], full[-m:, :m] = mixed[:m], mixed[m:]
        return torch.fft.irfft2(full, s=(size, size), dim=(0, 1), norm="ortho")


class DFT:
    """Matrices of the orthonormal Fourier transform of a size x size grid, kept to kx in [0, m) and ky in [-m, m)."""

    def __init__(self, size: int, modes: int, dtype: torch.dtype, device: torch.device) -> None:
        points = torch.arange(size, dtype=torch.float64) * (2 * math.pi / size)
        x, y = (torch.outer(torch.arange(count, dtype=torch.float64), points) for count in (modes, modes + 1))
        twice = torch.full((modes, 1), 2.0, dtype=torch.float64)  # kx < 0, which a real field has as well
        twice[0] = 1
        analysis_y = torch.cat([y.cos(), y.sin()])  # |ky| = 0 ... m
        matrices = (torch.cat([x.cos(), -x.sin()]), torch.cat([twice * x.cos(), -twice * x.sin()]).T,
                    analysis_y, analysis_y.T)
        # (2m, size), (size, 2m): real part, imaginary part; (2m + 2, size), (size, 2m + 2): cosines, sines
        self.analysis_x, self.synthesis_x, self.analysis_y, self.synthesis_y = (
            (matrix / math.sqrt(size)).to(device=device, dtype=dtype).contiguous() for matrix in matrices)

    def forward(self, z: Tensor) -> Tensor:
        """(size, size, B, width) to its modes (2m, m, 2, B, width)."""
        size, _, samples, width = z.shape
        a = torch.matmul(self.analysis_x, z.reshape(size, size, samples * width))
        a = torch.mm(self.analysis_y, a.view(size, -1)).view(2, self.analysis_y.shape[0] // 2, 2, -1, samples, width)
        cosine, sine = a[0], torch.stack([a[1, :, 1], -a[1, :, 0]], 1)  # -i sin t (a + i b) = sin t (b - i a)
        return torch.cat([(cosine + sine)[:-1], (cosine - sine)[1:].flip(0)]).transpose(1, 2)

    def inverse(self, modes: Tensor, skip: Tensor) -> Tensor:
        """Field of the modes (2m, 2, m, B, width), plus `skip` (size, size, B, width)."""
        size, _, samples, width = skip.shape
        m = modes.shape[2]
        none = torch.zeros_like(modes[:1])  # ky = m and ky = -0 do not exist
        positive, negative = torch.cat([modes[:m], none]), torch.cat([none, modes[m:].flip(0)])
        even, odd = positive + negative, positive - negative
        a = torch.cat([even, torch.stack([-odd[:, 1], odd[:, 0]], 1)])
        a = torch.mm(self.synthesis_y, a.view(2 * m + 2, -1)).view(size, 2 * m, samples * width)
        field = torch.baddbmm(skip.reshape(size, size, -1), self.synthesis_x.expand(size, -1, -1), a)
        return field.view(size, size, samples, width)


def initialise(network: nn.Module, seed: int) -> None:
    """Weights by the seed alone, as published: spectral ones U[0, 1) / width^2, linear layers as torch does.

    They are drawn in float64, in the order of the modules, without moving the global generator.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(shape: torch.Size, low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)

    for module in network.modules():
        if isinstance(module, SpectralConv):
            module.weight.data = uniform(module.weight.shape, 0, module.weight.shape[-1]**-2)
        elif isinstance(module, nn.Linear):
            bound = module.in_features**-0.5
            module.weight.data = uniform(module.weight.shape, -bound, bound)
            module.bias.data = uniform(module.bias.shape, -bound, bound)
