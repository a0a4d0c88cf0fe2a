"""L-BFGS on the soft-constrained loss."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from pinn.strategies.base import Stage, Strategy
from pinn.strategies.options import LBFGSOptions


@dataclass
class Options:
    """Table 2: 2,000 calls of up to 20 inner iterations. A run stops when no further step is possible."""

    iterations: int = 40_000
    lbfgs: LBFGSOptions = field(default_factory=LBFGSOptions)


class LBFGS(Strategy):
    """One stage of L-BFGS."""

    name, Options = "lbfgs", Options
    budgets = {"smoke": {"iterations": 100}, "laptop": {"iterations": 2_000}}

    def make_stages(self, options: Options, targets: Sequence[float]) -> list[Stage]:
        """A single stage."""
        return [Stage("lbfgs", options.iterations, lambda params: options.lbfgs.build(params, self.group_size))]

    @classmethod
    def set_epochs(cls, options: Options, epochs: int) -> None:
        """An epoch is a call of the optimizer, 20 inner iterations."""
        options.iterations = epochs * options.lbfgs.max_iter
