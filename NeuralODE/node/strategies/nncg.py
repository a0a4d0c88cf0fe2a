"""NysNewton-CG (Rathore et al. 2024) on all pairs: after L-BFGS, after Adam, or alone."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from node.strategies.base import Stage, stream_seed
from node.strategies.batches import NodeStrategy, Region
from node.strategies.options import FirstOrderOptions, LBFGSOptions, NNCGOptions


@dataclass
class Options:
    """Table 4: 1,000 iterations of L-BFGS, then 500 steps.

    epochs: of Adam, before. iterations: steps of NysNewton-CG.
    """

    epochs: int = 0
    iterations: int = 500
    adam: FirstOrderOptions = field(default_factory=FirstOrderOptions)
    lbfgs: LBFGSOptions = field(default_factory=LBFGSOptions)
    nncg: NNCGOptions = field(default_factory=NNCGOptions)
    region: Region | None = None


class NNCG(NodeStrategy):
    """Adam (none by default), one call of L-BFGS, NysNewton-CG; loss and error at the switches are kept."""

    name, Options, main, marks = "nncg", Options, "nncg", True
    budgets = {"smoke": {"lbfgs_max_iter": 20, "iterations": 3, "nncg_cg_max_iter": 20},
               "laptop": {"lbfgs_max_iter": 200, "iterations": 40}}
    parts = ("adam", "lbfgs", "nncg")

    def make_stages(self, options: Options, targets: Sequence[float]) -> list[Stage]:
        """The parts that have any iterations."""
        seeds = [stream_seed(row.seed, "sketch") for row in self.rows]
        stages = {"adam": self.first_order("adam", "adam", options.adam, options.epochs),
                  "lbfgs": self.lbfgs("lbfgs", options.lbfgs, 1),
                  "nncg": Stage("nncg", options.iterations, lambda params: options.nncg.build(params, seeds))}
        return [stages[part] for part in self.parts if part != "adam" or options.epochs]

    @classmethod
    def set_epochs(cls, options: Options, epochs: int) -> None:
        """Epochs of Adam."""
        options.epochs = epochs


class NNCGOnly(NNCG):
    """NysNewton-CG from the initial weights; the paper has no such row."""

    name, parts = "nncg_only", ("nncg",)
    budgets = {"smoke": {"iterations": 3, "nncg_cg_max_iter": 20}, "laptop": {"iterations": 40}}

    @classmethod
    def set_epochs(cls, options: Options, epochs: int) -> None:
        """An epoch is a step."""
        options.iterations = epochs


class AdamNNCG(NNCG):
    """Adam, then NysNewton-CG; the paper has no such row."""

    name, parts = "adam_nncg", ("adam", "nncg")
    budgets = {"smoke": {"epochs": 5, "iterations": 3, "nncg_cg_max_iter": 20},
               "laptop": {"epochs": 75, "iterations": 40}, "paper": {"epochs": 300, "iterations": 300}}

    @classmethod
    def set_epochs(cls, options: Options, epochs: int) -> None:
        """Epochs in all: half of them Adam's, unless the switch is given."""
        options.epochs = epochs // 2
        options.iterations = epochs - options.epochs
