"""Region-optimised PINN (Wu et al. 2024): the equation is imposed at points drawn from a small region around each
collocation point, whose size follows from how much the gradient varies.

    x_j -> x_j + r_t * xi,   xi ~ U[0, 1)^2          r_t = min(r_0 / sigma_t, 0.01)
    sigma_t = mean over weights of std(g) / (mean |g| + 1e-6),  over the mean gradients of the last few steps

The points are drawn once a step, so that a line search sees one function; `redraw=evaluation` draws them at every
evaluation, as published.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pinn.strategies.base import Stage, Strategy, stream_seed
from pinn.strategies.options import LBFGSOptions


@dataclass
class Options:
    """Table 2: 1,000 steps of up to 20 inner iterations, region 1e-5, one sample, window 5.

    steps: calls of L-BFGS. region: r_0, in units of x and t. samples: points a region. window: steps that sigma sees.
    redraw: "step" or "evaluation".
    """

    steps: int = 1_000
    region: float = 1e-5
    samples: int = 1
    window: int = 5
    redraw: str = "step"
    lbfgs: LBFGSOptions = field(default_factory=LBFGSOptions)


class RoPINN(Strategy):
    """One stage of L-BFGS on a loss that moves a little every step."""

    name, Options, redraws = "ropinn", Options, True
    budgets = {"smoke": {"steps": 6}, "laptop": {"steps": 100}}

    def make_stages(self, options: Options, targets: Sequence[float]) -> list[Stage]:
        """A single stage, counted in steps."""
        rows, size = len(self.rows), sum(p[0].numel() for p in self.params)
        generators = [torch.Generator().manual_seed(stream_seed(row.seed, "region")) for row in self.rows]
        self.state = {"sigma": torch.ones(rows, dtype=torch.float64),
                      "window": torch.zeros(rows, options.window, size, **self.objective.like),
                      "seen": torch.zeros(rows, dtype=torch.int64),
                      "generator": torch.stack([g.get_state() for g in generators])}
        return [Stage("ropinn", options.steps * options.lbfgs.max_iter,
                      lambda params: options.lbfgs.build(params, self.group_size), steps=options.steps)]

    @classmethod
    def set_epochs(cls, options: Options, epochs: int) -> None:
        """The published `--epochs`: calls of the optimizer."""
        options.steps = epochs

    @property
    def region(self) -> Tensor:
        """r_t of every row, (R,)."""
        return (self.options.region / self.state["sigma"]).clamp(max=0.01)

    def before_step(self, active: Tensor) -> None:
        """Draw the step's points and forget the gradients of the last step."""
        self.gradient_sum = torch.zeros_like(self.state["window"][:, 0])
        self.evaluations = torch.zeros(len(self.rows), **self.objective.like)
        self.draw(active)

    def before_evaluation(self, active: Tensor) -> None:
        """The published variant draws new points at every evaluation."""
        if self.options.redraw == "evaluation":
            self.draw(active)

    def draw(self, active: Tensor) -> None:
        """Collocation points moved by up to r_t in x and t, `samples` copies of them."""
        base = self.objective.interior.repeat(1, self.options.samples, 1)
        if self.objective.residual_points is self.objective.interior:  # which must stay as it is
            self.objective.residual_points = base.expand(len(self.rows), -1, -1).clone()
        for r in active.nonzero().flatten().tolist():
            generator = torch.Generator()
            generator.set_state(self.state["generator"][r].clone())  # a view of the stack is misread
            xi = torch.rand(base.shape[1], 2, generator=generator, dtype=torch.float64).to(base)
            self.state["generator"][r] = generator.get_state()
            self.objective.residual_points[r] = base[r % len(base)] + self.region[r].item() * xi

    def after_evaluation(self, active: Tensor) -> None:
        """Collect the gradients of this step."""
        gradients = torch.cat([p.grad.flatten(1) for p in self.params], 1)
        self.gradient_sum[active] += gradients[active]
        self.evaluations[active] += 1

    def after_step(self, active: Tensor) -> None:
        """Put the step's mean gradient into the window and measure its relative spread."""
        slot = self.state["seen"] % self.options.window
        for r in active.nonzero().flatten().tolist():
            self.state["window"][r, slot[r]] = self.gradient_sum[r] / self.evaluations[r]
            self.state["seen"][r] += 1
            kept = self.state["window"][r, :min(int(self.state["seen"][r]), self.options.window)].double()
            spread = (kept.std(0, correction=0) / (kept.abs().mean(0) + 1e-6)).mean().item()
            self.state["sigma"][r] = spread or 1.0

    def columns(self) -> dict[str, Sequence[float]]:
        """The region size."""
        return {"region": self.region.tolist()}
