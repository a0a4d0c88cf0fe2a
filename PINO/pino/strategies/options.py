"""Options of the optimizers that several strategies use, at the values of the paper's Table 3."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from pino.optimizers.adam import Adam
from pino.optimizers.lbfgs import LBFGS
from pino.optimizers.nncg import NNCG

LBFGS_STEP = 20  # iterations in a call, after which signals are obeyed
MILESTONES = 5  # the learning rate is halved after each fifth of a stage, four times, as published


@dataclass
class AdamOptions:
    """Adam (Kingma and Ba 2015) in mini-batches of shuffled samples; `decay` is the factor at each milestone."""

    lr: float = 1e-3
    decay: float = 0.5
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    def build(self, params: Sequence[Tensor], iterations: int) -> Adam:
        """A fresh optimizer for a stage of so many updates."""
        return Adam(params, lr=self.lr, betas=(self.beta1, self.beta2), eps=self.eps, decay=self.decay,
                    decay_every=[max(iterations, 1) / MILESTONES])


@dataclass
class LBFGSOptions:
    """L-BFGS with a strong-Wolfe line search on all samples. Its history takes 2 history_size times the weights."""

    lr: float = 1.0
    history_size: int = 100
    tolerance_grad: float = 1e-7
    tolerance_change: float = 1e-9

    def build(self, params: Sequence[Tensor]) -> LBFGS:
        """A fresh L-BFGS."""
        return LBFGS(params, lr=self.lr, max_iter=LBFGS_STEP, history_size=self.history_size,
                     tolerance_grad=self.tolerance_grad, tolerance_change=self.tolerance_change)


@dataclass
class NNCGOptions:
    """NysNewton-CG: rank from Table 3; the published code's damping, sketch at every step and limit on CG.

    lr: first trial step. The paper's 1e-3 would make 100 steps the length of a tenth of a Newton step.
    cg_tol: relative to |g|. chunk_size: products of a sketch done at once by vmap.
    """

    lr: float = 1.0
    rank: int = 4
    mu: float = 0.01
    update_freq: int = 1
    cg_tol: float = 1e-3
    cg_max_iter: int = 200
    chunk_size: int = 1

    def build(self, params: Sequence[Tensor], seeds: Sequence[int]) -> NNCG:
        """NysNewton-CG with its sketch stream."""
        return NNCG(params, lr=self.lr, rank=self.rank, mu=self.mu, update_freq=self.update_freq, cg_tol=self.cg_tol,
                    cg_max_iter=self.cg_max_iter, chunk_size=self.chunk_size, seeds=seeds)
