# Twin of PINN/pinn/optimizers/adam.py - edit there and run: python experiments/twins.py --fix
"""Adam (Kingma and Ba 2015) for R independent problems side by side.

    m <- b1 m + (1 - b1) g        v <- b2 v + (1 - b2) g^2
    theta <- theta - lr (m / (1 - b1^k)) / (sqrt(v / (1 - b2^k)) + eps)        k = 1, 2, ... updates of the run

The iterates of a run are those of `torch.optim.Adam`. Each run counts its own updates, so it can be left out of a step,
and its learning rate can decay by a factor every so many of them.
"""

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor


class FirstOrder(torch.optim.Optimizer):
    """Updates from the gradient alone; subclasses say which.

    Args:
        params: tensors with a common leading axis R.
        lr: learning rate.
        decay: factor on the learning rate after every `decay_every` updates of a run.
        decay_every: (R,) updates, default: never.
        max_iter: updates in one `step`.

    Attributes:
        active: (R,) bool, the runs that `step` advances. While the closure is called it marks those that are wanted.
        limit: (R,) updates in all at which a run's step ends, or None.
        run_state: all state by name, tensors with leading axis R; `n_iter` counts updates.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, decay: float = 1.0,
                 decay_every: Sequence[int] | None = None, max_iter: int = 1) -> None:
        super().__init__(params, dict(lr=lr, decay=decay, max_iter=max_iter))
        self._params = self.param_groups[0]["params"]
        runs = len(self._params[0])
        self.active = torch.ones(runs, dtype=torch.bool)
        self.limit: Tensor | None = None
        self.decay_every = torch.tensor([math.inf] * runs if decay_every is None else [float(e) for e in decay_every],
                                        dtype=torch.float64)
        self.run_state["n_iter"] = torch.zeros(runs, dtype=torch.int64)

    @property
    def run_state(self) -> dict[str, Tensor]:
        """All state, by name; the first axis is the run."""
        return self.state[self._params[0]]

    def ended(self, run: int) -> str:
        """Why the run cannot go on: it always can."""
        return ""

    def rate(self, rows: Tensor, count: Tensor) -> Tensor:
        """Learning rates (r,) of the runs `rows` (r,) at their `count`-th (r,) update."""
        group = self.param_groups[0]
        return group["lr"] * group["decay"] ** ((count - 1).double() / self.decay_every[rows]).floor()

    def update(self, grad: Tensor, rows: Tensor, count: Tensor) -> Tensor:
        """Direction (r, p) of the runs `rows` (r,) from their gradients (r, p); their `count`-th (r,) update."""
        raise NotImplementedError

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor]) -> Tensor:
        """Up to `max_iter` updates of every active run.

        Args:
            closure: evaluates, writes the gradients of the active runs to `.grad`, returns the losses (R,).

        Returns:
            (R,) losses before the last update; NaN for runs that are not active.
        """
        wanted, done = self.active, self.run_state["n_iter"]
        last = torch.full((len(wanted),), math.nan, device=self._params[0].device)
        for _ in range(self.param_groups[0]["max_iter"]):
            self.active = wanted if self.limit is None else wanted & (done < self.limit)
            rows = self.active.nonzero().flatten()
            if not len(rows):
                break
            losses = torch.enable_grad()(closure)().detach()
            last = torch.where(self.active.to(losses.device), losses, last.to(losses))
            self._advance(rows)
        self.active = wanted
        return last

    def _advance(self, rows: Tensor) -> None:
        """One update of the runs `rows` (r,)."""
        first = self._params[0]
        count = self.run_state["n_iter"][rows] + 1
        self.run_state["n_iter"][rows] = count
        lr = self.rate(rows, count)
        everyone, index = len(rows) == len(first), rows.to(first.device)
        grad = torch.cat([p.grad.flatten(1) for p in self._params], 1)
        step = self.update(grad if everyone else grad[index], index, count).mul_(lr.to(first)[:, None])
        for p, part in zip(self._params, step.split([p[0].numel() for p in self._params], 1), strict=True):
            part = part.view(len(rows), *p.shape[1:])
            if everyone:
                p.sub_(part)
            else:
                p.index_add_(0, index, part, alpha=-1)


class Adam(FirstOrder):
    """Adam over the runs axis; see `FirstOrder` for the learning rate."""

    def __init__(self, params: Iterable[Tensor], lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999),
                 eps: float = 1e-8, decay: float = 1.0, decay_every: Sequence[int] | None = None,
                 max_iter: int = 1) -> None:
        super().__init__(params, lr, decay, decay_every, max_iter)
        self.param_groups[0].update(betas=betas, eps=eps)
        first, size = self._params[0], sum(p[0].numel() for p in self._params)
        self.run_state["mean"] = first.new_zeros(len(first), size)
        self.run_state["square"] = first.new_zeros(len(first), size)

    def update(self, grad: Tensor, rows: Tensor, count: Tensor) -> Tensor:
        """Bias-corrected mean over root mean square."""
        (beta1, beta2), eps = self.param_groups[0]["betas"], self.param_groups[0]["eps"]
        everyone = len(rows) == len(self._params[0])
        mean, square = (self.run_state[name] if everyone else self.run_state[name][rows] for name in ("mean", "square"))
        mean.lerp_(grad, 1 - beta1)
        square.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        if not everyone:
            self.run_state["mean"][rows], self.run_state["square"][rows] = mean, square
        scale = ((1 - beta2**count.double()).sqrt() / (1 - beta1**count.double())).to(grad)[:, None]
        # eps belongs to the root of the corrected square
        floor = (eps * (1 - beta2**count.double()).sqrt()).to(grad)[:, None]
        return mean.div(square.sqrt().add_(floor)).mul_(scale)
