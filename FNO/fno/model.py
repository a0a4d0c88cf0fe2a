"""The Fourier neural operator (Li et al. 2021): (f, coefficients) -> u on an N x N periodic grid.

    z_0 = lift(f, c)        z_{l+1} = gelu(S_l z_l + W_l z_l + b_l)  (no gelu after the last layer)
    u = w_2 . gelu(W_1 z_L + b_1) + b_2

S_l multiplies the m x 2m lowest Fourier modes, kx in [0, m) and ky in [-m, m), by a complex width x width matrix each
and drops the others. The coefficients c enter as constant planes, so the network commutes with translations of the
torus, as the equations do.

Fields are kept as (y, x, sample, channel). A Fourier transform that keeps few modes is then a product with a small
matrix along one axis, twice, without any copy in between, and W_l a product along the last axis:

    Z(ky, kx) = sum_y exp(-2 pi i ky y / N) sum_x exp(-2 pi i kx x / N) z(y, x) / N

which takes half the time of an FFT of all modes for 8 and 16 modes on a CPU; `spectral="fft"` gives the FFT.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .spectral import DFT, SPECTRAL, SpectralConv, initialise


class FNO2d(nn.Module):
    """A Fourier neural operator with `layers` Fourier layers.

    Spectral weights begin as U[0, 1) / width^2, real and imaginary part, as published; all others as torch does
    (uniform, +- 1 / sqrt(inputs)). They depend on the seed alone, up to rounding.

    Args:
        coefficients: number of coefficients of the equation, J.
        modes: m; the grid must have at least 2m points a side.
        width: channels of the Fourier layers.
        head: channels of the last hidden layer (published: 2 width).
        seed: of the weights.
        spectral: "dft" or "fft", how the modes are computed.
    """

    def __init__(self, coefficients: int, modes: int, width: int, head: int, layers: int = 4, seed: int = 0,
                 spectral: str = "dft", dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        if spectral not in SPECTRAL:
            raise ValueError(f"spectral {spectral!r}: one of {', '.join(SPECTRAL)}")
        self.modes, self.spectral = modes, spectral
        linear = partial(nn.utils.skip_init, nn.Linear)  # its own draws would move the global generator
        self.lift = linear(1 + coefficients, width)
        self.spectral_layers = nn.ModuleList(SpectralConv(width, modes) for _ in range(layers))
        self.skips = nn.ModuleList(linear(width, width) for _ in range(layers))
        self.hidden, self.output = linear(width, head), linear(head, 1)
        self._transforms: dict[tuple[int, torch.dtype, torch.device], DFT] = {}
        initialise(self, seed)
        self.to(dtype)

    def transform(self, z: Tensor) -> DFT | None:
        """The Fourier matrices for the grid of z (N, N, B, width); None where the FFT is to be used."""
        size = z.shape[0]
        if size < 2 * self.modes:
            raise ValueError(f"a grid of {size} x {size} has fewer than the {2 * self.modes} modes of the network")
        if self.spectral == "fft":
            return None
        key = (size, z.dtype, z.device)
        if key not in self._transforms:
            self._transforms[key] = DFT(size, self.modes, z.dtype, z.device)
        return self._transforms[key]

    def forward(self, f: Tensor, coefficients: Tensor) -> Tensor:
        """u (B, N, N) of forcings f (B, N, N) and coefficients (B, J), both as `data.py` scales them.

        Raises:
            ValueError: the grid has fewer than 2m points a side.
        """
        weight, bias = self.lift.weight, self.lift.bias
        constant = F.linear(coefficients, weight[:, 1:], bias)  # of the planes, without making them
        z = torch.addcmul(constant, f.permute(1, 2, 0).unsqueeze(3), weight[:, 0])
        transform = self.transform(z)
        for number, (spectral, skip) in enumerate(zip(self.spectral_layers, self.skips, strict=True), 1):
            z = spectral(z, skip(z), transform)
            if number < len(self.skips):
                z = F.gelu(z)
        return self.output(F.gelu(self.hidden(z))).squeeze(3).permute(2, 0, 1)
