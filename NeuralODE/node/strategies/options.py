"""Options of the optimizers that several strategies use, at the values of the paper's Table 4."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from node.optimizers.adam import Adam, FirstOrder
from node.optimizers.lbfgs import LBFGS
from node.optimizers.nncg import NNCG
from node.optimizers.sgd import SGD

UPDATES_A_STEP = 13  # of Adam and SGD in one call of `step`, to spread the cost of bookkeeping


@dataclass
class FirstOrderOptions:
    """Adam (Kingma and Ba 2015) or SGD, in mini-batches; the learning rate decays by a factor every epoch."""

    lr: float = 1e-3
    decay: float = 0.995
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    def build(self, params: Sequence[Tensor], kind: str, epoch: Sequence[int]) -> FirstOrder:
        """A fresh optimizer; `epoch` holds the updates of an epoch of each run."""
        common = dict(lr=self.lr, decay=self.decay, decay_every=epoch, max_iter=UPDATES_A_STEP)
        if kind == "sgd":
            return SGD(params, **common)
        return Adam(params, betas=(self.beta1, self.beta2), eps=self.eps, **common)


@dataclass
class LBFGSOptions:
    """L-BFGS with a strong-Wolfe line search, on all pairs, at most max_iter iterations a call."""

    lr: float = 1.0
    max_iter: int = 1_000
    history_size: int = 50
    tolerance_grad: float = 1e-7
    tolerance_change: float = 1e-9

    def build(self, params: Sequence[Tensor], group_size: int | None = None, max_iter: int | None = None,
              restarts: bool = False) -> LBFGS:
        """A fresh L-BFGS; `group_size` runs are walked together."""
        return LBFGS(params, lr=self.lr, max_iter=max_iter or self.max_iter, history_size=self.history_size,
                     tolerance_grad=self.tolerance_grad, tolerance_change=self.tolerance_change,
                     group_size=group_size, restarts=restarts)


@dataclass
class NNCGOptions:
    """NysNewton-CG: rank from Table 4; the published code's damping, sketch at every step and limit on CG.

    lr: first trial step. The paper's 1e-3 would make 500 steps the length of 0.4 Newton steps; 1 is Newton's own.
    cg_tol: relative to |g|; the published absolute 1e-5 is above |g| and makes every direction zero.
    """

    lr: float = 1.0
    rank: int = 10
    mu: float = 0.01
    update_freq: int = 1
    cg_tol: float = 1e-3
    cg_max_iter: int = 100

    def build(self, params: Sequence[Tensor], seeds: Sequence[int]) -> NNCG:
        """NysNewton-CG with a sketch stream a run."""
        return NNCG(params, lr=self.lr, rank=self.rank, mu=self.mu, update_freq=self.update_freq, cg_tol=self.cg_tol,
                    cg_max_iter=self.cg_max_iter, seeds=seeds)
