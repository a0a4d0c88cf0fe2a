"""Adam in mini-batches."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from node.strategies.base import Stage
from node.strategies.batches import NodeStrategy, Region
from node.strategies.options import FirstOrderOptions


@dataclass
class Options:
    """Table 4: 600 epochs, learning rate 1e-3; the decay by 0.995 an epoch is the published code's."""

    epochs: int = 600
    adam: FirstOrderOptions = field(default_factory=FirstOrderOptions)
    region: Region | None = None


class Adam(NodeStrategy):
    """One stage of Adam."""

    name, Options, main = "adam", Options, "adam"
    budgets = {"smoke": {"epochs": 10}, "laptop": {"epochs": 150}}

    def make_stages(self, options: Options, targets: Sequence[float]) -> list[Stage]:
        """A single stage."""
        return [self.first_order("adam", "adam", options.adam, options.epochs)]

    @classmethod
    def set_epochs(cls, options: Options, epochs: int) -> None:
        """An epoch is a walk through the mini-batches."""
        options.epochs = epochs
