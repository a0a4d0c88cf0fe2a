"""L-BFGS on all pairs."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from node.strategies.base import Stage
from node.strategies.batches import NodeStrategy, Region
from node.strategies.options import LBFGSOptions


@dataclass
class Options:
    """Table 4: up to 1,000 iterations in one call, history 50. A call also ends by its tolerances, as torch's does."""

    calls: int = 1
    lbfgs: LBFGSOptions = field(default_factory=LBFGSOptions)
    region: Region | None = None


class LBFGS(NodeStrategy):
    """One stage of L-BFGS."""

    name, Options = "lbfgs", Options
    budgets = {"smoke": {"lbfgs_max_iter": 40}, "laptop": {"lbfgs_max_iter": 300}}

    def make_stages(self, options: Options, targets: Sequence[float]) -> list[Stage]:
        """A single stage."""
        return [self.lbfgs("lbfgs", options.lbfgs, options.calls)]

    @classmethod
    def set_epochs(cls, options: Options, epochs: int) -> None:
        """An epoch is a call."""
        options.calls = epochs
