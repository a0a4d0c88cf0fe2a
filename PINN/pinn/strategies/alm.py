"""Augmented Lagrangian: some components are hard constraints c_i = 0, with a multiplier a point.

    L_A = sum_hard [ mean(lambda c) + mu/2 mean(c^2) ] + sum_soft w mean(c^2)

minimised by L-BFGS for a number of iterations, K times over; after each solve

    lambda <- lambda + mu c,        mu <- factor * mu.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pinn.strategies.base import Stage, Strategy
from pinn.strategies.options import AdamOptions, LBFGSOptions


@dataclass
class Options:
    """Table 2: 50 solves of 2,000 iterations, penalty from 2, times 1.2 a solve.

    hard: names of the hard components, joined by "+"; "conditions" is all but the equation (the published default).
    mu, factor: first penalty and its growth (`--alm_mu`, `--alm_beta`).
    outer: solves K (`--alm_iter`). iterations: of each solve.
    soft_weight: weight w of the soft components (`--alm_L`). weight_decay: of |theta|^2 (`--alm_weight_decay`).
    pretrain: iterations on the soft-constrained loss before the first solve.
    update_first: lambda and mu are updated before the first solve as well, as published.
    inner: optimizer of the solves, lbfgs or adam.
    """

    hard: str = "conditions"
    mu: float = 2.0
    factor: float = 1.2
    outer: int = 50
    iterations: int = 2_000
    soft_weight: float = 1.0
    weight_decay: float = 0.0
    pretrain: int = 0
    update_first: bool = False
    inner: str = "lbfgs"
    adam: AdamOptions = field(default_factory=AdamOptions)
    lbfgs: LBFGSOptions = field(default_factory=LBFGSOptions)


class ALM(Strategy):
    """An optional stage on the soft loss, then K solves, each with a fresh optimizer."""

    name, Options = "alm", Options
    budgets = {"smoke": {"outer": 3, "iterations": 30}, "laptop": {"outer": 10, "iterations": 200}}

    def make_stages(self, options: Options, targets: Sequence[float]) -> list[Stage]:
        """One stage a solve: curvature of the last Lagrangian says nothing of the next."""
        self.first = 1 if options.pretrain else 0
        names = [component.name for component in self.objective.components]
        self.hard = [n for n in names if n != "pde"] if options.hard == "conditions" else options.hard.split("+")

        def build(params: Sequence[Tensor]) -> torch.optim.Optimizer:
            return getattr(options, options.inner).build(params, self.group_size)
        return [Stage("pretrain", options.pretrain, build)] * self.first + [
            Stage(f"alm_{k + 1}", options.iterations, build) for k in range(options.outer)]

    @classmethod
    def set_epochs(cls, options: Options, epochs: int) -> None:
        """The published `--epochs`: length of the training that comes before the solves."""
        options.pretrain = epochs * (options.lbfgs.max_iter if options.inner == "lbfgs" else 1)

    def advance(self, stage: int) -> None:
        """Update multipliers and penalty, except before the first solve."""
        if stage < self.first:
            return
        c = self.objective.vectors(self.params)
        if stage == self.first:
            runs = len(self.params[0])
            self.state["mu"] = torch.full((runs,), self.options.mu, **self.objective.like)
            self.state |= {f"lambda_{name}": torch.zeros_like(c[name]) for name in self.hard}
        if stage > self.first or self.options.update_first:
            for name in self.hard:
                self.state[f"lambda_{name}"] += self.state["mu"][:, None] * c[name]
            self.state["mu"] *= self.options.factor

    def enter(self, stage: int) -> None:
        """The augmented Lagrangian takes the place of the soft loss."""
        solving = stage >= self.first
        self.objective.density = self.density if solving else self.objective.soft_density
        self.objective.weight_decay = self.options.weight_decay if solving else 0.0

    def density(self, name: str, c: Tensor, runs: slice | Tensor, points: slice) -> Tensor:
        """lambda c + mu/2 c^2 of a hard component, w c^2 of a soft one."""
        if name not in self.hard:
            return self.options.soft_weight * c.square()
        multiplier = self.state[f"lambda_{name}"][runs, points]
        return multiplier * c + 0.5 * self.state["mu"][runs, None] * c.square()

    def columns(self) -> dict[str, Sequence[float]]:
        """The penalty."""
        return {"mu": self.state["mu"].tolist()} if "mu" in self.state else {}
