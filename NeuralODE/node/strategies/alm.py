"""Augmented Lagrangian: the physics (or the data) is a hard constraint c = 0, with a multiplier a pair and component.

    L_A = w mean(soft^2) + mean(lambda c) + mu/2 mean(c^2)

minimised by L-BFGS, K times over; before each solve

    lambda <- lambda + mu c,        mu <- factor * mu.

With c = f - F (target physics) the fixed point is f = F, L_data = D, L_phys = 0; with c = f - q (target data) it is
f = q, L_data = 0 up to what the network can't fit, L_phys = D. An exact solve multiplies the way still to go by
2 w / (2 w + mu).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from node.objective import Pick
from node.strategies import curriculum
from node.strategies.base import Stage
from node.strategies.batches import NodeStrategy, Region
from node.strategies.options import FirstOrderOptions, LBFGSOptions


def _inner() -> LBFGSOptions:
    return LBFGSOptions(max_iter=500)


@dataclass
class Options:
    """Table 4: 50 solves of 500 iterations, penalty growing by 1.05 a solve; weight and first penalty as published.

    target: what is hard, physics or data. mu, factor: first penalty and its growth. weight: w of the soft term.
    outer: solves K. calls: of L-BFGS a solve, or epochs of Adam or SGD. bootstrap: iterations of L-BFGS on the soft
    loss before anything else. warmup: calls of L-BFGS (epochs of Adam) on the soft loss after that.
    inner: lbfgs, adam or sgd. schedule: a curriculum before, in place of the bootstrap; None for none.
    """

    target: str = "physics"
    mu: float = 1.0
    factor: float = 1.05
    weight: float = 10.0
    outer: int = 50
    calls: int = 1
    bootstrap: int = 1_000
    warmup: int = 0
    inner: str = "lbfgs"
    first_order: FirstOrderOptions = field(default_factory=FirstOrderOptions)
    lbfgs: LBFGSOptions = field(default_factory=_inner)
    schedule: curriculum.Schedule | None = None
    region: Region | None = None


class ALM(NodeStrategy):
    """Training on the soft loss, then K solves, each with a fresh optimizer."""

    name, Options, marks = "alm", Options, False
    budgets = {"smoke": {"outer": 3, "lbfgs_max_iter": 20, "bootstrap": 20},
               "laptop": {"outer": 30, "lbfgs_max_iter": 100, "bootstrap": 300}}

    def make_stages(self, options: Options, targets: Sequence[float]) -> list[Stage]:
        """One stage a solve: curvature of the last Lagrangian says nothing of the next."""
        self.targets, stages = list(targets), []
        self.chains = [[target] for target in targets]
        if options.schedule is not None:
            self.chains = [options.schedule.values(target) for target in targets]
            stages += curriculum.stages(self, self.chains, options.schedule.calls)
        elif options.bootstrap:
            stages.append(self.lbfgs("bootstrap", replace(options.lbfgs, max_iter=options.bootstrap), 1))
        if options.warmup:
            stages.append(self.solver("warmup", options.warmup))
        self.first = len(stages)
        return stages + [self.solver(f"alm_{k + 1}", options.calls) for k in range(options.outer)]

    def solver(self, name: str, calls: int, take_part: Sequence[bool] | None = None) -> Stage:
        """A stage of the inner optimizer."""
        if self.options.inner == "lbfgs":
            return self.lbfgs(name, self.options.lbfgs, calls, take_part)
        return self.first_order(name, self.options.inner, self.options.first_order, calls, take_part)

    def advance(self, stage: int) -> None:
        """Update multipliers, then the penalty."""
        super().advance(stage)
        if stage < self.first:
            return
        if stage == self.first:
            curriculum.enter(self, self.chains, stage)
            self.state["mu"] = torch.full((len(self.rows),), self.options.mu, **self.objective.like)
            self.state["lambda"] = torch.zeros_like(self.objective.constraint(self.params, self.options.target))
        c = self.objective.constraint(self.params, self.options.target)
        self.state["lambda"] += self.state["mu"][:, None, None] * c
        self.state["mu"] *= self.options.factor

    def enter(self, stage: int) -> None:
        """The augmented Lagrangian takes the place of the soft loss."""
        super().enter(stage)
        curriculum.enter(self, self.chains, stage)
        self.objective.density = self.density if stage >= self.first else self.objective.soft_density

    def density(self, name: str, c: Tensor, at: Pick) -> Tensor:
        """lambda c + mu/2 c^2 of the hard term, w c^2 of the soft one."""
        if name != self.options.target:
            return self.options.weight * c.square()
        mu = self.state["mu"][at.rows].reshape(-1, 1, 1)
        return self.state["lambda"][at.rows, at.pairs] * c + 0.5 * mu * c.square()

    def columns(self) -> dict[str, Sequence[float]]:
        """The penalty."""
        return {"mu": self.state["mu"].tolist()} if "mu" in self.state else {}
