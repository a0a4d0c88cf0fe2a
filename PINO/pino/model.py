"""The Fourier neural operator (Li et al. 2021) for Darcy flow: a -> u on the S x S nodes of the unit square.

    z_0 = lift(a, x, y)     z_{l+1} = gelu(S_l z_l + W_l z_l + b_l)  (no gelu after the last layer)
    u = 0.001 sin(pi x) sin(pi y) w_3 . gelu(W_2 gelu(W_1 z_L + b_1) + b_2) + b_3)

S_l is the spectral convolution of `spectral.py`; the factor makes u vanish on the boundary. a and u are neither
normalised nor padded, as published.

Fields are kept as (x, y, sample, channel): what `spectral.py` calls (y, x), so that the half spectrum 0 <= k < m is
that of y and both signs are kept along x. All weights are real, complex ones pairs of real numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .spectral import DFT, SPECTRAL, SpectralConv, initialise

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "paper": dict(modes=20, width=64, head=(128, 64)),  # 26,247,937 weights
    "small": dict(modes=8, width=12, head=(24, 12)),  # 148,753; 0.13 s a step of 32 samples on one core
    "tiny": dict(modes=3, width=8, head=(8, 8)),
}


class Grid(NamedTuple):
    """What depends on the grid alone: x and y as (S, S, 1, 2), the factor (S, S), the matrices of the transform."""

    points: Tensor
    factor: Tensor
    transform: DFT | None


class FNO2d(nn.Module):
    """A Fourier neural operator with `layers` Fourier layers.

    Spectral weights begin as U[0, 1) / width^2, real and imaginary part, as published; all others as torch does
    (uniform, +- 1 / sqrt(inputs)). They depend on the seed alone, up to rounding.

    Args:
        modes: m; the grid must have at least 2m points a side.
        width: channels of the Fourier layers.
        head: channels of the hidden layers after them.
        seed: of the weights.
        spectral: "dft" or "fft", how the modes are computed.
    """

    def __init__(self, modes: int = 20, width: int = 64, layers: int = 4, head: tuple[int, ...] = (128, 64),
                 seed: int = 0, spectral: str = "dft", dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        if spectral not in SPECTRAL:
            raise ValueError(f"spectral {spectral!r}: one of {', '.join(SPECTRAL)}")
        self.modes, self.spectral = modes, spectral
        linear = partial(nn.utils.skip_init, nn.Linear)  # its own draws would move the global generator
        self.lift = linear(3, width)
        self.spectral_layers = nn.ModuleList(SpectralConv(width, modes) for _ in range(layers))
        self.skips = nn.ModuleList(linear(width, width) for _ in range(layers))
        self.head = nn.ModuleList(linear(*sizes) for sizes in pairwise((width, *head, 1)))
        self._grids: dict[tuple[int, torch.dtype, torch.device], Grid] = {}
        initialise(self, seed)
        self.to(dtype)

    def grid(self, a: Tensor) -> Grid:
        """The grid of a (B, S, S). Raises ValueError where it has fewer than 2m points a side."""
        size = a.shape[-1]
        if size < 2 * self.modes:
            raise ValueError(f"a grid of {size} x {size} has fewer than the {2 * self.modes} modes of the network")
        key = (size, a.dtype, a.device)
        if key not in self._grids:
            line = torch.linspace(0, 1, size, dtype=torch.float64)
            points = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1).unsqueeze(2)
            sine = (math.pi * torch.minimum(line, line.flip(0))).sin()  # sin(pi) is not 0 in floating point
            dft = DFT(size, self.modes, a.dtype, a.device) if self.spectral == "dft" else None
            self._grids[key] = Grid(points.to(a), (0.001 * torch.outer(sine, sine)).to(a), dft)
        return self._grids[key]

    def forward(self, a: Tensor) -> Tensor:
        """u (B, S, S) of coefficients a (B, S, S), S >= 2m.

        Raises:
            ValueError: the grid has fewer than 2m points a side.
        """
        points, factor, transform = self.grid(a)
        inputs = torch.cat([a.permute(1, 2, 0).unsqueeze(3), points.expand(-1, -1, len(a), -1)], 3)
        z = self.lift(inputs)
        for number, (spectral, skip) in enumerate(zip(self.spectral_layers, self.skips, strict=True), 1):
            z = spectral(z, skip(z), transform)
            if number < len(self.skips):
                z = F.gelu(z)
        for layer in self.head[:-1]:
            z = F.gelu(layer(z))
        return self.head[-1](z).squeeze(3).permute(2, 0, 1) * factor
