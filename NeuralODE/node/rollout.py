"""Autoregressive rollouts of R runs at once, and their errors.

All runs share one integration: with a fixed step they do not feel each other; the step of dopri5 follows the worst of
them, so that its accuracy does not depend on a run's company.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torchdiffeq import odeint

# torchdiffeq's "rk4" is Kutta's 3/8 rule: of order 4 as the classical one, with a smaller error constant.
INTEGRATORS = ("euler", "rk4", "dopri5")
ADAPTIVE_TOLERANCES = {torch.float32: (1e-6, 1e-8), torch.float64: (1e-9, 1e-11)}  # (rtol, atol) of dopri5

Field = Callable[[Tensor], Tensor]


def _worst_run(values: Tensor) -> Tensor:
    """Largest over runs of the root mean square over components, of (R, d)."""
    return values.square().mean(-1).sqrt().amax()


def _integrate(field: Field, start: Tensor, rows: Tensor, times: Tensor, method: str) -> Tensor:
    """States (r, steps + 1, d) of the runs `rows` (r,) of start (R, d); NaN for runs that dopri5 cannot integrate.

    When dopri5 gives up on a group, its halves are tried, down to single runs: one bad run among R costs about
    2 log2 R integrations in place of R.
    """
    def restricted(t: Tensor, state: Tensor) -> Tensor:
        # A field of R stacked networks takes all R rows or none.
        return field(start.index_copy(0, rows, state))[rows]

    adaptive = {}
    if method == "dopri5":
        rtol, atol = ADAPTIVE_TOLERANCES[start.dtype]
        adaptive = {"rtol": rtol, "atol": atol, "options": {"norm": _worst_run, "max_num_steps": 1000}}
    try:
        return odeint(restricted, start[rows], times, method=method, **adaptive).movedim(0, 1)
    except AssertionError:  # underflow of the step, values that are not finite, or 1000 steps in one dt
        if method != "dopri5":
            raise
        if len(rows) == 1:
            return start.new_full((1, len(times), *start.shape[1:]), torch.nan)
        return torch.cat([_integrate(field, start, half, times, method) for half in rows.tensor_split(2)])


def rollout(field: Field, start: Tensor, dt: float, steps: int, method: str = "euler", grad: bool = False) -> Tensor:
    """States (R, steps + 1, d) at the times 0, dt, ..., steps dt from start (R, d).

    Args:
        field: dx/dt of an autonomous system, (R, d) -> (R, d), row by row; it is always called with all R rows.
        start: initial states, float32 or float64.
        dt: spacing of the output, and the step of euler and rk4.
        steps: number of spacings, at least 1.
        method: one of `INTEGRATORS`.
        grad: whether the result can be differentiated.

    Runs whose start or whose field at the start is not finite, and those that dopri5 cannot integrate, are NaN
    throughout; a run that overflows under euler or rk4 keeps its states up to there.

    Raises:
        ValueError: for an unknown method, steps < 1 or dt <= 0.
    """
    if method not in INTEGRATORS:
        raise ValueError(f"method must be one of {', '.join(INTEGRATORS)}, got {method}")
    if steps < 1 or not dt > 0:
        raise ValueError(f"a rollout needs steps >= 1 and dt > 0, got {steps} and {dt:g}")
    # The grid is float64 for any state: differences of float32 times would be off by 1e-5.
    times = dt * torch.arange(steps + 1, dtype=torch.float64, device=start.device)
    with torch.set_grad_enabled(grad):
        with torch.no_grad():
            sound = start.isfinite().all(-1) & field(start).isfinite().all(-1)
        rows = sound.nonzero()[:, 0]
        states = start.new_full((len(start), steps + 1, start.shape[1]), torch.nan)
        if len(rows):
            states = states.index_copy(0, rows, _integrate(field, start, rows, times, method))
        return states


def relative_l2_by_component(p: Tensor, x: Tensor) -> Tensor:
    """(R,) float64: (1/d) sum_c |p_c - x_c|_2 / |x_c|_2 of p and x (R, K, d), norms over the times 1..K-1.

    The test error of the regime maps. The start, where both agree, is left out; every component has the same weight.
    """
    p, x = p[:, 1:].double(), x[:, 1:].double()
    return ((p - x).norm(dim=1) / x.norm(dim=1)).mean(-1)


def mean_relative_window(p: Tensor, x: Tensor) -> Tensor:
    """(R,) float64: mean over all K times, start included, of |p_t - x_t|_2 / |x_t|_2, of p and x (R, K, d)."""
    p, x = p.double(), x.double()
    return ((p - x).norm(dim=-1) / x.norm(dim=-1).clamp_min(torch.finfo(x.dtype).tiny)).mean(-1)


def sse(p: Tensor, x: Tensor) -> Tensor:
    """(R,) float64: sum of squared errors over the times 1..K-1 and components, of p and x (R, K, d)."""
    return (p[:, 1:].double() - x[:, 1:].double()).square().sum((1, 2))


def mse(p: Tensor, x: Tensor) -> Tensor:
    """(R,) float64: mean of squared errors over the times 1..K-1 and components, of p and x (R, K, d)."""
    return (p[:, 1:].double() - x[:, 1:].double()).square().mean((1, 2))


def step(field: Field, x: Tensor, dt: float, method: str = "euler") -> Tensor:
    """The states after one step of length dt from states x (R, n, d), differentiable; field (R, n, d) -> (R, n, d)."""
    if method == "euler":
        return x + dt * field(x)
    times = torch.tensor([0.0, dt], dtype=torch.float64, device=x.device)
    if method != "dopri5":
        return odeint(lambda t, state: field(state), x, times, method=method)[-1]
    with torch.no_grad():
        rows = (x.isfinite() & field(x).isfinite()).all(-1).all(-1).nonzero()[:, 0]
    states = torch.full_like(x, torch.nan)
    return states.index_copy(0, rows, _integrate(field, x, rows, times, method)[:, -1]) if len(rows) else states
