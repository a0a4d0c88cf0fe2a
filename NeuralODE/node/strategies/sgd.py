"""Stochastic gradient descent in mini-batches."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from node.strategies.base import Stage
from node.strategies.batches import NodeStrategy, Region
from node.strategies.options import FirstOrderOptions


@dataclass
class Options:
    """As many epochs as Adam; the paper has no such row."""

    epochs: int = 600
    sgd: FirstOrderOptions = field(default_factory=FirstOrderOptions)
    region: Region | None = None


class SGD(NodeStrategy):
    """One stage of SGD."""

    name, Options, main = "sgd", Options, "sgd"
    budgets = {"smoke": {"epochs": 10}, "laptop": {"epochs": 150}}

    def make_stages(self, options: Options, targets: Sequence[float]) -> list[Stage]:
        """A single stage."""
        return [self.first_order("sgd", "sgd", options.sgd, options.epochs)]

    @classmethod
    def set_epochs(cls, options: Options, epochs: int) -> None:
        """An epoch is a walk through the mini-batches."""
        options.epochs = epochs
