"""Adam over the runs axis against torch's, in float64."""

import math

import pytest
import torch
from pinn.optimizers.adam import Adam

RUNS = 4


def problem(seed=0):
    """Weights of R small problems, and a closure with R different losses, NaN where a run is not wanted."""
    torch.manual_seed(seed)
    params = [torch.randn(RUNS, 3, 2, dtype=torch.float64, requires_grad=True),
              torch.randn(RUNS, 1, 2, dtype=torch.float64, requires_grad=True)]
    scale = torch.logspace(-3, 3, RUNS, dtype=torch.float64)

    def losses(rows):
        w, b = (p[rows] for p in params)
        return scale[rows] * ((w.sin() + b).square().flatten(1).sum(1) + b.exp().flatten(1).sum(1))

    def closure(optimizer=None):
        rows = torch.arange(RUNS) if optimizer is None else optimizer.active.nonzero().flatten()
        for p in params:
            p.grad = torch.full_like(p, math.nan)
        part = losses(rows)
        for p, g in zip(params, torch.autograd.grad(part.sum(), params), strict=True):
            p.grad[rows] = g[rows]
        out = torch.full((RUNS,), math.nan, dtype=torch.float64)
        out[rows] = part.detach()
        return out
    return params, closure, losses


def torch_adam(steps, row, seed=0, lr=1e-2, decay=1.0, every=1):
    """The same problem of one run by torch, with an exponential decay every so many steps."""
    params, _, losses = problem(seed)
    optimizer = torch.optim.Adam(params, lr=lr)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * decay ** (step // every)
        optimizer.zero_grad()
        losses(torch.tensor([row])).sum().backward()
        optimizer.step()
    return [p[row].detach() for p in params]


@pytest.mark.parametrize("max_iter", [1, 7])
def test_iterates_are_those_of_torch(max_iter):
    params, closure, losses = problem()
    optimizer = Adam(params, lr=1e-2, max_iter=max_iter)
    for _ in range(42 // max_iter):
        before = losses(torch.arange(RUNS)).detach()
        found = optimizer.step(lambda: closure(optimizer))
        if max_iter == 1:
            torch.testing.assert_close(found, before, rtol=1e-14, atol=0)
    for row in range(RUNS):
        for p, q in zip(params, torch_adam(42, row), strict=True):
            torch.testing.assert_close(p[row].detach(), q, rtol=1e-10, atol=1e-12)
    assert optimizer.run_state["n_iter"].tolist() == [42] * RUNS


def test_each_run_has_its_own_count_limit_and_decay():
    """Runs left out for a while, or at their limit, end as if they were alone; their gradients may be anything."""
    params, closure, _ = problem()
    every = [1, 3, 5, 100]
    optimizer = Adam(params, lr=1e-2, decay=0.9, decay_every=every, max_iter=4)
    optimizer.limit = torch.tensor([20, 20, 6, 13])
    optimizer.active = torch.tensor([True, True, True, False])
    optimizer.step(lambda: closure(optimizer))
    optimizer.active = torch.ones(RUNS, dtype=torch.bool)
    for _ in range(4):
        found = optimizer.step(lambda: closure(optimizer))
    assert optimizer.run_state["n_iter"].tolist() == [20, 20, 6, 13]
    assert found.isfinite().tolist() == [True, True, False, True]
    for row, (steps, k) in enumerate(zip([20, 20, 6, 13], every, strict=True)):
        for p, q in zip(params, torch_adam(steps, row, decay=0.9, every=k), strict=True):
            torch.testing.assert_close(p[row].detach(), q, rtol=1e-10, atol=1e-12)
