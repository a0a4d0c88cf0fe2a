"""Small Darcy data, a network of a few hundred weights, and an objective on them, to test with."""

from __future__ import annotations

import sys
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

PINO = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(PINO)] if str(PINO) not in sys.path else []

from pino.darcy import sign_fields, solve  # noqa: E402
from pino.data import Samples  # noqa: E402
from pino.fields import Fields  # noqa: E402
from pino.floors import floors  # noqa: E402
from pino.model import FNO2d  # noqa: E402
from pino.objective import Objective  # noqa: E402

SIZE, STRIDE = 37, 4  # 10 x 10 points
DOUBLE = torch.float64
NETWORK = {"modes": 2, "width": 3, "layers": 2, "head": [4, 3]}
#: Flags of the command line for data and network of this size.
TINY = "--N 37 --sub 4 --modes 2 --width 3 --preset tiny --test_num 4 --budget smoke --device cpu".split()


@lru_cache(maxsize=16)
def fields(n: int, contrast: float = 4.0, split: str = "train", seed: int = 0) -> Fields:
    """n fields of 37 x 37 nodes, solved; u on 10 x 10 points, float64."""
    signs = sign_fields(range(n), seed, SIZE, split=split)
    u = solve(torch.from_numpy(np.where(signs, 3 * contrast, 3.0)), tol=1e-11).u.numpy()[:, ::STRIDE, ::STRIDE]
    return Fields(np.packbits(signs.reshape(n, -1), axis=1), SIZE, 3.0, 3.0 * contrast, 1.0, u, STRIDE)


def objective(n: int = 5, contrast: float = 4.0, block: int = 3, graph_block: int = 100, residual: str = "published",
              seed: int = 0, dtype: torch.dtype = DOUBLE) -> tuple[Objective, list[Tensor]]:
    """An objective with its floors, and initial weights (1, ...) that need gradients."""
    train, device = fields(n, contrast), torch.device("cpu")
    model = FNO2d(**NETWORK, seed=seed, dtype=dtype)
    params = [p.detach()[None].clone().requires_grad_() for p in model.parameters()]
    found = Objective(model, Samples(train, residual, STRIDE, device, dtype),
                      Samples(fields(4, contrast, "test"), None, STRIDE, device, dtype), (5.0, 1.0), block, graph_block,
                      floors(train, residual, STRIDE).loss)
    return found, params
