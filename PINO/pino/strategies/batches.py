"""What the strategies of this module share beyond `base.py`: mini-batches of shuffled samples, and their trace.

Adam walks all n samples in batches, in a new order every epoch; the last batch of an epoch may be smaller. The order
follows from the seed, the stage and the epoch. Everything else evaluates all samples.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from pino.strategies.base import Row, Stage, Strategy, stream_seed
from pino.strategies.options import AdamOptions, LBFGSOptions

WINDOW = 50  # last batches of which the published code keeps mean and minimum


class MiniBatches(Stage):
    """A stage that walks the samples in mini-batches."""


class DarcyStrategy(Strategy):
    """Strategy with mini-batches for first-order stages.

    Attributes:
        prepared: it begins with a stage of Adam, or with the weights of a finished Adam run.

    Args:
        batch_size: samples of a batch, at most n.
        samples: (r, f or None for the run's, r of the test samples) -> what the objective's `set_samples` takes.
        from_checkpoint: the weights are those of a finished Adam run, so stages of Adam that prepare are left out.
    """

    prepared: ClassVar[bool] = False

    def __init__(self, options: Any, objective: Any, params: Sequence[Tensor], rows: Sequence[Row], batch_size: int,
                 samples: Callable[[float, float | None, float], tuple[Any, ...]],
                 from_checkpoint: bool = False) -> None:
        self.batch_size, self.samples, self.from_checkpoint = batch_size, samples, from_checkpoint
        super().__init__(options, objective, params, rows)
        self.state |= {"updates": torch.zeros(1, dtype=torch.int64), "batches": torch.zeros(1, dtype=torch.int64),
                       "batch_loss_sum": torch.zeros(1, dtype=torch.float64),
                       "batch_losses": torch.full((1, WINDOW), torch.nan, dtype=torch.float64)}
        self.epoch: tuple[int, int] | None = None  # stage and number of the epoch that `order` is of
        objective.more_results = self.batch_results

    @classmethod
    def vectors(cls, options: Any) -> int:
        """Vectors as long as the weights that the hungriest stage keeps, weights and gradient among them."""
        return 8

    # Stages -----------------------------------------------------------------------------------------------------

    def adam(self, name: str, options: AdamOptions, iterations: int) -> Stage:
        """A stage of Adam in mini-batches."""
        return MiniBatches(name, iterations, lambda params: options.build(params, iterations))

    def lbfgs(self, name: str, options: LBFGSOptions, iterations: int) -> Stage:
        """A stage of L-BFGS; it also ends where no step is possible."""
        return Stage(name, iterations, options.build)

    def preparation(self, options: AdamOptions, iterations: int) -> list[Stage]:
        """Adam before something else; nothing where the weights come from a checkpoint."""
        return [self.adam("adam", options, iterations)] if iterations and not self.from_checkpoint else []

    # Hooks ------------------------------------------------------------------------------------------------------

    def advance(self, stage: int) -> None:
        """Updates are counted anew in each stage."""
        self.state["updates"].zero_()

    def enter(self, stage: int) -> None:
        """All samples, until an update of Adam chooses."""
        self.stage, self.mini = stage, isinstance(self.stages[stage], MiniBatches)
        self.objective.batch = None

    def before_evaluation(self, active: Tensor) -> None:
        """Choose the mini-batch."""
        if self.mini:
            self.objective.batch = self.rows_of(int(self.state["updates"]))

    def rows_of(self, update: int) -> Tensor:
        """Samples (b,) of an update of this stage."""
        n = len(self.objective.train)
        size = min(self.batch_size, n)
        number, step = divmod(update, -(-n // size))
        if self.epoch != (self.stage, number):
            seed = stream_seed(self.rows[0].seed, f"order of {self.stages[self.stage].name}, epoch {number}")
            order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
            self.order, self.epoch = order.to(self.objective.all.device), (self.stage, number)
        return self.order[step * size:(step + 1) * size]

    def after_evaluation(self, active: Tensor) -> None:
        """Count the update."""
        self.state["updates"] += self.mini

    @property
    def trace_every(self) -> int:
        """Updates between two lines of the trace."""
        return 1

    def trace(self, losses: Tensor) -> dict[str, Sequence[float]]:
        """What was minimised and, of mini-batches, 5 d + p and its terms."""
        found = {"objective": losses.tolist()}
        if self.mini:
            d, p = self.objective.last_terms
            loss = self.objective.penalty(d, p, self.objective.batch)
            d, p, loss = torch.stack([d, p, loss]).tolist()
            found |= {"batch_loss": [loss], "batch_data_loss": [d], "batch_pde_loss": [p]}
            slot = int(self.state["batches"]) % WINDOW
            self.state["batch_losses"][0, slot] = loss
            self.state["batch_loss_sum"] += loss
            self.state["batches"] += 1
            if int(self.state["updates"]) % self.trace_every:
                return {}
        return found

    def batch_results(self) -> dict[str, float]:
        """Averages over batches while the weights moved, as the published code reports them."""
        count = int(self.state["batches"])
        if not count:
            return {}
        window = self.state["batch_losses"][0, :count]
        return {"batch_loss_mean": self.state["batch_loss_sum"].item() / count,
                "batch_loss_last50_mean": window.mean().item(), "batch_loss_last50_min": window.min().item()}
