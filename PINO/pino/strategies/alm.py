"""Augmented Lagrangian: the equation (or the data) is a hard constraint h_i = 0, with a multiplier a training sample.

    L_A = w obj + mean_i(lambda_i h_i) + mu/2 mean_i(h_i^2)        over a mini-batch, or all samples

    constraint pde   h_i = p_i - eps_i,  obj = xy_loss mean d        (the paper's)
    constraint data  h_i = d_i - eps_i,  obj = f_loss mean p         (the published code's default)

with eps_i a fraction of p_i or d_i where the method begins, after Adam. It is minimised K times by a fresh optimizer;
after each solve

    lambda_i <- lambda_i + mu h_i,        mu <- factor * mu.

h_i is a norm: without eps it is never negative, the multipliers grow for ever and h_i = 0 is out of reach where the
floor of 5 d + p is not 0.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pino.optimizers.adam import Adam
from pino.strategies.base import Stage
from pino.strategies.batches import DarcyStrategy, MiniBatches
from pino.strategies.options import AdamOptions, LBFGSOptions


@dataclass
class Options:
    """Table 3: 35,000 iterations, of which 40 solves of 500 with mu from 2, growing by 1.05, leave 15,000 for Adam.

    constraint: pde or data. weight: w. slack: eps_i as a fraction. steps: of Adam before. outer: solves K. inner: adam
    or lbfgs, inner_steps: its iterations a solve. lr: of the inner Adam, held for `hold` of a solve, then following
    half a cosine to 0 unless not `cosine`. save_best: end with the weights of the solve with the lowest test error.
    """

    constraint: str = "pde"
    weight: float = 1.0
    slack: float = 0.05
    mu: float = 2.0
    factor: float = 1.05
    steps: int = 15_000
    outer: int = 40
    inner: str = "adam"
    inner_steps: int = 500
    lr: float = 1e-4
    hold: float = 0.2
    cosine: bool = True
    save_best: bool = False
    adam: AdamOptions = field(default_factory=AdamOptions)
    lbfgs: LBFGSOptions = field(default_factory=LBFGSOptions)


class HeldCosine(Adam):
    """Adam whose learning rate is held for a part of `length` updates and then follows half a cosine to 0."""

    def __init__(self, params: Sequence[Tensor], length: int, hold: float, **options: float) -> None:
        super().__init__(params, **options)
        self.length, self.hold = length, int(hold * length)

    def rate(self, rows: Tensor, count: Tensor) -> Tensor:
        """lr (1 + cos(pi s)) / 2, s from 0 at the end of the hold to 1 at the end."""
        s = ((count.double() - 1 - self.hold) / max(self.length - self.hold, 1)).clamp(min=0)
        return self.param_groups[0]["lr"] * (1 + (math.pi * s).cos()) / 2


class ALM(DarcyStrategy):
    """Adam on 5 d + p, then K solves."""

    name, Options, prepared = "alm", Options, True
    budgets = {"smoke": {"steps": 10, "outer": 2, "inner_steps": 5},
               "laptop": {"steps": 1_500, "outer": 10, "inner_steps": 100}}

    @classmethod
    def vectors(cls, options: Options) -> int:
        """Those of the inner optimizer, and the best weights."""
        return (2 * options.lbfgs.history_size + 14 if options.inner == "lbfgs" else 8) + options.save_best

    def make_stages(self, options: Options, targets: Sequence[float]) -> list[Stage]:
        """One stage a solve; with `save_best` an empty one that goes back to the best of them."""
        before = self.preparation(options.adam, options.steps)
        self.first, self.last = len(before), len(before) + options.outer
        best = [Stage("best", 0, self.inner_adam, restores=True)] * options.save_best
        return [*before, *(self.solve(f"alm_{k + 1}") for k in range(options.outer)), *best]

    def solve(self, name: str) -> Stage:
        """A stage of the inner optimizer."""
        if self.options.inner == "lbfgs":
            return self.lbfgs(name, self.options.lbfgs, self.options.inner_steps)
        return MiniBatches(name, self.options.inner_steps, self.inner_adam)

    def inner_adam(self, params: Sequence[Tensor]) -> Adam:
        """A fresh Adam for one solve."""
        o = self.options
        common = dict(lr=o.lr, betas=(o.adam.beta1, o.adam.beta2), eps=o.adam.eps)
        return HeldCosine(params, o.inner_steps, o.hold, **common) if o.cosine else Adam(params, **common)

    def constrained(self) -> Tensor:
        """p_i or d_i of all samples, (n,)."""
        return self.objective.all_terms(self.params)[self.options.constraint == "pde"]

    def advance(self, stage: int) -> None:
        """Before the first solve set up the multipliers, after every solve update them, then the penalty."""
        super().advance(stage)
        if stage == self.first:
            start = self.constrained()
            self.state |= {"lambda": torch.zeros_like(start)[None], "slack": self.options.slack * start[None],
                           "mu": torch.full((1,), self.options.mu, dtype=torch.float64)}
            if self.options.save_best:
                self.state |= {"best_error": torch.full((1,), math.inf, dtype=torch.float64),
                               "best_params": torch.cat([p.detach().flatten(1) for p in self.params], 1)}
        elif stage > self.first:
            self.state["lambda"] += self.state["mu"].item() * (self.constrained() - self.state["slack"])
            self.state["mu"] *= self.options.factor
            if self.options.save_best:
                self.keep_best()
        if stage == self.last:
            pieces = self.state["best_params"].split([p.numel() for p in self.params], 1)
            with torch.no_grad():
                for p, best in zip(self.params, pieces, strict=True):
                    p.copy_(best.view_as(p))

    def keep_best(self) -> None:
        """Keep the weights if their test error is the lowest so far: a selection on the test samples."""
        error = self.objective.test_errors(self.params).mean().cpu()
        if error < self.state["best_error"]:
            self.state["best_error"][0] = error
            self.state["best_params"] = torch.cat([p.detach().flatten(1) for p in self.params], 1)

    def enter(self, stage: int) -> None:
        """The augmented Lagrangian takes the place of 5 d + p."""
        super().enter(stage)
        self.objective.density = self.density if stage >= self.first else self.objective.penalty

    def density(self, d: Tensor, p: Tensor, rows: Tensor) -> Tensor:
        """w obj + lambda h + mu/2 h^2 of each sample (b,)."""
        xy_loss, f_loss = self.objective.weights
        hard, soft = (p, xy_loss * d) if self.options.constraint == "pde" else (d, f_loss * p)
        multiplier, slack = (self.state[name][0, rows].to(d) for name in ("lambda", "slack"))
        h = hard - slack
        return self.options.weight * soft + multiplier * h + 0.5 * self.state["mu"].item() * h.square()

    def columns(self) -> dict[str, Sequence[float]]:
        """The penalty and the mean multiplier."""
        if "mu" not in self.state:
            return {}
        return {"mu": self.state["mu"].tolist(), "multiplier": self.state["lambda"].mean(1).tolist()}


class ALMData(ALM):
    """The data are the constraint: `--alm_cons_item data`; weight 200 and no slack, as published."""

    name = "alm_data"

    @dataclass
    class Options(Options):
        """The published values."""

        constraint: str = "data"
        weight: float = 200.0
        slack: float = 0.0
