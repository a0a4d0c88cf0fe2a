"""Adam on the soft-constrained loss."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from pinn.strategies.base import Stage, Strategy
from pinn.strategies.options import AdamOptions


@dataclass
class Options:
    """40,000 iterations, as many as the L-BFGS budget; the paper has no PINN row for Adam."""

    iterations: int = 40_000
    adam: AdamOptions = field(default_factory=AdamOptions)


class Adam(Strategy):
    """One stage of Adam."""

    name, Options, main = "adam", Options, "adam"
    budgets = {"smoke": {"iterations": 200}, "laptop": {"iterations": 5_000}}

    def make_stages(self, options: Options, targets: Sequence[float]) -> list[Stage]:
        """A single stage."""
        return [Stage("adam", options.iterations, options.adam.build)]

    @classmethod
    def set_epochs(cls, options: Options, epochs: int) -> None:
        """An epoch is one update."""
        options.iterations = epochs
