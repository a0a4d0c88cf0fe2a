"""Coefficient fields of two values with their solutions: what data files hold, and training and tests read.

    a(x) = low where the sign bit is 0, high where it is 1,  on N x N nodes of the unit square with its boundary
    u(x) = solution of -div(a grad u) = f, u = 0 on the boundary, at every `stride`-th node: S = (N - 1)/stride + 1

The first array axis of a field is x. Signs do not depend on the contrast r = high/low, so that another r has the same
geometry.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Fields:
    """n coefficient fields and their solutions, on the host.

    Attributes:
        bits: (n, ceil(N^2 / 8)) uint8, the signs as `np.packbits` of the rows (n, N^2).
        size: N, nodes a side.
        low, high: the two values of a.
        f: the constant right-hand side.
        u: (n, S, S) float32 or float64.
        stride: of u in nodes.
        source: the file that they come from.
        identity: what a run notes of them: whoever trains on other data trains another run.
    """

    bits: np.ndarray
    size: int
    low: float
    high: float
    f: float
    u: np.ndarray
    stride: int
    source: Path | None = None
    identity: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.u)

    @property
    def contrast(self) -> float:
        """r = high / low."""
        return self.high / self.low

    def signs(self, rows: slice = slice(None)) -> np.ndarray:
        """Sign bits of some rows on all nodes, (rows, N, N) bool."""
        bits = np.unpackbits(self.bits[rows], axis=1, count=self.size**2)
        return bits.reshape(-1, self.size, self.size).astype(bool)

    def coefficient(self, stride: int = 1, rows: slice = slice(None)) -> np.ndarray:
        """a of some rows at every `stride`-th node, (rows, s, s) float64."""
        return np.where(self.signs(rows)[:, ::stride, ::stride], self.high, self.low)

    def first(self, count: int) -> Fields:
        """The first `count` of them."""
        return replace(self, bits=self.bits[:count], u=self.u[:count])
