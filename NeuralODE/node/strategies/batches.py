"""What the strategies of this module share beyond `base.py`: mini-batches, and residuals imposed around the states.

Adam and SGD walk the pairs in mini-batches of neighbours, without shuffling: update u of an epoch takes batch
u mod (number of the run's batches), and every epoch begins at batch 0. Everything else uses all pairs.

Mode pinn_region (after RoPINN, Wu et al. 2024) imposes the equation at copies of the states as well,

    x + rho_t xi,  xi ~ U[-1, 1]^2        rho_t = min(rho / s_t, 0.05)
    s_t = mean over weights of std(g) / (mean |g| + 1e-6),  over the gradients of the last ten steps, 1 at first

drawn once a step of the optimizer, so that a line search sees one function.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from node.strategies.base import Row, Stage, Strategy, stream_seed
from node.strategies.options import FirstOrderOptions, LBFGSOptions

LBFGS_STEP = 100  # iterations in a call of L-BFGS, after which signals are obeyed
REGION_STEP = 20  # the same on a region, which is drawn between calls


@dataclass
class Region:
    """Mode pinn_region: `samples` states in place of one, the state included; rho and radius in units of the state."""

    rho: float = 1.0
    samples: int = 4
    history: int = 10
    max_radius: float = 0.05


class MiniBatches(Stage):
    """A stage that walks the pairs in mini-batches."""


class NodeStrategy(Strategy):
    """Strategy with mini-batches for first-order stages; `options` may have a `region`.

    Args:
        epoch: updates of an epoch of Adam or SGD, one number a row.
    """

    def __init__(self, options: Any, objective: Any, params: Sequence[Tensor], rows: Sequence[Row],
                 epoch: Sequence[int]) -> None:
        self.epoch = list(epoch)
        super().__init__(options, objective, params, rows)
        self.redraws = options.region is not None
        if self.redraws:
            size = sum(p[0].numel() for p in params)
            generators = [torch.Generator().manual_seed(stream_seed(row.seed, "region")) for row in rows]
            self.state |= {"spread": torch.ones(len(rows), dtype=torch.float64),
                           "window": torch.zeros(len(rows), options.region.history, size, **objective.like),
                           "seen": torch.zeros(len(rows), dtype=torch.int64),
                           "generator": torch.stack([g.get_state() for g in generators])}

    # Stages -----------------------------------------------------------------------------------------------------

    def first_order(self, name: str, kind: str, options: FirstOrderOptions, epochs: int,
                    take_part: Sequence[bool] | None = None) -> Stage:
        """A stage of Adam or SGD in mini-batches."""
        lengths = [epochs * updates for updates in self.epoch]
        return MiniBatches(name, self._mask(lengths, take_part), lambda params: options.build(params, kind, self.epoch))

    def lbfgs(self, name: str, options: LBFGSOptions, calls: int, take_part: Sequence[bool] | None = None) -> Stage:
        """A stage of L-BFGS, `calls` times max_iter iterations.

        On the paper's loss as published: a call that ends by a tolerance is over. Else a small change of the loss ends
        nothing, and after a line search without a step the history is dropped: a run ends when its iterations are used
        up or not even steepest descent lowers the loss.
        """
        lengths = self._mask([calls * options.max_iter] * len(self.rows), take_part)
        if self.objective.problem.scale == "paper" and self.options.region is None:
            return Stage(name, lengths, lambda params: options.build(params, self.group_size), steps=calls)
        step = min(LBFGS_STEP if self.options.region is None else REGION_STEP, options.max_iter)
        return Stage(name, lengths, lambda params: options.build(params, self.group_size, step, restarts=True))

    def _mask(self, lengths: list[int], take_part: Sequence[bool] | None) -> list[int]:
        return lengths if take_part is None else [n * bool(k) for n, k in zip(lengths, take_part, strict=True)]

    # Hooks ------------------------------------------------------------------------------------------------------

    def advance(self, stage: int) -> None:
        """Updates are counted anew in each stage."""
        self.state["updates"] = torch.zeros(len(self.rows), dtype=torch.int64)

    def enter(self, stage: int) -> None:
        """All pairs, until an update of Adam or SGD chooses; these two minimise the paper's loss in any case."""
        self.mini = isinstance(self.stages[stage], MiniBatches)
        self.objective.batches = None
        self.objective.rescale("paper" if self.mini else self.objective.problem.scale)

    def before_step(self, active: Tensor) -> None:
        """Draw the region's copies, and forget the gradients of the last step."""
        if not self.redraws:
            return
        self.gradients = torch.zeros_like(self.state["window"][:, 0])
        self.evaluations = torch.zeros(len(self.rows), **self.objective.like)
        region, shape = self.options.region, self.objective.data.x.shape
        radius = (region.rho / self.state["spread"]).clamp(max=region.max_radius).tolist()
        offsets = torch.zeros(region.samples - 1, *shape, dtype=torch.float64)
        for r in active.nonzero().flatten().tolist():
            generator = torch.Generator()
            generator.set_state(self.state["generator"][r].clone())  # a view of the stack is misread
            count = int(self.objective.data.count[r])
            noise = torch.rand(region.samples - 1, count, shape[2], generator=generator, dtype=torch.float64)
            offsets[:, r, :count] = radius[r] * (2 * noise - 1)
            self.state["generator"][r] = generator.get_state()
        self.objective.offsets = offsets.to(**self.objective.like)

    def before_evaluation(self, active: Tensor) -> None:
        """Choose the mini-batches."""
        if self.mini:
            count, size = self.objective.data.count, self.objective.problem.batch_size
            batches = (count + size - 1) // size
            self.objective.batches = self.state["updates"] % torch.tensor(self.epoch) % batches

    def after_evaluation(self, active: Tensor) -> None:
        """Count the updates; collect the gradients for the region."""
        self.state["updates"] += active
        if self.redraws:
            gradients = torch.cat([p.grad.flatten(1) for p in self.params], 1)
            self.gradients[active] += gradients[active]
            self.evaluations[active] += 1

    def after_step(self, active: Tensor) -> None:
        """Put the step's mean gradient, of the loss in the paper's units, into the window, and measure its spread."""
        if not self.redraws:
            return
        region, scale = self.options.region, self.objective.problem.dt**2 / self.objective.factor
        for r in (active & (self.evaluations > 0).cpu()).nonzero().flatten().tolist():  # none by NNCG
            slot = int(self.state["seen"][r]) % region.history
            self.state["window"][r, slot] = scale * self.gradients[r] / self.evaluations[r]
            self.state["seen"][r] += 1
            kept = self.state["window"][r, :min(int(self.state["seen"][r]), region.history)].double()
            spread = (kept.std(0, correction=0) / (kept.abs().mean(0) + 1e-6)).mean().item()
            self.state["spread"][r] = spread or 1.0
