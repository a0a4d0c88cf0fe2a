# Twin of PINN/pinn/optimizers/nncg.py - edit there and run: python experiments/twins.py --fix
"""NysNewton-CG: damped Newton steps by preconditioned conjugate gradients, R runs side by side.

For each run, with loss L, gradient g and Hessian H at its p weights theta, one step is

    U Lambda U^T ~ H       randomized sketch of rank s, renewed every `update_freq` steps of the run
    d ~ (H + mu I)^-1 g    conjugate gradients from the last d, preconditioned with the sketch
    theta <- theta - t d   t = lr, lr/2, ... until L(theta - t d) <= L(theta) - 0.1 t g.d (Armijo)

Parameters are (R, ...), R networks stacked. The Hessian of the summed loss is block-diagonal, so one double-backward
gives H v of all runs; the rest (sketch, CG, line search, damping, random stream) is per run.

    losses = NNCG(model.parameters(), rank=50, mu=1e-2, seeds=seeds).step(closure)     # closure() -> losses (R,)

Sources: Rathore, Lei, Frangella, Lu, Udell 2024 (arXiv 2402.01868); for the sketch and its preconditioner Frangella,
Tropp, Udell 2023 (SIAM J. Matrix Anal. Appl. 44(2)).
"""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from torch import Tensor

from ..hessian import Gradient, dot, flatten, hessian_product, unflatten
from .cg import TOLERANCE, Solution, pcg
from .nystrom import SKETCH, precondition, sketch_hessian

ARMIJO, SHRINK = 0.1, 0.5  # sufficient decrease; next trial step
RAISE, DECAY = 10.0, 0.5  # of mu after a failed step, after a good one

# What the integers in `NNCG.info` stand for: an index into these, and into CG_EXIT of cg.py.
STOP = ("", "tolerance_grad", "line_search", "non_finite")
DIRECTION = ("cg", "sketch", "gradient")
Losses = Tensor | Iterable[Tensor]  # (R,), or parts that add up to them

COUNTS = ("n_iter", "stop", "failures", "sketch", "cg_iterations", "cg_exit", "direction", "hvps", "loss_evaluations")
VALUES = ("loss", "new_loss", "grad_norm", "max_grad", "slope", "step_size", "cg_residual")


def descent(g: Tensor, solution: Solution, newton: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """First of CG iterate, sketched Newton direction and gradient that is finite with g . d > 0, each (r, p).

    The CG iterate is no candidate where the very first direction failed. Returns d (r, p), slope g . d (r,) and (r,)
    index into DIRECTION.
    """
    d, slope, kind = g, dot(g, g), torch.full_like(solution.exit, DIRECTION.index("gradient"))
    moved = (solution.iterations > 0) | (solution.exit == TOLERANCE)
    for name, candidate in (("sketch", newton), ("cg", solution.x)):
        s = dot(g, candidate)
        good = (s > 0) & s.isfinite() & (moved | (name != "cg"))
        d, slope = torch.where(good[:, None], candidate, d), torch.where(good, s, slope)
        kind = torch.where(good, DIRECTION.index(name), kind)
    return d, slope, kind


def armijo(evaluate: Callable[[Tensor, Tensor], Tensor], theta: Tensor, d: Tensor, loss: Tensor, slope: Tensor,
           lr: float, max_trials: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Step back from theta - lr d until the loss is below loss - ARMIJO t slope, each run by itself.

    `evaluate` maps points (r, p) and pending (r,) bool to losses (r,) float64, right where pending; theta and d are
    (r, p), loss (at theta) and slope (g . d) are (r,) float64; at most max_trials losses are asked for.
    Returns points (r, p), t (r,), losses (r,) there and trials (r,). Where no trial was good: theta, 0, its loss.
    """
    points, size, best = theta, torch.zeros_like(loss), loss
    pending = torch.ones_like(loss, dtype=torch.bool)
    trials = torch.zeros_like(loss, dtype=torch.int64)
    for k in range(max_trials):
        t = lr * SHRINK**k
        candidate = torch.where(pending[:, None], theta - t * d, points)
        trial = evaluate(candidate, pending)
        trials += pending
        # Below the loss as well: the wanted decrease may round to nothing. NaN passes neither.
        good = pending & (trial <= loss - ARMIJO * t * slope) & (trial < loss)
        points = torch.where(good[:, None], candidate, points)
        size, best = torch.where(good, t, size), torch.where(good, trial, best)
        pending &= ~good
        if not pending.any():
            break
    return points, size, best, trials


class NNCG(torch.optim.Optimizer):
    """NysNewton-CG over the runs axis.

    Damping: mu is the user's while steps succeed, as in the paper. A step without decrease leaves the weights alone,
    multiplies the run's mu by 10 up to max_mu and renews its sketch; each success halves mu down to the user's.

    Args:
        params: real tensors of one dtype and device with a common leading axis R.
        lr: first step size tried; max_trials: losses a line search may evaluate.
        rank: s, at most p; update_freq: steps of a run between sketches.
        mu, max_mu: damping and its largest value.
        cg_tol, cg_max_iter: of CG, residual relative to the gradient, and iterations a step.
        chunk_size: products of a sketch done at once by vmap: faster on a GPU, more memory.
        tolerance_grad, patience: a run is finished when max |g| is not above the former, or after so many consecutive
            failed steps at max_mu.
        seeds: of the sketches, one a run wherever it stands in the stack; default 0 ... R-1.
        sketch: "shifted" (Nystrom, Rayleigh-Ritz where that is unsafe) or "rayleigh_ritz".

    Attributes:
        active: (R,) bool, the runs that `step` advances; the others are neither changed nor waited for. While the
            closure is called it marks the runs whose losses are wanted.
        state of the first parameter: tensors with leading axis R, all that a resumed run needs.

    Raises:
        ValueError: an argument out of range, parameters not stacked alike, or seeds not one a run.
    """

    wants_graph = True  # the closure returns losses with graph and calls no backward

    def __init__(self, params: Iterable[Tensor], lr: float = 1.0, rank: int = 50, mu: float = 1e-2,
                 update_freq: int = 20, cg_tol: float = 1e-3, cg_max_iter: int = 1000, chunk_size: int = 1,
                 max_trials: int = 30, max_mu: float = 100.0, tolerance_grad: float = 1e-7, patience: int = 2,
                 seeds: Sequence[int] | None = None, sketch: str = "shifted") -> None:
        counts = dict(rank=rank, update_freq=update_freq, cg_max_iter=cg_max_iter, chunk_size=chunk_size,
                      max_trials=max_trials, patience=patience)
        if min(counts.values()) < 1:
            raise ValueError(f"NNCG: must be at least 1: {counts}")
        if not (lr > 0 and 0 < mu <= max_mu and cg_tol >= 0 and tolerance_grad >= 0):
            raise ValueError("NNCG: lr > 0, 0 < mu <= max_mu and tolerances >= 0 wanted, got "
                             f"{lr=}, {mu=}, {max_mu=}, {cg_tol=}, {tolerance_grad=}")
        if sketch not in SKETCH[1:]:
            raise ValueError(f"NNCG: sketch must be one of {SKETCH[1:]}, got {sketch!r}")
        super().__init__(params, dict(lr=lr, mu=mu, cg_tol=cg_tol, max_mu=max_mu, sketch=sketch,
                                      tolerance_grad=tolerance_grad, **counts))
        self._params = self.param_groups[0]["params"]
        first = self._params[0]
        kinds = {(p.shape[:1], p.dtype, p.device) for p in self._params}
        if len(self.param_groups) > 1 or len(kinds) > 1 or first.is_complex() or not first.dim():
            raise ValueError("NNCG takes one group of real parameters with a common leading axis")
        seeds = range(len(first)) if seeds is None else seeds
        if len(seeds) != len(first):
            raise ValueError(f"NNCG: {len(seeds)} seeds for {len(first)} runs")
        self.active = torch.ones(len(first), dtype=torch.bool)
        self.run_state.update(self._fresh_state(seeds))

    def _fresh_state(self, seeds: Sequence[int]) -> dict[str, Tensor]:
        first, runs = self._params[0], len(self._params[0])
        size = sum(p[0].numel() for p in self._params)
        rank = min(self.param_groups[0]["rank"], size)
        # Spread, so that the same seed elsewhere (initial weights) does not give the same numbers.
        streams = [torch.Generator().manual_seed((int(s) + 1) * 0x9E3779B97F4A7C15 % 2**63) for s in seeds]
        return {
            "U": first.new_zeros(runs, size, rank),
            "Lambda": first.new_zeros(runs, rank, dtype=torch.float64),
            "d_prev": first.new_zeros(runs, size),
            "generator": torch.stack([g.get_state() for g in streams]),
            "refresh": torch.ones(runs, dtype=torch.bool),  # a new sketch at the next step?
            "mu": torch.full((runs,), self.param_groups[0]["mu"], dtype=torch.float64),
            **{name: torch.zeros(runs, dtype=torch.int64) for name in COUNTS},
            **{name: torch.full((runs,), math.nan, dtype=torch.float64) for name in VALUES},
        }

    @property
    def run_state(self) -> dict[str, Tensor]:
        """All state, by name; the first axis is the run."""
        return self.state[self._params[0]]

    @property
    def info(self) -> dict[str, Tensor]:
        """What the last step of each run did, by name, (R,) on the host.

        loss, grad_norm, max_grad before it; slope g . d; step_size (0: none); new_loss; cg_residual (relative),
        cg_iterations, cg_exit, direction, sketch, stop; mu of the next step; failures (consecutive, at max_mu). Since
        the start: n_iter (steps) and, as if the run were alone, hvps and loss_evaluations (a gradient counts as one).
        """
        return {name: self.run_state[name] for name in ("mu", *COUNTS, *VALUES)}

    def stop_reason(self, run: int) -> str:
        """Why this run's last step says that it should not go on, or "".

        "tolerance_grad" and "non_finite" (loss or gradient): at its start, without a step; "line_search": no decrease
        in `patience` consecutive steps at max_mu. A run that is active nevertheless is tried again.
        """
        return STOP[int(self.run_state["stop"][run])]

    ended = stop_reason

    def columns(self) -> dict[str, list[float]]:
        """What a history shows of the last step of each run."""
        info = self.info
        return {name: info[name].tolist() for name in ("step_size", "cg_iterations", "cg_residual", "mu")}

    @torch.no_grad()
    def step(self, closure: Callable[[], Losses]) -> Tensor:
        """One Newton step of every active run.

        Args:
            closure: returns the losses (R,) at the parameters as they are, with graph unless under `torch.no_grad()`;
                it calls no backward. Losses of runs not in `active` may be anything. For losses that are sums of parts,
                too large to keep the graph of all: an iterable of these, (R,) each, that evaluates them anew whenever
                it is walked.

        Returns:
            (R,) losses after the step; NaN for runs that are not active.
        """
        wanted, active = self.active, self.active.cpu().clone()
        self.active = active
        try:
            if active.any():
                self._advance(closure)
        finally:
            self.active = wanted
        return torch.where(active, self.run_state["new_loss"], math.nan).to(self._params[0])

    def _advance(self, closure: Callable[[], Losses]) -> None:
        state, group = self.run_state, self.param_groups[0]
        rows, g, theta, found, newton = self._solve(closure)
        if not len(rows):
            return
        index = rows.to(g.device)
        d, slope, kind = descent(g, found, newton)

        def evaluate(points: Tensor, pending: Tensor) -> Tensor:
            self._write(index, points)
            self.active = torch.zeros_like(self.active).index_copy(0, rows, pending.cpu())
            losses = closure()
            return (losses if isinstance(losses, Tensor) else sum(losses))[index].double()

        points, size, best, trials = armijo(evaluate, theta, d, state["loss"][rows].to(g.device), slope,
                                            group["lr"], group["max_trials"])
        self._write(index, points)
        state["d_prev"][index] = torch.where((size > 0)[:, None], d, 0.0)
        self._record(rows, new_loss=best, slope=slope, step_size=size, direction=kind,
                     cg_iterations=found.iterations, cg_residual=found.residual, cg_exit=found.exit)
        state["hvps"][rows] += found.products.cpu()
        state["loss_evaluations"][rows] += trials.cpu()
        state["n_iter"][rows] += 1
        mu, failed = state["mu"][rows], (size == 0).cpu()
        failures = torch.where(failed & (mu >= group["max_mu"]), state["failures"][rows] + 1, 0)
        mu = torch.where(failed, (RAISE * mu).clamp(max=group["max_mu"]), (DECAY * mu).clamp(min=group["mu"]))
        self._record(rows, mu=mu, failures=failures, refresh=failed,
                     stop=(failures >= group["patience"]) * STOP.index("line_search"))

    def _solve(self, closure: Callable[[], Losses]) -> tuple[Tensor, Tensor, Tensor, Solution, Tensor]:
        """Runs that can go on (r,) and their g, theta, CG solution, sketched Newton direction.

        The graph of the gradient is gone when this returns: the line search needs none.
        """
        state, group, params = self.run_state, self.param_groups[0], self._params
        gradients, gradient = self._gradient(closure)
        rows = (self.active & (state["stop"] == 0)).nonzero().flatten()
        index = rows.to(gradient.device)
        g, theta = gradient[index], torch.cat([p[index].flatten(1) for p in params], 1)
        if not len(rows):
            return rows, g, theta, None, None
        due = state["refresh"][rows] | (state["n_iter"][rows] % group["update_freq"] == 0)
        if due.any():
            self._renew_sketches(gradients, rows[due])
        u, values, mu = state["U"][index], state["Lambda"][index], state["mu"][rows].to(g.device)
        product = hessian_product(gradients, params, index)
        found = pcg(lambda v: product(v) + mu.to(v.dtype)[:, None] * v,
                    lambda v: precondition(v, u, values, mu), g, state["d_prev"][index], group["cg_tol"],
                    group["cg_max_iter"])
        # P is the identity off the sketch; H + mu is approximated there by lambda_s + mu.
        newton = precondition(g, u, values, mu) / (values[:, -1:] + mu[:, None]).to(g.dtype)
        return rows, g, theta, found, newton

    def _gradient(self, closure: Callable[[], Losses]) -> tuple[Callable[[], Iterable[Gradient]], Tensor]:
        """Gradients with graph, as `hessian_product` takes them, and flat (R, p); notes which runs cannot go on."""
        kept: list[Gradient] = []
        with torch.enable_grad():
            parts = closure()
            whole = isinstance(parts, Tensor)
            losses, gradient = 0.0, 0.0
            for part in [parts] if whole else parts:
                graph = self._graph(part, create=whole)
                losses, gradient = losses + part.detach(), gradient + flatten(graph, self._params).detach()
                kept += [graph] * whole
                del part, graph  # not while the next part is evaluated
        usable = self.active.to(losses.device) & losses.isfinite()
        norm, largest = dot(gradient, gradient).sqrt(), gradient.abs().amax(1)
        flat = largest <= self.param_groups[0]["tolerance_grad"]
        stop = torch.where(usable & norm.isfinite(), flat * STOP.index("tolerance_grad"), STOP.index("non_finite"))
        rows = self.active.nonzero().flatten()
        index = rows.to(losses.device)
        loss, none = losses[index], torch.zeros_like(index)
        self._record(rows, loss=loss, new_loss=loss, grad_norm=norm[index], max_grad=largest[index],
                     stop=stop[index], slope=none, step_size=none, cg_iterations=none)
        self.run_state["loss_evaluations"][rows] += 1
        return (lambda: kept) if whole else partial(map, self._graph, parts), gradient

    def _graph(self, losses: Tensor, create: bool = True) -> Gradient:
        """Gradient of the summed losses (R,) of active runs; with its graph, unless not to `create` it."""
        if losses.shape != self.active.shape:
            raise ValueError(f"closure: losses ({len(self.active)},) wanted, got {losses.shape}")
        usable = self.active.to(losses.device) & losses.isfinite()
        # where, not a product: 0 * NaN is NaN.
        return torch.autograd.grad(torch.where(usable, losses, 0.0).sum(), self._params, create_graph=create,
                                   allow_unused=True)

    def _renew_sketches(self, gradients: Callable[[], Iterable[Gradient]], rows: Tensor) -> None:
        state, group, first = self.run_state, self.param_groups[0], self._params[0]
        omega = []
        for run in rows.tolist():  # host, float64: the same on every device, at every precision
            generator = torch.Generator()
            generator.set_state(state["generator"][run].clone())  # torch misreads a view with an offset
            omega.append(torch.randn(state["U"].shape[1:], generator=generator, dtype=torch.float64))
            state["generator"][run] = generator.get_state()
        index = rows.to(first.device)
        product = hessian_product(gradients, self._params, index)

        def columnwise(matrix: Tensor) -> Tensor:
            chunks = matrix.to(first.dtype).permute(2, 0, 1).split(group["chunk_size"])
            images = [product(c) if len(c) > 1 else product(c[0])[None] for c in chunks]
            return torch.cat(images).permute(1, 2, 0).double()

        u, values, kind, spent = sketch_hessian(columnwise, torch.stack(omega).to(first.device),
                                                torch.finfo(first.dtype).eps, group["sketch"])
        state["U"][index], state["Lambda"][index] = u.to(first.dtype), values
        state["hvps"][rows] += spent.cpu()
        self._record(rows, sketch=kind)

    def _record(self, rows: Tensor, **values: Tensor) -> None:
        for name, value in values.items():
            self.run_state[name][rows] = value.to("cpu", self.run_state[name].dtype)

    def _write(self, index: Tensor, points: Tensor) -> None:
        """Weights (r, p) into these rows of the parameters, and no others."""
        for p, part in zip(self._params, unflatten(points, self._params), strict=True):
            p.index_copy_(0, index, part)
