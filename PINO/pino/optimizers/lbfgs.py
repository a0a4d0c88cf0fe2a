# Twin of PINN/pinn/optimizers/lbfgs.py - edit there and run: python experiments/twins.py --fix
"""L-BFGS with a strong-Wolfe line search for R independent problems side by side.

Every parameter tensor is stacked on a leading `runs` axis and the closure returns R losses. Each run has its own
history, line search and stopping; with R = 1 the iterates are those of `torch.optim.LBFGS(line_search_fn=
"strong_wolfe")`, and R runs together give what R runs alone give. Two things differ from a loop over torch's optimizer:

* An evaluation serves every run that waits for one, whichever iteration or line-search trial it is at, so runs never
  wait for each other within a step. A line search is a generator: it yields a trial step, is sent the loss and slope
  there, and returns the accepted point.
* The direction comes from the compact representation of the inverse Hessian (Byrd, Nocedal and Schnabel 1994,
  eq. 3.1), d = -H g with

      H = gamma I + [S, gamma Y] [ R^-T (D + gamma Y^T Y) R^-1   -R^-T ] [ S^T       ]
                                 [ -R^-1                          0    ] [ gamma Y^T ]

  R the upper triangle of S^T Y, D its diagonal: algebraically the two-loop recursion, but three products with the
  history instead of 400 small operations. The m x m algebra is in float64 whatever the precision of the weights.

    optimizer = LBFGS(net.parameters(), history_size=100)
    losses = optimizer.step(closure)          # up to max_iter iterations of every run
"""

import math
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .line_search import Point, strong_wolfe

#: Why a run's last step ended. The first two say nothing about the run; the others end its call early.
REASONS = ("max_iter", "max_eval", "tolerance_grad", "tolerance_change", "no_descent", "line_search", "non_finite")


class LBFGS(torch.optim.Optimizer):
    """L-BFGS over the runs axis.

    Args:
        params: tensors with a common leading axis R.
        lr: first trial step of every line search (the very first is scaled by 1 / |g|_1, as torch does).
        max_iter: iterations a run makes in one `step`.
        max_eval: evaluations after which a run's step ends; default 1.25 max_iter.
        tolerance_grad: a run's step ends when max |g| is not above this.
        tolerance_change: it ends when the loss or max |t d| changes by less, or the slope g . d is above minus this.
        history_size: pairs (s, y) kept.
        group_size: runs that are walked together, default all. On a CPU a few share most of what there is to share.
        restarts: a run whose line search finds no step forgets its history, and its next step begins with steepest
            descent; only if that finds none either, it has ended. torch's stays where it is.

    Attributes:
        active: (R,) bool, the runs that `step` advances; set it to leave runs out. While the closure is called it marks
            the runs whose losses and gradients are wanted; others may be left as they are.
        limit: (R,) iterations in all at which a run's step ends, or None.
        state of the first parameter: every tensor has leading axis R; `n_iter` and `evaluations` count since the start.
    """

    def __init__(self, params: Iterable[Tensor], lr: float = 1.0, max_iter: int = 20, max_eval: int | None = None,
                 tolerance_grad: float = 1e-7, tolerance_change: float = 1e-9, history_size: int = 100,
                 group_size: int | None = None, restarts: bool = False) -> None:
        if lr <= 0 or max_iter < 1 or history_size < 1:
            raise ValueError(f"lr, max_iter and history_size must be positive, got {lr}, {max_iter}, {history_size}")
        super().__init__(params, dict(lr=lr, max_iter=max_iter, max_eval=max_eval, tolerance_grad=tolerance_grad,
                                      tolerance_change=tolerance_change, history_size=history_size))
        if len(self.param_groups) != 1:
            raise ValueError("LBFGS takes one parameter group")
        self._params = self.param_groups[0]["params"]
        first = self._params[0]
        self._sizes = [p[0].numel() for p in self._params]
        self.active = torch.ones(len(first), dtype=torch.bool)
        self.limit: Tensor | None = None
        self.group_size, self.restarts = group_size or len(first), restarts
        self._views: tuple[int, int, Sequence[Sequence[Tensor]]] | None = None
        self.state[first].update(self._fresh_state())

    def _fresh_state(self) -> dict[str, Tensor]:
        first, m = self._params[0], self.param_groups[0]["history_size"]
        runs, size = len(first), sum(p[0].numel() for p in self._params)
        like = dict(dtype=first.dtype, device=first.device)
        host = dict(dtype=torch.float64)
        return {
            "n_iter": torch.zeros(runs, dtype=torch.int64),
            "evaluations": torch.zeros(runs, dtype=torch.int64),
            "stop": torch.zeros(runs, dtype=torch.int64),  # index into REASONS
            "moved": torch.ones(runs, dtype=torch.bool),  # did the last step change the run's weights?
            "pairs": torch.zeros(runs, dtype=torch.int64),  # pairs ever stored: the newest is in slot (pairs - 1) % m
            "gamma": torch.ones(runs, **host),
            "t": torch.zeros(runs, **host),
            "direction": torch.zeros(runs, size, **like),
            "previous_grad": torch.zeros(runs, size, **like),
            "history": torch.zeros(runs, 2, m, size, **like),  # S and Y, a ring of m slots
            # R, s_i . y_j for i not newer than j, else zero. Oldest pair first and the newest last, moved up by one
            # with every pair. Rows and columns not in use are those of the identity: the matrix stays regular, and
            # they meet zeros only.
            "sy": torch.eye(m, **host).repeat(runs, 1, 1),
            "yy": torch.zeros(runs, m, m, **host),  # Y^T Y in the order of the ring
        }

    @property
    def run_state(self) -> dict[str, Tensor]:
        """All state, by name; the first axis is the run."""
        return self.state[self._params[0]]

    def stop_reason(self, run: int) -> str:
        """Why this run's last step ended, one of `REASONS`."""
        return REASONS[int(self.run_state["stop"][run])]

    def ended(self, run: int) -> str:
        """Why the run cannot go on, "" when it can: no step is possible from where it is."""
        reason = self.stop_reason(run)
        final = reason in ("tolerance_grad", "no_descent", "non_finite") or not self.run_state["moved"][run]
        return reason if final else ""

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor]) -> Tensor:
        """Up to `max_iter` iterations of every active run.

        Args:
            closure: clears the gradients, evaluates, calls backward on the sum, returns the losses (R,).

        Returns:
            (R,) losses after the step; NaN for runs that are not active.
        """
        wanted = self.active.clone()
        losses = torch.full((len(wanted),), math.nan, dtype=torch.float64)
        todo = wanted.nonzero().flatten().tolist()
        for k in range(0, len(todo), self.group_size):
            group = todo[k:k + self.group_size]
            losses[group] = self._walk(group, torch.enable_grad()(closure))
        self.active = wanted
        return losses.to(self._params[0].dtype)

    def _walk(self, group: list[int], closure: Callable[[], Tensor]) -> Tensor:
        """One step of the runs in `group`; returns their losses (len(group),) in float64."""
        tolerance = self.param_groups[0]["tolerance_change"]
        x = self._gather(group)
        losses, grads = self._evaluate(closure, group)
        largest = grads.abs().amax(1).tolist()
        runs = [_Run(r, x[k], losses[k].item(), grads[k]) for k, r in enumerate(group)]
        fresh = [run for run, size in zip(runs, largest, strict=True) if self._begin(run, size)]
        waiting: list[_Run] = []
        while fresh or waiting:
            if fresh:  # a new direction, and the first trial step along it
                slopes, steps, scales = self._directions(fresh)
                for run, slope, step, scale in zip(fresh, slopes, steps, scales, strict=True):
                    run.iterations += 1
                    if not slope <= -tolerance:
                        self._stop(run, "no_descent")
                        continue
                    run.scale = scale
                    run.search = strong_wolfe(Point(0.0, run.loss, slope, run.grad), step, scale, tolerance)
                    run.t = next(run.search)
                    waiting.append(run)
            searching, accepted = [], []
            for run, point in zip(waiting, self._try(waiting, closure), strict=True):
                run.evaluations += 1  # one evaluation for all, whatever trial each of them is at
                try:
                    run.t = run.search.send(point)
                    searching.append(run)
                except StopIteration as end:
                    accepted.append((run, end.value))
            fresh, waiting = self._accept(accepted), searching
        self._scatter(group, torch.stack([run.x for run in runs]))
        self.run_state["evaluations"][group] += torch.tensor([run.evaluations for run in runs])
        return torch.tensor([run.loss for run in runs], dtype=torch.float64)

    def _begin(self, run: "_Run", largest: float) -> bool:
        """Can this run start to iterate at all? `largest` is max |g|."""
        self.run_state["moved"][run.index] = False
        if not (math.isfinite(run.loss) and math.isfinite(largest)):
            return self._stop(run, "non_finite")
        return largest > self.param_groups[0]["tolerance_grad"] or self._stop(run, "tolerance_grad")

    def _try(self, waiting: list["_Run"], closure: Callable[[], Tensor]) -> list[Point]:
        """The trial points of all waiting runs, by one call of the closure."""
        if not waiting:
            return []
        index = [run.index for run in waiting]
        d = self.run_state["direction"][_rows(index)]
        t = torch.tensor([run.t for run in waiting], dtype=d.dtype).to(d.device)
        self._scatter(index, torch.addcmul(torch.stack([run.x for run in waiting]), t[:, None], d))
        losses, grads = self._evaluate(closure, index)
        slopes = (grads * d).sum(1).tolist()
        return [Point(run.t, loss, slope, grad)
                for run, loss, slope, grad in zip(waiting, losses.tolist(), slopes, grads, strict=True)]

    def _accept(self, accepted: list[tuple["_Run", Point]]) -> list["_Run"]:
        """Take the accepted steps; returns the runs whose call goes on."""
        if not accepted:
            return []
        options, state = self.param_groups[0], self.run_state
        tolerance, max_eval = options["tolerance_change"], options["max_eval"] or options["max_iter"] * 5 // 4
        rows = _rows([run.index for run, _ in accepted])
        before = torch.stack([run.x for run, _ in accepted])
        steps = torch.tensor([point.t for _, point in accepted], dtype=torch.float64)
        x = torch.addcmul(before, steps.to(before)[:, None], state["direction"][rows])
        moved = (x != before).any(1).cpu()
        largest = torch.stack([point.grad for _, point in accepted]).abs().amax(1).tolist()
        state["t"][rows] = steps
        state["moved"][rows] |= moved
        at_limit = [False] * len(accepted)
        if self.limit is not None:
            at_limit = (state["n_iter"][rows] >= self.limit[rows]).tolist()
        going = []
        for k, ((run, point), weights, has_moved) in enumerate(zip(accepted, x.unbind(), moved.tolist(), strict=True)):
            change, run.loss, run.grad, run.x = abs(point.loss - run.loss), point.loss, point.grad, weights
            if not has_moved:
                self._stop(run, "line_search")
                if self.restarts and state["pairs"][run.index]:
                    self._forget(run.index)
            elif largest[k] <= options["tolerance_grad"]:
                self._stop(run, "tolerance_grad")
            elif change < tolerance or point.t * run.scale <= tolerance:
                self._stop(run, "tolerance_change")
            elif run.iterations >= options["max_iter"] or at_limit[k]:
                self._stop(run, "max_iter")
            elif run.evaluations >= max_eval:
                self._stop(run, "max_eval")
            else:
                going.append(run)
        return going

    def _forget(self, run: int) -> None:
        """Drop the history of a run; its next step is not its last, whatever comes of this one."""
        state = self.run_state
        for name in ("pairs", "history", "yy"):
            state[name][run] = 0
        state["sy"][run] = torch.eye(len(state["sy"][run]), dtype=torch.float64)
        state["gamma"][run] = 1.0
        state["moved"][run] = True

    def _stop(self, run: "_Run", reason: str) -> bool:
        self.run_state["stop"][run.index] = REASONS.index(reason)
        return False

    def _directions(self, runs: list["_Run"]) -> tuple[list[float], list[float], list[float]]:
        """Store the pair of the last step, then compute d = -H g, of each run; slope, first trial step and max |d|."""
        options, state = self.param_groups[0], self.run_state
        index = [run.index for run in runs]
        rows = _rows(index)
        grad = torch.stack([run.grad for run in runs])
        y = grad - state["previous_grad"][rows]
        s = state["direction"][rows] * state["t"][rows].to(grad)[:, None]
        ys, yy = torch.stack([(y * s).sum(1), (y * y).sum(1)]).double().cpu()
        stored = (ys > 1e-10).nonzero().flatten().tolist()
        if stored:
            pairs = (s, y, ys / yy) if len(stored) == len(index) else (s[stored], y[stored], (ys / yy)[stored])
            self._store([index[k] for k in stored], *pairs)
        d = -state["gamma"][rows, None].to(grad) * grad
        if state["pairs"][rows].any():
            with_y, with_g = self._history_times(index, y, grad)
            if stored:
                self._update_products([index[k] for k in stored], with_y[stored])
            d -= self._correction(index, with_g)
        state["n_iter"][rows] += 1
        state["direction"][rows] = d
        state["previous_grad"][rows] = grad
        slopes, sizes, scales = torch.stack([(grad * d).sum(1), grad.abs().sum(1), d.abs().amax(1)]).tolist()
        first = state["n_iter"][rows] == 1
        steps = [options["lr"] * (min(1.0, 1.0 / size) if new else 1.0)
                 for size, new in zip(sizes, first.tolist(), strict=True)]
        return slopes, steps, scales

    def _store(self, index: list[int], s: Tensor, y: Tensor, gamma: Tensor) -> None:
        """Put the pairs (s, y) of these runs into their rings; gamma is y . s / y . y."""
        state, rows = self.run_state, _rows(index)
        slot = state["pairs"][rows] % self.param_groups[0]["history_size"]
        state["history"][index, 0, slot], state["history"][index, 1, slot] = s, y
        state["pairs"][rows] += 1
        state["gamma"][rows] = gamma

    def _update_products(self, index: list[int], products: Tensor) -> None:
        """Take the inner products of all pairs with the newest y, (r, 2, m), into the m x m matrices of these runs."""
        state, rows = self.run_state, _rows(index)
        order = self._order(rows)
        newest, of_y = order[:, -1], products[:, 1]
        state["yy"][index, newest], state["yy"][index, :, newest] = of_y, of_y
        matrix = state["sy"][rows]
        matrix[:, :-1, :-1] = matrix[:, 1:, 1:].clone()
        matrix[:, :, -1] = products[:, 0].gather(1, order)
        if not isinstance(rows, slice):  # a copy, not a view
            state["sy"][rows] = matrix

    def _correction(self, index: list[int], products: Tensor) -> Tensor:
        """(H - gamma I) g of each run, (r, p), by the compact representation, from S^T g and Y^T g, (r, 2, m)."""
        state, rows = self.run_state, _rows(index)
        gamma, order, sy = state["gamma"][rows, None], self._order(rows), state["sy"][rows]
        sg, yg = products.unbind(1)
        w = torch.linalg.solve_triangular(sy, sg.gather(1, order)[..., None], upper=True)[..., 0]
        ring = torch.zeros_like(products)
        ring[:, 1].scatter_(1, order, w)
        by_y = torch.bmm(state["yy"][rows], ring[:, 1, :, None])[..., 0] - yg
        u = sy.diagonal(dim1=1, dim2=2) * w + gamma * by_y.gather(1, order)
        u = torch.linalg.solve_triangular(sy.mT, u[..., None], upper=False)[..., 0]
        ring[:, 0].scatter_(1, order, u)
        ring[:, 1] *= -gamma
        return self._combine_history(index, ring)

    def _order(self, rows: slice | Tensor) -> Tensor:
        """Slots of the ring from the oldest pair to the newest, (r, m); empty slots come first."""
        m = self.param_groups[0]["history_size"]
        return (self.run_state["pairs"][rows, None] + torch.arange(m)) % m

    def _history_times(self, index: list[int], *vectors: Tensor) -> Tensor:
        """S^T v and Y^T v of each run for vectors v (r, p), in the order of the ring, (vectors, r, 2, m)."""
        history, used = self.run_state["history"], self._used(index)
        if history.is_cuda:
            products = history[_rows(index)].flatten(1, 2) @ torch.stack(vectors, 2)
            return products.permute(2, 0, 1).unflatten(2, (2, -1)).double().cpu()
        products = torch.zeros(len(vectors), len(index), 2 * history.shape[2], dtype=history.dtype)
        columns = [[(v.unbind(), out[:, where].unbind()) for v, out in zip(vectors, products, strict=True)]
                   for where in self._columns(used)]
        matrices = self._matrices(used)
        for k, r in enumerate(index):  # on a CPU matrix-vector products beat one batched product,
            for matrix, part in zip(matrices[r], columns, strict=True):  # and all with one matrix before the next is
                for v, out in part:  # read
                    torch.mv(matrix, v[k], out=out[k])
        return products.unflatten(2, (2, -1)).double()

    def _combine_history(self, index: list[int], coefficients: Tensor) -> Tensor:
        """S u + Y w of each run, (r, p), from coefficients (r, 2, m) in the order of the ring."""
        history, used = self.run_state["history"], self._used(index)
        coefficients = coefficients.to(history).flatten(1)
        if history.is_cuda:
            return (coefficients[:, None] @ history[_rows(index)].flatten(1, 2))[:, 0]
        combined = history.new_zeros(len(index), history.shape[3])
        parts = [coefficients[:, where].unbind() for where in self._columns(used)]
        matrices = self._matrices(used)
        for k, (r, row) in enumerate(zip(index, combined.unbind(), strict=True)):
            for matrix, part in zip(matrices[r], parts, strict=True):
                row.addmv_(matrix.mT, part[k])
        return combined

    def _matrices(self, used: int) -> Sequence[Sequence[Tensor]]:
        """What is in use of each run's history: S and Y, or both as one matrix when the ring is full.

        The views are kept, as to make them costs more than a small product.
        """
        history = self.run_state["history"]
        if self._views is None or self._views[:2] != (used, history.data_ptr()):
            full = used == history.shape[2]
            views = [[pair.flatten(0, 1)] if full else list(pair[:, :used]) for pair in history]
            self._views = used, history.data_ptr(), views
        return self._views[2]

    def _columns(self, used: int) -> list[slice]:
        """Where those matrices' rows are among all 2 m rows of the history."""
        m = self.param_groups[0]["history_size"]
        return [slice(2 * m)] if used == m else [slice(used), slice(m, m + used)]

    def _used(self, index: list[int]) -> int:
        """Slots in use, at most."""
        return min(int(self.run_state["pairs"][_rows(index)].max()), self.param_groups[0]["history_size"])

    def _evaluate(self, closure: Callable[[], Tensor], index: list[int]) -> tuple[Tensor, Tensor]:
        """Losses (r,) in float64 on the host and gradients (r, p) of the runs `index`, at the current parameters."""
        self.active = torch.zeros_like(self.active)
        self.active[index] = True
        rows = _rows(index)
        losses = closure().detach()[rows].double().cpu()
        return losses, torch.cat([p.grad[rows].flatten(1) for p in self._params], 1)

    def _gather(self, index: list[int]) -> Tensor:
        return torch.cat([p[_rows(index)].flatten(1) for p in self._params], 1)

    def _scatter(self, index: list[int], x: Tensor) -> None:
        """Write weights (r, p) into the parameters."""
        rows = _rows(index)
        split = zip(self._params, x.split(self._sizes, 1), strict=True)
        parts = [part.view(len(index), *p.shape[1:]) for p, part in split]
        if isinstance(rows, slice):
            torch._foreach_copy_([p[rows] for p in self._params], parts)
            return
        for p, part in zip(self._params, parts, strict=True):
            p[rows] = part


@dataclass
class _Run:
    """Where one run stands within a step."""

    index: int
    x: Tensor
    loss: float
    grad: Tensor
    iterations: int = 0
    evaluations: int = 1
    search: Generator[float, Point, Point] | None = None
    t: float = 0.0  # the trial that waits for its evaluation
    scale: float = 0.0  # max |d|


def _rows(index: list[int]) -> slice | Tensor:
    """Neighbouring rows as a slice, which copies nothing; a tensor indexes faster than a list."""
    return slice(index[0], index[-1] + 1) if index == list(range(index[0], index[-1] + 1)) else torch.tensor(index)
