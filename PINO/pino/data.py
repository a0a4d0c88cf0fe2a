"""Training and test samples on the device, and the two terms of the loss, one of each a sample.

    d_i = ||u_net(a_i) - u_i|| / ||u_i||        p_i = ||D u_net(a_i) - f|| / ||f||        (not squared)

over the nodes of the grid: d at every `stride`-th node of the data, p as `residual.py` says. Both need one forward
where their grids are the same.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pino.fields import Fields
from pino.residual import Residual

Network = Callable[[Tensor], Tensor]


class Samples:
    """n samples: a and u (n, S, S), and their residual (None for test samples).

    Args:
        fields: the samples on the host.
        kind: of residual, or None.
        pde_stride: of the residual's grid, in nodes of the data.
    """

    def __init__(self, fields: Fields, kind: str | None, pde_stride: int, device: torch.device,
                 dtype: torch.dtype) -> None:
        like = dict(device=device, dtype=dtype)
        self.a = torch.as_tensor(fields.coefficient(fields.stride), **like)
        self.u = torch.as_tensor(fields.u, **like)
        self.norms = torch.linalg.vector_norm(self.u, dim=(1, 2))
        self.residual = Residual(kind, fields, pde_stride, device, dtype) if kind else None
        self.pde_a = None  # a on the grid of the residual, where that is another one
        if kind and pde_stride != fields.stride:
            self.pde_a = torch.as_tensor(fields.coefficient(pde_stride), **like)

    def __len__(self) -> int:
        return len(self.u)

    def errors(self, network: Network, rows: Tensor) -> Tensor:
        """d (b,) of the samples `rows` (b,)."""
        return self._relative(network(self.a[rows]), rows)

    def terms(self, network: Network, rows: Tensor) -> tuple[Tensor, Tensor]:
        """d and p, (b,) each, of the samples `rows` (b,)."""
        prediction = network(self.a[rows])
        on_grid = prediction if self.pde_a is None else network(self.pde_a[rows])
        return self._relative(prediction, rows), self.residual.relative(on_grid, rows)

    def _relative(self, prediction: Tensor, rows: Tensor) -> Tensor:
        return torch.linalg.vector_norm(prediction - self.u[rows], dim=(1, 2)) / self.norms[rows]
