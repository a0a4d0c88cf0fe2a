"""NysNewton-CG (Rathore et al. 2024) on all samples, after Adam and L-BFGS."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from pino.strategies.base import Stage, stream_seed
from pino.strategies.batches import DarcyStrategy
from pino.strategies.options import AdamOptions, LBFGSOptions, NNCGOptions


@dataclass
class Options:
    """Table 3: 10,000 iterations of Adam, 1,000 of L-BFGS, 100 steps.

    steps: of Adam. lbfgs_steps: iterations of L-BFGS; the published code has none. iterations: of NysNewton-CG.
    """

    steps: int = 10_000
    lbfgs_steps: int = 1_000
    iterations: int = 100
    adam: AdamOptions = field(default_factory=AdamOptions)
    lbfgs: LBFGSOptions = field(default_factory=LBFGSOptions)
    nncg: NNCGOptions = field(default_factory=NNCGOptions)


class NNCG(DarcyStrategy):
    """Adam, L-BFGS, NysNewton-CG; loss and error at the switches are kept."""

    name, Options, main, marks, prepared = "nncg", Options, "nncg", True, True
    budgets = {"smoke": {"steps": 10, "lbfgs_steps": 10, "iterations": 2, "nncg_cg_max_iter": 10},
               "laptop": {"steps": 1_500, "lbfgs_steps": 100, "iterations": 10, "nncg_cg_max_iter": 50}}

    def make_stages(self, options: Options, targets: Sequence[float]) -> list[Stage]:
        """The parts that have any iterations."""
        seeds = [stream_seed(row.seed, "sketch") for row in self.rows]
        lbfgs = [self.lbfgs("lbfgs", options.lbfgs, options.lbfgs_steps)] if options.lbfgs_steps else []
        return [*self.preparation(options.adam, options.steps), *lbfgs,
                Stage("nncg", options.iterations, lambda params: options.nncg.build(params, seeds))]

    @classmethod
    def vectors(cls, options: Options) -> int:
        """Those of L-BFGS, or of a sketch, which is made in float64 (19 a rank: measured at ranks 4 and 8)."""
        return max(2 * options.lbfgs.history_size * bool(options.lbfgs_steps), 19 * options.nncg.rank) + 14
