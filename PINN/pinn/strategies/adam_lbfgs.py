"""Adam, then L-BFGS, on the soft-constrained loss."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from pinn.strategies.base import Stage, Strategy
from pinn.strategies.options import AdamOptions, LBFGSOptions


@dataclass
class Options:
    """2,000 Adam iterations, as the first stage of the paper's NNCG, then the L-BFGS budget.

    switch_epochs: the published name for `adam_iterations`; with a list, L-BFGS forgets its history at each later one
    (counted in epochs, 20 inner iterations each).
    """

    adam_iterations: int = 2_000
    iterations: int = 40_000
    switch_epochs: int | list | None = None
    adam: AdamOptions = field(default_factory=AdamOptions)
    lbfgs: LBFGSOptions = field(default_factory=LBFGSOptions)


class AdamLBFGS(Strategy):
    """A stage of Adam and one of L-BFGS."""

    name, Options = "adam_lbfgs", Options
    marks = True
    budgets = {"smoke": {"adam_iterations": 50, "iterations": 60},
               "laptop": {"adam_iterations": 1_000, "iterations": 2_000}}

    def make_stages(self, options: Options, targets: Sequence[float]) -> list[Stage]:
        """Adam up to the first switch, then L-BFGS, made anew at each further switch."""
        switches = options.switch_epochs
        switches = sorted(switches) if isinstance(switches, list) else [switches or options.adam_iterations]
        inner = options.lbfgs.max_iter
        lengths = [(b - a) * inner for a, b in zip(switches[:-1], switches[1:], strict=True)]
        lengths.append(max(options.iterations - sum(lengths), 0))
        return [Stage("adam", switches[0], options.adam.build)] + [
            Stage("lbfgs", length, lambda params: options.lbfgs.build(params, self.group_size)) for length in lengths]

    @classmethod
    def set_epochs(cls, options: Options, epochs: int) -> None:
        """Epochs in all: updates of Adam up to the switch, then calls of L-BFGS, 20 inner iterations each."""
        first = min(options.switch_epochs) if isinstance(options.switch_epochs, list) else options.switch_epochs
        options.adam_iterations = min(options.adam_iterations if first is None else first, epochs)
        options.iterations = (epochs - options.adam_iterations) * options.lbfgs.max_iter
