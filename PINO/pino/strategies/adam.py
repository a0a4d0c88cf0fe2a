"""Adam in mini-batches."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from pino.strategies.base import Stage
from pino.strategies.batches import DarcyStrategy
from pino.strategies.options import AdamOptions


@dataclass
class Options:
    """Table 3: 10,000 iterations (the published commands: 15,000), learning rate 1e-3."""

    iterations: int = 10_000
    adam: AdamOptions = field(default_factory=AdamOptions)


class Adam(DarcyStrategy):
    """One stage of Adam."""

    name, Options, main = "adam", Options, "adam"
    budgets = {"smoke": {"iterations": 10}, "laptop": {"iterations": 1_500}}

    def make_stages(self, options: Options, targets: Sequence[float]) -> list[Stage]:
        """A single stage."""
        return [self.adam("adam", options.adam, options.iterations)]
