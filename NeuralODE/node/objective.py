"""The losses of R runs, each with its own damping and number of pairs.

With the pairs (x_n, x_{n+1}), the prediction x^_{n+1} = x_n + dt f(x_n) (or another integrator's), the vector field F,

    L = L_data + lambda L_phys,     L_data = mean |x^_{n+1} - x_{n+1}|^2 = dt^2 mean |e|^2,
                                    L_phys = dt^2 mean |r|^2,        e = (x^_{n+1} - x_{n+1}) / dt

means over pairs and components. For Euler's step e = f - q with the difference quotient q, so L_data is a regression of
f onto q. The residual r is that of the mode:

    none          no physics
    sphere        r = (|x^|^2 - 1) / dt         the embedded prediction stays on the unit sphere
    pinn          r = f(x_n) - F(x_n)           the raw state
    pinn_region   the same, at x_n and at copies of it moved by noise

The optimizer sees L / dt^2 ("unit") or L ("paper"), Adam and SGD always L, less a constant where both targets can be
joined; what is reported is L.
Training on rollouts replaces x_n by the prediction of the whole trajectory from x_0 alone (the paper's eq. 8 to 10).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from node import rollout
from node.data import STATES, Batch, defect, make_pairs, pad
from node.model import least_squares, propagate
from node.pendulum import TEST_START, count_samples, embed, trajectory, vector_field


@dataclass(frozen=True)
class Pick:
    """Pairs of some rows: `stacked[rows, pairs]` is (r, n, ...) of anything (R, N, ...).

    mask: (r, n), 0 where there is no pair. count: (r,) pairs of each row.
    """

    rows: slice | Tensor  # the latter (r, 1) with pairs (r, n), else (r,)
    pairs: slice | Tensor
    mask: Tensor
    count: Tensor


#: density(name "data" or "physics", c (r, n, components), where) -> like c
Density = Callable[[str, Tensor, Pick], Tensor]

MODES = ("none", "sphere", "pinn", "pinn_region", "pinn_alm")
SCALES = ("unit", "paper")
TRAININGS = ("onestep", "rollout")


@dataclass(frozen=True)
class Problem:
    """What the runs of one call have in common.

    mode, weight: residual and lambda. state: coordinates, `embedded` or `raw`. integrator: of training pairs and test
    rollouts. training: on one-step pairs or rollouts. scale: of the loss that is minimised. tolerance: of the data.
    dt, test_dt, test_horizon: in units of the pendulum's time. probe_dt, probe_span: of the windowed rollout error.
    """

    mode: str = "pinn"
    weight: float = 1.0
    state: str = "raw"
    integrator: str = "euler"
    training: str = "onestep"
    scale: str = "unit"
    tolerance: str = "paper"
    dt: float = 0.05
    test_dt: float = 0.05
    test_horizon: float = 20.0
    probe_dt: float = 0.05
    probe_span: tuple[float, float] = (0.0, 10.0)
    batch_size: int = 32

    @property
    def size(self) -> int:
        """Dimension d of the state."""
        return STATES[self.state]


class Objective:
    """Losses and errors of R runs.

    Args:
        problem: what they share.
        inv_b: 1/b of each run.
        horizons: T of each run; ascending is fastest, as neighbours are evaluated together.

    Attributes:
        density: density of the loss, which a strategy may replace.
        batches: (R,) number of the mini-batch of each run, or None for all pairs.
        offsets: (copies, R, N, d) moved copies of the states, at which the residual is imposed too, or None.
    """

    def __init__(self, problem: Problem, inv_b: Sequence[float], horizons: Sequence[float],
                 dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> None:
        self.problem, self.horizons = problem, list(horizons)
        self.like = dict(dtype=dtype, device=device)
        on_cpu = torch.device(device).type == "cpu"
        self.points_a_block = 2**15 if on_cpu else 2**22
        self.group_size: int | None = None
        self.graph_size: int | None = None
        self.density: Density = self.soft_density
        self.batches: Tensor | None = None
        self.offsets: Tensor | None = None
        self.rescale(problem.scale)
        self.set_physical(inv_b)

    def rescale(self, scale: str) -> None:
        """Minimise L ("paper") or L / dt^2 ("unit")."""
        self.factor = self.problem.dt**2 if scale == "paper" else 1.0

    def set_physical(self, inv_b: Sequence[float]) -> None:
        """Set 1/b of every run, for training and test data alike (a curriculum does so between stages)."""
        p = self.problem
        self.inv_b = [float(value) for value in inv_b]
        self.pairs = [make_pairs(v, horizon, p.dt, p.state, p.tolerance)
                      for v, horizon in zip(self.inv_b, self.horizons, strict=True)]
        self.data: Batch = pad(self.pairs, **self.like)
        self.b = 1 / torch.tensor(self.inv_b, **self.like)
        self.blend = self._blend()
        self._truth: dict[tuple[float, float], Tensor] = {}

    def _blend(self) -> tuple[Tensor, float] | None:
        """Target t and factor with which L / dt^2 = factor mean |f - t|^2 + constant, or None where it is not so.

        |f - q|^2 + w |f - F|^2 = (1 + w) |f - (q + w F) / (1 + w)|^2 + w / (1 + w) |q - F|^2: one regression in place
        of two, and without the constant float32 resolves smaller changes.
        """
        p = self.problem
        if p.integrator != "euler" or p.training != "onestep" or p.mode == "sphere":
            return None
        weight = 0.0 if p.mode == "none" else p.weight
        targets = [pairs.q if not weight else (pairs.q + weight * pairs.field) / (1 + weight) for pairs in self.pairs]
        pairs = [replace(pairs, q=target) for pairs, target in zip(self.pairs, targets, strict=True)]
        return pad(pairs, **self.like).q, 1 + weight

    # What is minimised ------------------------------------------------------------------------------------------

    def soft_density(self, name: str, c: Tensor, at: Pick) -> Tensor:
        """c^2, times lambda for the residual."""
        return c.square() if name == "data" else self.problem.weight * c.square()

    def blocks(self, rows: Tensor) -> Iterator[Tensor]:
        """Rows that are evaluated together: of similar length, so that little is padding."""
        start, count = 0, self.data.count[rows]
        if self.batches is not None:
            count = torch.full_like(count, self.problem.batch_size)
        count = count.tolist()
        for end in range(1, len(rows) + 1):
            if end == len(rows):
                yield rows[start:end]
                break
            longest, size = max(count[start:end + 1]), end + 1 - start
            padding = longest * size - sum(count[start:end + 1])
            if longest * size > self.points_a_block or padding > max(self.points_a_block // 32, longest * size // 8):
                yield rows[start:end]
                start = end

    def select(self, rows: Tensor) -> Pick:
        """The pairs of these rows that the loss is over."""
        count, device = self.data.count[rows], self.b.device
        if self.batches is None or self.problem.training == "rollout":
            index, longest = _index(rows, device), int(count.max())
            return Pick(index, slice(longest), self.data.mask[index, :longest], count.to(device))
        size = self.problem.batch_size
        pairs = self.batches[rows, None] * size + torch.arange(size)
        mask = pairs < count[:, None]
        pairs = pairs.clamp(max=self.data.x.shape[1] - 1).to(device)
        return Pick(rows.to(device)[:, None], pairs, mask.to(**self.like), mask.sum(1).to(device))

    def vectors(self, params: Sequence[Tensor], at: Pick) -> dict[str, Tensor]:
        """e (r, n, d) and the residual r, (r, n, components), at these pairs, from the weights of their rows."""
        p, place = self.problem, (at.rows, at.pairs)
        if p.training == "rollout":
            target = self.data.target[place]
            states = rollout.rollout(lambda x: propagate(params, x[:, None])[:, 0], self.data.x[at.rows, 0], p.dt,
                                     target.shape[1], p.integrator, grad=torch.is_grad_enabled())
            x, predicted = states[:, :-1], states[:, 1:]
            e, f = (predicted - target) / p.dt, None
        else:
            x = self.data.x[place]
            f = propagate(params, x)
            if p.integrator == "euler":
                e, predicted = f - self.data.q[place], None
            else:
                predicted = rollout.step(lambda s: propagate(params, s), x, p.dt, p.integrator)
                e = (predicted - self.data.target[place]) / p.dt
        found = {"data": e}
        if p.mode == "sphere":
            predicted = x + p.dt * f if predicted is None else predicted
            found["physics"] = (predicted.square().sum(-1, keepdim=True) - 1) / p.dt
        elif p.mode != "none":
            f = propagate(params, x) if f is None else f
            b = self.b[at.rows].reshape(-1, 1)
            found["physics"] = f - (self.data.field[place] if p.training == "onestep" else vector_field(x, b))
            if self.offsets is not None:
                moved = [x + offset[place] for offset in self.offsets]
                residuals = [propagate(params, m) - vector_field(m, b) for m in moved]
                found["physics"] = torch.cat([found["physics"], *residuals], -1)
        return found

    @property
    def is_regression(self) -> bool:
        """Whether the loss is that of `blend`."""
        return self.blend is not None and self.density == self.soft_density and self.offsets is None

    def regression(self, at: Pick) -> tuple[Tensor, Tensor, Tensor, Tensor, float]:
        """States, targets (r, n, d), mask (r, n); what the masked sum of squares is divided by, (r,), and times."""
        target, weight = self.blend
        place = (at.rows, at.pairs)
        return self.data.x[place], target[place], at.mask, at.count * target.shape[2], self.factor * weight

    def block_losses(self, params: Sequence[Tensor], rows: Tensor) -> Tensor:
        """Losses (r,) of the runs `rows`, whose weights these are; without the constant where there is a `blend`."""
        at = self.select(rows)
        if self.is_regression:
            x, target, mask, count, factor = self.regression(at)
            return factor * ((propagate(params, x) - target).square().sum(2) * mask).sum(1) / count
        total = torch.zeros(len(rows), **self.like)
        for name, c in self.vectors(params, at).items():
            total = total + (self.density(name, c, at).sum(2) * at.mask).sum(1) / (at.count * c.shape[2])
        if torch.is_grad_enabled() and not total.requires_grad:  # NaN in all runs: there was nothing to integrate
            total = total + 0 * sum(p.flatten(1).sum(1) for p in params)
        return self.factor * total

    def backward(self, params: Sequence[Tensor], rows: Tensor) -> Tensor:
        """Losses (R,) of the wanted runs, NaN elsewhere; their gradients go to `.grad`, those of others are kept."""
        losses = torch.full((len(params[0]),), torch.nan, **self.like)
        for p in params:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        for block in self.blocks(rows):
            index = _index(block, self.b.device)
            part = [p.detach()[index] for p in params]
            if self.is_regression:
                losses[index], grads = least_squares(part, *self.regression(self.select(block)))
            else:
                value = self.block_losses([p.requires_grad_() for p in part], block)
                grads = torch.autograd.grad(value.sum(), part)
                losses[index] = value.detach()
            for p, g in zip(params, grads, strict=True):
                p.grad[index] = g
        return losses

    def losses(self, params: Sequence[Tensor], rows: Tensor) -> Tensor:
        """Losses (R,) of the wanted runs, zero elsewhere, with the graph that a Hessian-vector product needs."""
        losses = torch.zeros(len(params[0]), **self.like)
        for block in self.blocks(rows):
            index = block.to(self.b.device)
            losses = losses.index_add(0, index, self.block_losses([p[index] for p in params], block))
        return losses

    def training_losses(self, params: Sequence[Tensor], rows: Tensor) -> Tensor:
        """The same for L as reported, whatever is minimised: over all pairs, without moved copies, in the
        paper's scale; less a constant where there is a `blend`.
        """
        kept = self.density, self.batches, self.offsets, self.factor
        self.density, self.batches, self.offsets, self.factor = self.soft_density, None, None, self.problem.dt**2
        losses = self.losses(params, rows)
        self.density, self.batches, self.offsets, self.factor = kept
        return losses

    def gradient_norms(self, params: Sequence[Tensor], rows: Tensor) -> list[float]:
        """|gradient| of what is minimised, (R,), over all pairs and without moved copies."""
        kept = self.batches, self.offsets
        self.batches = self.offsets = None
        self.backward(params, rows)
        self.batches, self.offsets = kept
        return torch.cat([p.grad.flatten(1) for p in params], 1).norm(dim=1).tolist()

    # What is reported -------------------------------------------------------------------------------------------

    @torch.no_grad()
    def constraint(self, params: Sequence[Tensor], name: str) -> Tensor:
        """e ("data") or r ("physics") of all runs at all their pairs, (R, N, components); zero in the padding."""
        kept = self.batches, self.offsets
        self.batches = self.offsets = None
        found: Tensor | None = None
        for block in self.blocks(torch.arange(len(params[0]))):
            index = block.to(self.b.device)
            at = self.select(block)
            c = self.vectors([p[index] for p in params], at)[name]
            if found is None:
                found = torch.zeros(len(params[0]), self.data.x.shape[1], c.shape[2], **self.like)
            found[index, :c.shape[1]] = c * at.mask[..., None]
        self.batches, self.offsets = kept
        return found

    @torch.no_grad()
    def terms(self, params: Sequence[Tensor], rows: Tensor | None = None) -> dict[str, Tensor]:
        """L_data, L_phys and their weighted sum, (R,), in the paper's units; zero for rows that are not wanted."""
        kept = self.batches, self.offsets
        self.batches = self.offsets = None
        found = {name: torch.zeros(len(params[0]), dtype=torch.float64) for name in ("data", "physics")}
        for block in self.blocks(torch.arange(len(params[0])) if rows is None else rows):
            at, index = self.select(block), block.to(self.b.device)
            for name, c in self.vectors([p[index] for p in params], at).items():
                squares = (c.double().square().sum(2) * at.mask).sum(1)
                found[name][block] = (self.problem.dt**2 * squares / (at.count * c.shape[2])).cpu()
        self.batches, self.offsets = kept
        return {**found, "total": found["data"] + self.problem.weight * found["physics"]}

    def truth(self, dt: float, horizon: float) -> Tensor:
        """Test trajectories (R, K, d) at the times 0, dt, ... < horizon."""
        key = (dt, horizon)
        if key not in self._truth:
            p = self.problem
            states = [torch.tensor(trajectory(v, horizon, dt, TEST_START, p.tolerance)) for v in self.inv_b]
            self._truth[key] = torch.stack([embed(s) if p.state == "embedded" else s for s in states]).to(**self.like)
        return self._truth[key]

    @torch.no_grad()
    def predict(self, params: Sequence[Tensor], dt: float, horizon: float, rows: Tensor | None = None) -> Tensor:
        """Autoregressive test rollouts (r, K, d) of these rows (default all) from the test start, step dt."""
        index = slice(None) if rows is None else rows.to(self.b.device)
        truth, part = self.truth(dt, horizon)[index], [p[index] for p in params]
        return rollout.rollout(lambda x: propagate(part, x[:, None])[:, 0], truth[:, 0], dt, truth.shape[1] - 1,
                               self.problem.integrator)

    def columns(self, params: Sequence[Tensor], rows: Tensor) -> dict[str, list[float]]:
        """History: L_data as `train_loss`, L_phys, their sum, and the rollout error as `test_error`, (R,) each."""
        terms = {name: value.tolist() for name, value in self.terms(params, rows).items()}
        p = self.problem
        errors = torch.zeros(len(params[0]), dtype=torch.float64)
        predicted = self.predict(params, p.test_dt, p.test_horizon, rows)
        truth = self.truth(p.test_dt, p.test_horizon)[rows.to(self.b.device)]
        errors[rows] = rollout.relative_l2_by_component(predicted, truth).cpu()
        return {"train_loss": terms["data"], "loss_data": terms["data"], "loss_physics": terms["physics"],
                "loss_total": terms["total"], "test_error": errors.tolist()}

    @torch.no_grad()
    def results(self, params: Sequence[Tensor]) -> dict[str, list[float]]:
        """One-step and rollout errors of every run, (R,) each, by their published names; `defect` is D."""
        p, found = self.problem, {}
        train = self.one_step(params, [torch.tensor(pairs.x) for pairs in self.pairs],
                              [torch.tensor(pairs.target) for pairs in self.pairs], p.dt)
        states = self.truth(p.test_dt, p.test_horizon)
        test = self.one_step(params, list(states[:, :-1]), list(states[:, 1:]), p.test_dt)
        for name, (squares, count) in {"train": train, "test": test}.items():
            found |= {f"{name}_mse": squares / count, f"{name}_sse": squares}
        windows = {
            "mean_rel_window": (p.probe_dt, *p.probe_span, rollout.mean_relative_window),
            "mean_rel_dt005_t0_20": (0.05, 0.0, 20.0, rollout.mean_relative_window),
            "dt050_hor10": (0.5, 0.0, 10.0, rollout.relative_l2_by_component),
            "dt005_hor15": (0.05, 0.0, 15.0, rollout.relative_l2_by_component),
            "dt005_hor20": (0.05, 0.0, 20.0, rollout.relative_l2_by_component)}
        ends = [(p.test_dt, p.test_horizon), *((dt, end) for dt, _, end, _ in windows.values())]
        spans = {dt: max(end for step, end in ends if step == dt) for dt, _ in ends}
        longest = {dt: self.predict(params, dt, end) for dt, end in spans.items()}
        predicted = longest[p.test_dt][:, :states.shape[1]]
        found |= {"test_rollout_l2": rollout.relative_l2_by_component(predicted, states),
                  "test_rollout_mse": rollout.mse(predicted, states),
                  "test_rollout_sse": rollout.sse(predicted, states)}
        for name, (dt, start, end, error) in windows.items():
            states, first = self.truth(dt, end), count_samples(start, dt)
            found[f"test_rollout_l2_{name}"] = error(longest[dt][:, first:states.shape[1]], states[:, first:])
        if p.state == "raw":
            found["defect"] = torch.tensor([defect(pairs, p.dt) for pairs in self.pairs])
        return {name: value.tolist() for name, value in found.items()}

    def one_step(self, params: Sequence[Tensor], x: Sequence[Tensor], target: Sequence[Tensor],
                 dt: float) -> tuple[Tensor, Tensor]:
        """Sums of squared one-step errors and the numbers of terms in them, (R,) each, of pairs (N_r, d)."""
        squares, count = [], []
        for r, (state, after) in enumerate(zip(x, target, strict=True)):
            part, state, after = [w[r:r + 1] for w in params], state.to(**self.like)[None], after.to(**self.like)[None]
            found = rollout.step(lambda s, part=part: propagate(part, s), state, dt, self.problem.integrator)
            squares.append((found - after).double().square().sum())
            count.append(float(after.numel()))
        return torch.stack(squares), torch.tensor(count, dtype=torch.float64, device=self.b.device)

    def write_files(self, folder: Path, row: int) -> None:
        """Nothing beside the result: data and predictions follow from the weights."""


def _index(rows: Tensor, device: torch.device) -> slice | Tensor:
    """Neighbouring rows as a slice, which copies nothing."""
    first, last = int(rows[0]), int(rows[-1])
    return slice(first, last + 1) if last - first == len(rows) - 1 else rows.to(device)
