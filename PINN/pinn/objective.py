"""The loss of R runs at one number of collocation points, evaluated in blocks.

Every component c_i (equation, boundary, initial condition) contributes the mean of a density over its n_i points,

    L = sum_i mean_j density_i(c_ij),         soft-constrained:  density = w_i phi(c),  phi(c) = c^2 by default,

so the loss is a sum over points and can be walked in blocks of runs and collocation points: on a CPU of about 32,000
points, large enough to hide the bookkeeping and small enough for its memory, on a GPU of all. A strategy changes
the density (multipliers), the collocation points (region sampling) or the physical values (curriculum), nothing else.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pinn.data import Grid, collocation_indices, relative_errors
from pinn.model import Operator, propagate
from pinn.pdes import System

#: density(component name, c (r, k), which runs, which points of the component) -> (r, k)
Density = Callable[[str, Tensor, slice | Tensor, slice], Tensor]

PENALTIES: dict[str, Callable[[Tensor], Tensor]] = {
    "mse": torch.square,
    "l1": torch.abs,
    "huber": lambda c: torch.nn.functional.huber_loss(c, torch.zeros_like(c), reduction="none"),
}
LOSSES = (*PENALTIES, "hybrid")


@dataclass(frozen=True)
class Block:
    """Some runs and a range of their collocation points; the conditions go with the first range.

    `runs` is a slice where they are neighbours, so that taking their rows copies nothing.
    """

    runs: slice | Tensor
    points: slice
    first: bool


class Objective:
    """Losses of R runs that share system, collocation points and everything but physical value and weights.

    Args:
        system: the equation.
        physical: swept values, one a run.
        others: the system's other parameters.
        n: number of collocation points N_f.
        data_seeds: seed of the collocation points, one a run; equal seeds share the points.
        loss: one of `LOSSES`; hybrid is huber for the equation and mse for the conditions.
        weight: factor of the equation's term in what is minimised (not in what is reported).
        periodic_slope: reaction-diffusion also matches u_x at the ends.
    """

    def __init__(self, system: System, physical: Sequence[float], others: Mapping[str, float], n: int,
                 data_seeds: Sequence[int], grid: Grid, *, loss: str = "mse", weight: float = 1.0,
                 periodic_slope: bool = True, dtype: torch.dtype = torch.float32,
                 device: torch.device | str = "cpu") -> None:
        self.system, self.others, self.grid, self.n = system, dict(others), grid, n
        self.loss, self.weight = loss, weight
        self.like = dict(dtype=dtype, device=device)
        self.derivative = system.derivative if periodic_slope or system.derivative == "ic" else None
        self.components = [c for c in system.components if c.name != "bc_x" or self.derivative]
        seeds = list(data_seeds) if len(set(data_seeds)) > 1 else list(data_seeds)[:1]
        interior = np.stack([grid.candidates[collocation_indices(grid, n, seed)] for seed in seeds])
        self.interior = torch.tensor(interior, **self.like)  # (R or 1, n, 2)
        conditions = np.concatenate([grid.initial, grid.boundary(1), grid.boundary(0)])
        self.condition_points = torch.tensor(conditions, **self.like)[None]
        self.residual_points = self.interior  # a strategy may put others here, (R or 1, any, 2)
        self.density: Density = self.soft_density
        self.weight_decay = 0.0
        self.save_points = False  # write points.npz with the results
        rows, parallel = (2**15, torch.get_num_threads()) if torch.device(device).type == "cpu" else (2**21, 1)
        self.points_a_block = max(rows - len(conditions), rows // 4)
        self.runs_a_block = max(1, rows // (n + len(conditions)))
        if self.runs_a_block > parallel:  # the products of a batch are dealt out to the threads
            self.runs_a_block -= self.runs_a_block % parallel
        #: Runs that an optimizer walks together: all on a GPU; 8 on a CPU, where they were faster than 4 or 1.
        self.group_size = None if torch.device(device).type == "cuda" else min(8, self.runs_a_block)
        #: Runs whose graphs for Hessian products are held together: of about 10 GB on a GPU, by estimate.
        self.graph_size = max(1, (2**18 if self.group_size is None else rows) // (n + len(conditions)))
        self.set_physical(physical)

    def set_physical(self, values: Sequence[float]) -> None:
        """Set the swept parameter of every run (a curriculum does so between stages)."""
        self.physical = [float(v) for v in values]
        runs = len(self.physical)
        self.p = {name: torch.full((runs,), float(v), **self.like) for name, v in self.others.items()}
        self.p[self.system.physical] = torch.tensor(self.physical, **self.like)
        self.operator = self.system.operator(self.p)
        x = torch.tensor(self.grid.x, **self.like)
        self.target = self.system.initial(x, self.p).expand(runs, -1)
        direction = torch.tensor([self.system.derivative_direction], **self.like)
        self.condition_operator = Operator(direction.expand(runs, 2))
        self._exact: dict[str, np.ndarray] = {}

    def soft_density(self, name: str, c: Tensor, runs: slice | Tensor, points: slice) -> Tensor:
        """w phi(c): the penalty of the soft-constrained loss."""
        density = self.penalty(name)(c)
        return self.weight * density if name == "pde" and self.weight != 1 else density

    def penalty(self, name: str) -> Callable[[Tensor], Tensor]:
        """phi of one component."""
        if self.loss == "hybrid":
            return PENALTIES["huber" if name == "pde" else "mse"]
        return PENALTIES[self.loss]

    def residuals(self, params: Sequence[Tensor], block: Block) -> dict[str, Tensor]:
        """Residual vectors c_i of a block, (r, k) each, from the stacked parameters of its runs."""
        p = {name: value[block.runs] for name, value in self.p.items()}
        points = self.residual_points
        points = (points[block.runs] if len(points) > 1 else points)[:, block.points]
        n, operator = points.shape[1], self.operator.select(block.runs)
        if block.first:
            conditions = self.condition_points.expand(len(points), -1, -1)
            points = torch.cat([points, conditions], 1)
        u, lu = propagate(params, points, operator, n)
        found = {"pde": self.system.residual(u[:, :n], lu, p)}
        if block.first:
            ic, end = n + self.grid.num_x, n + self.grid.num_x + self.grid.num_t
            found |= self.system.conditions(u[:, n:ic], u[:, ic:end], u[:, end:], self._derivative(params, block.runs),
                                            self.target[block.runs])
        return found

    def _derivative(self, params: Sequence[Tensor], runs: slice | Tensor) -> Tensor | None:
        """The derivative that the conditions need, at their initial or boundary points."""
        if self.derivative is None:
            return None
        split = self.grid.num_x
        points = self.condition_points[:, :split] if self.derivative == "ic" else self.condition_points[:, split:]
        return propagate(params, points, self.condition_operator.select(runs))[1]

    def blocks(self, runs: Tensor) -> Iterator[Block]:
        """Walk runs, and the collocation points of few runs, in pieces."""
        total = self.residual_points.shape[1]
        for group in runs.split(self.runs_a_block):
            first, last = int(group[0]), int(group[-1])
            if last - first == len(group) - 1:
                group = slice(first, last + 1)
            for start in range(0, total, self.points_a_block):
                yield Block(group, slice(start, min(start + self.points_a_block, total)), start == 0)

    def block_losses(self, params: Sequence[Tensor], block: Block, density: Density) -> Tensor:
        """What a block adds to the losses of its runs, (r,)."""
        total = torch.zeros(len(params[0]), **self.like)
        for name, c in self.residuals(params, block).items():
            points, count = slice(None), c.shape[1]
            if name == "pde":
                points, count = block.points, self.residual_points.shape[1]
            total = total + density(name, c, block.runs, points).sum(1) / count
        if self.weight_decay and block.first:
            total = total + self.weight_decay * sum(p.square().flatten(1).sum(1) for p in params)
        return total

    def backward(self, params: Sequence[Tensor], runs: Tensor) -> Tensor:
        """Losses (R,) of the wanted runs, NaN elsewhere; their gradients are written to `.grad`, those of others kept.

        Forward and backward pass of a block follow each other, so that one block's activations are held at a time.
        """
        losses = torch.full((len(params[0]),), torch.nan, **self.like)
        for p in params:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        for block in self.blocks(runs):
            part = [p.detach()[block.runs].requires_grad_() for p in params]
            value = self.block_losses(part, block, self.density)
            grads = torch.autograd.grad(value.sum(), part)
            with torch.no_grad():
                losses[block.runs] = value.detach() if block.first else losses[block.runs] + value.detach()
                for p, g in zip(params, grads, strict=True):
                    p.grad[block.runs] = g if block.first else p.grad[block.runs] + g
        return losses

    def losses(self, params: Sequence[Tensor], runs: Tensor) -> Tensor:
        """Losses (R,) of the wanted runs, zero elsewhere, with the graph that a Hessian-vector product needs."""
        losses = torch.zeros(len(params[0]), **self.like)
        for block in self.blocks(runs):
            value = self.block_losses([p[block.runs] for p in params], block, self.density)
            rows = torch.arange(len(losses), device=losses.device)[block.runs]
            losses = losses.index_add(0, rows, value)
        return losses

    def training_losses(self, params: Sequence[Tensor], runs: Tensor) -> Tensor:
        """The same as reported, whatever is minimised: soft-constrained, with weights 1, at the data set's points."""
        kept = self.density, self.residual_points, self.weight, self.weight_decay
        self.density, self.residual_points, self.weight, self.weight_decay = self.soft_density, self.interior, 1.0, 0.0
        losses = self.losses(params, runs)
        self.density, self.residual_points, self.weight, self.weight_decay = kept
        return losses

    @torch.no_grad()
    def vectors(self, params: Sequence[Tensor], runs: Tensor | None = None) -> dict[str, Tensor]:
        """All residual vectors c_i of all runs (or these), (R, n_i), at the collocation points of the data set."""
        runs = torch.arange(len(params[0])) if runs is None else runs
        pieces: dict[str, list[list[Tensor]]] = {}
        kept, self.residual_points = self.residual_points, self.interior
        for block in self.blocks(runs):
            for name, c in self.residuals([p[block.runs] for p in params], block).items():
                rows = pieces.setdefault(name, [])
                if block.first:
                    rows.append([])
                rows[-1].append(c)
        self.residual_points = kept
        return {name: torch.cat([torch.cat(row, 1) for row in rows]) for name, rows in pieces.items()}

    def terms(self, params: Sequence[Tensor], runs: Tensor | None = None) -> dict[str, Tensor]:
        """The reported losses (R,): pde, bc, ic and their sum `loss`, with weights 1 whatever is minimised.

        `runs`: those wanted, default all; the others' are zero.
        """
        terms = {term: torch.zeros(len(params[0]), **self.like) for term in ("pde", "bc", "ic")}
        runs = torch.arange(len(params[0])) if runs is None else runs
        vectors = self.vectors(params, runs)
        for component in self.components:
            terms[component.term][runs] += self.penalty(component.name)(vectors[component.name]).mean(1)
        return {"loss": sum(terms.values()), **terms}

    @torch.no_grad()
    def errors(self, params: Sequence[Tensor], where: str = "test") -> tuple[np.ndarray, np.ndarray]:
        """Relative L1 and L2 errors (R,) on the test grid, or on the training points ("train")."""
        points = self._points(where)
        found = []
        for r in range(len(params[0])):  # one run at a time: its 13,031 test points are work enough
            at = torch.tensor(points[r % len(points)], **self.like)[None]
            found.append(propagate([p[r:r + 1] for p in params], at)[0][0].double().cpu().numpy())
        if where not in self._exact:
            self._exact[where] = np.stack([
                self.system.solution(*points[r % len(points)].T, {**self.others, self.system.physical: value})
                for r, value in enumerate(self.physical)])
        return relative_errors(np.stack(found), self._exact[where])

    def columns(self, params: Sequence[Tensor], rows: Tensor) -> dict[str, list[float]]:
        """Columns of the history, (R,) each: the loss and its terms (of these rows), and the test error."""
        terms = {name: value.tolist() for name, value in self.terms(params, rows).items()}
        return {"train_loss": terms["loss"], **{f"loss_{name}": terms[name] for name in ("pde", "bc", "ic")},
                "test_error": self.errors(params)[1].tolist()}

    def gradient_norms(self, params: Sequence[Tensor], rows: Tensor) -> list[float]:
        """|gradient| of what is minimised, of these rows, at their collocation points and weights as they are now."""
        kept, self.residual_points = self.residual_points, self.interior
        self.backward(params, rows)
        self.residual_points = kept
        return torch.cat([p.grad.flatten(1) for p in params], 1).norm(dim=1).tolist()

    def results(self, params: Sequence[Tensor]) -> dict[str, list[float]]:
        """Errors in both norms, on the test grid and at the training points."""
        found = {}
        for where in ("test", "train"):
            for norm, values in zip(("l1re", "l2re"), self.errors(params, where), strict=True):
                found[f"{where}_{norm}"] = values.tolist()
        return found

    def write_files(self, folder: Path, row: int) -> None:
        """The points trained and tested on, where asked for."""
        if self.save_points:
            points = self.interior[row % len(self.interior)].cpu().numpy()
            np.savez(folder / "points.npz", residual=points, test=self.grid.coarse().all_points())

    def _points(self, where: str) -> np.ndarray:
        """Test or training points as (R or 1, k, 2)."""
        if where == "test":
            return self.grid.coarse().all_points()[None]
        return np.stack([self.grid.all_points(interior) for interior in self.interior.double().cpu().numpy()])
