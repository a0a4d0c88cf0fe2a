"""Options of the optimizers that several strategies use, at the paper's values."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from pinn.optimizers.adam import Adam
from pinn.optimizers.lbfgs import LBFGS


@dataclass
class AdamOptions:
    """Adam (Kingma and Ba 2015)."""

    lr: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    def build(self, params: Sequence[Tensor], group_size: int | None = None) -> Adam:
        """A fresh Adam."""
        return Adam(params, lr=self.lr, betas=(self.beta1, self.beta2), eps=self.eps)


@dataclass
class LBFGSOptions:
    """L-BFGS with a strong-Wolfe line search; the paper's Table 2."""

    lr: float = 1.0
    max_iter: int = 20
    history_size: int = 100
    tolerance_grad: float = 1e-7
    tolerance_change: float = 1e-9

    def build(self, params: Sequence[Tensor], group_size: int | None = None) -> LBFGS:
        """A fresh L-BFGS; `group_size` runs are walked together."""
        return LBFGS(params, lr=self.lr, max_iter=self.max_iter, history_size=self.history_size,
                     tolerance_grad=self.tolerance_grad, tolerance_change=self.tolerance_change,
                     group_size=group_size)
