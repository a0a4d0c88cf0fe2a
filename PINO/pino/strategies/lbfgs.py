"""L-BFGS on all samples, from the initial weights or after Adam."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from pino.strategies.base import Stage
from pino.strategies.batches import DarcyStrategy
from pino.strategies.options import AdamOptions, LBFGSOptions


@dataclass
class Options:
    """Table 3: up to 10,000 iterations, history 100. steps: of Adam, before."""

    iterations: int = 10_000
    steps: int = 0
    adam: AdamOptions = field(default_factory=AdamOptions)
    lbfgs: LBFGSOptions = field(default_factory=LBFGSOptions)


class LBFGS(DarcyStrategy):
    """One stage of L-BFGS."""

    name, Options, marks = "lbfgs", Options, True
    budgets = {"smoke": {"iterations": 20}, "laptop": {"iterations": 400}}

    def make_stages(self, options: Options, targets: Sequence[float]) -> list[Stage]:
        """Adam, where it has any steps, and L-BFGS."""
        return [*self.preparation(options.adam, options.steps), self.lbfgs("lbfgs", options.lbfgs, options.iterations)]

    @classmethod
    def vectors(cls, options: Options) -> int:
        """The pairs, and what a line search holds."""
        return 2 * options.lbfgs.history_size + 14


@dataclass
class WarmOptions(Options):
    """The same after as many iterations of Adam as the paper's Adam has."""

    steps: int = 10_000


class AdamLBFGS(LBFGS):
    """Adam, then L-BFGS: `--optimizer lbfgs --warm_start`."""

    name, Options, prepared = "adam_lbfgs", WarmOptions, True
    budgets = {"smoke": {"iterations": 20, "steps": 10}, "laptop": {"iterations": 400, "steps": 1_500}}
