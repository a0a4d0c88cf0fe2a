"""Adam, then L-BFGS, then NysNewton-CG (Rathore et al. 2024), on the soft-constrained loss."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pinn.optimizers.nncg import NNCG as NysNewtonCG
from pinn.strategies.base import Stage, Strategy, stream_seed
from pinn.strategies.options import AdamOptions, LBFGSOptions


@dataclass
class NNCGOptions:
    """NysNewton-CG: rank from Table 2. The paper has no more; mu 0.01 is the published code's default.

    update_freq: steps between sketches. cg_tol: relative to |g|. chunk_size: Hessian-vector products at a time.
    """

    lr: float = 1.0
    rank: int = 50
    mu: float = 0.01
    update_freq: int = 20
    cg_tol: float = 1e-3
    cg_max_iter: int = 1_000
    chunk_size: int = 1

    def build(self, params: Sequence[Tensor], seeds: Sequence[int]) -> torch.optim.Optimizer:
        """NysNewton-CG with a sketch stream a run."""
        return NysNewtonCG(params, lr=self.lr, rank=self.rank, mu=self.mu, update_freq=self.update_freq,
                           cg_tol=self.cg_tol, cg_max_iter=self.cg_max_iter, chunk_size=self.chunk_size, seeds=seeds)


@dataclass
class Options:
    """Table 2: 2,000 Adam updates, 1,000 calls of L-BFGS (20 inner iterations each), 2,000 NNCG steps.

    switch_epoch_lbfgs, switch_epoch_nncg: the published names for the ends of the first two stages, in epochs.
    """

    adam_iterations: int = 2_000
    lbfgs_iterations: int = 20_000
    iterations: int = 2_000
    switch_epoch_lbfgs: int | None = None
    switch_epoch_nncg: int | None = None
    adam: AdamOptions = field(default_factory=AdamOptions)
    lbfgs: LBFGSOptions = field(default_factory=LBFGSOptions)
    nncg: NNCGOptions = field(default_factory=NNCGOptions)


class NNCG(Strategy):
    """Three stages; loss and error at the switch to the third are stored as the baseline of Figure 4."""

    name, Options, main = "nncg", Options, "nncg"
    aliases = {"precond_update_freq": "nncg_update_freq", "nncg_cg_max_iters": "nncg_cg_max_iter"}
    marks = True
    budgets = {"smoke": {"adam_iterations": 40, "lbfgs_iterations": 40, "iterations": 3, "nncg_rank": 5,
                         "nncg_cg_max_iter": 20},
               "laptop": {"adam_iterations": 500, "lbfgs_iterations": 1_500, "iterations": 30,
                          "nncg_cg_max_iter": 100}}

    def make_stages(self, options: Options, targets: Sequence[float]) -> list[Stage]:
        """Adam, L-BFGS, NNCG."""
        seeds = [stream_seed(row.seed, "sketch") for row in self.rows]
        return [Stage("adam", options.adam_iterations, options.adam.build),
                Stage("lbfgs", options.lbfgs_iterations, lambda params: options.lbfgs.build(params, self.group_size)),
                Stage("nncg", options.iterations, lambda params: options.nncg.build(params, seeds))]

    @classmethod
    def set_epochs(cls, options: Options, epochs: int) -> None:
        """Epochs in all: updates of Adam, calls of L-BFGS, steps of NNCG; the switches are given in epochs as well."""
        inner = options.lbfgs.max_iter
        to_lbfgs = options.adam_iterations if options.switch_epoch_lbfgs is None else options.switch_epoch_lbfgs
        to_nncg = options.switch_epoch_nncg
        if to_nncg is None:
            to_nncg = to_lbfgs + options.lbfgs_iterations // inner
        options.adam_iterations = min(to_lbfgs, epochs)
        options.lbfgs_iterations = (min(to_nncg, epochs) - options.adam_iterations) * inner
        options.iterations = max(epochs - to_nncg, 0)
