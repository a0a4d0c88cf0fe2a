"""Curriculum: the physical value grows from stage to stage, each stage starts from the weights of the last.

    value_k = min(start + k * increment, target),        k = 0, 1, 2, ...

Targets on the way of one another share a chain: with increment 0.5 the run for beta = 10 is the chain of beta = 70
after its stage at 10, so a whole row of the map costs as much as its hardest cell. A target between two stages gets a
chain of its own.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pinn.data import collocation_indices
from pinn.files import UsageError
from pinn.record import RunKey
from pinn.strategies.base import Row, Stage, Strategy, stream_seed
from pinn.strategies.options import AdamOptions, LBFGSOptions

#: Increment a stage, so that 120 to 140 stages reach the hardest value of the paper's map.
INCREMENTS = {"convection": 0.5, "reaction": 0.1, "wave": 0.05, "reaction_diffusion": 0.25}
MOST_STAGES = 100_000  # more is a slip of the pen


@dataclass
class Options:
    """Table 2: 140 stages of 2,000 iterations. Its increment of 0.05 would end at beta = 7; 140 * 0.5 is 70.

    increment: growth a stage, in units of the physical value; 0 takes that of the system (`INCREMENTS`).
    increment_scale: multiplies the system's own increment (fewer, longer strides on a small budget).
    start: value of the first stage; None is one increment (the published code starts at 0).
    iterations: of each stage.
    redraw: new collocation points every stage but the last, as published (runs then share no chain).
    inner: optimizer of the stages, lbfgs or adam.
    """

    increment: float = 0.0
    increment_scale: float = 1.0
    start: float | None = None
    iterations: int = 2_000
    redraw: bool = False
    inner: str = "lbfgs"
    adam: AdamOptions = field(default_factory=AdamOptions)
    lbfgs: LBFGSOptions = field(default_factory=LBFGSOptions)


def values(options: Options, system: str, target: float) -> list[float]:
    """Physical values of the stages up to the target, which is always the last."""
    step = options.increment or INCREMENTS[system] * options.increment_scale
    start = step if options.start is None else options.start
    count = max(math.ceil((target - start) / step - 1e-9), 0)
    if count > MOST_STAGES:
        raise UsageError(f"--cl_increment: steps of {step:g} make {count} stages up to {target:g}, at most "
                         f"{MOST_STAGES} are allowed")
    return [start + k * step for k in range(count)] + [target]


class Curriculum(Strategy):
    """One stage a value, each with a fresh optimizer."""

    name, Options = "cl", Options
    budgets = {"smoke": {"increment_scale": 20.0, "iterations": 20}, "laptop": {"increment_scale": 5.0,
                                                                                 "iterations": 200}}

    def make_stages(self, options: Options, targets: Sequence[float]) -> list[Stage]:
        """As many as the longest chain has; shorter ones are done before."""
        def build(params: Sequence[Tensor]) -> torch.optim.Optimizer:
            return getattr(options, options.inner).build(params, self.group_size)
        self.chains = [values(options, self.objective.system.name, target) for target in targets]
        longest = max(self.chains, key=len)
        return [Stage(f"{self.objective.system.physical}={value:g}", options.iterations, build) for value in longest]

    @classmethod
    def plan(cls, options: Options, keys: Sequence[RunKey]) -> list[Row]:
        """Targets of one seed that lie on the chain of a harder one become stops of its row."""
        rows: list[Row] = []
        for k in sorted(range(len(keys)), key=lambda k: -keys[k].physical_value):
            key = keys[k]
            for row in rows:
                shared = not options.redraw and row.seed == key.seed
                chain = values(options, key.system, row.physical) if shared else []
                stop = next((i for i, v in enumerate(chain) if math.isclose(v, key.physical_value, rel_tol=1e-9)), None)
                if stop is not None:
                    row.runs.append((k, stop))
                    break
            else:
                rows.append(Row(key, [(k, len(values(options, key.system, key.physical_value)) - 1)]))
        return rows

    @classmethod
    def set_epochs(cls, options: Options, epochs: int) -> None:
        """The published `--epochs`: calls of the optimizer in every stage."""
        options.iterations = epochs * (options.lbfgs.max_iter if options.inner == "lbfgs" else 1)

    def enter(self, stage: int) -> None:
        """The equation at this stage's value; rows that are through keep their own."""
        self.objective.set_physical([chain[min(stage, len(chain) - 1)] for chain in self.chains])
        if self.options.redraw:
            candidates, n = self.objective.grid.candidates, self.objective.n
            points = [candidates[collocation_indices(self.objective.grid, n, stream_seed(row.seed, f"stage {stage}")
                                                     % 2**32)] for row in self.rows]
            interior = self.objective.interior.expand(len(self.rows), -1, -1).clone()
            for r, chain in enumerate(self.chains):
                if stage < len(chain) - 1:
                    interior[r] = torch.tensor(points[r], **self.objective.like)
            self.objective.residual_points = interior

    def columns(self) -> dict[str, Sequence[float]]:
        """The value of the stage."""
        return {"physical_value": self.objective.physical}
