"""L-BFGS over the runs axis: torch's iterates at R = 1, independence of the runs, and every way a step can end."""

import math

import pytest
import torch
from pinn.data import Grid
from pinn.model import MLP
from pinn.objective import Objective
from pinn.optimizers.lbfgs import LBFGS, _rows
from pinn.optimizers.line_search import Point, cubic_minimum, strong_wolfe
from pinn.pdes import SYSTEMS


def stacked(functions, starts, **options):
    """An optimizer for separate functions of (p,) vectors, stacked; and its closure."""
    x = torch.stack([torch.as_tensor(s, dtype=torch.float64) for s in starts]).requires_grad_()
    optimizer = LBFGS([x], **options)

    def closure():
        optimizer.zero_grad()
        losses = torch.stack([f(row) for f, row in zip(functions, x, strict=True)])
        losses[optimizer.active].sum().backward()
        return losses
    return x, optimizer, closure


def by_torch(function, start, steps, **options):
    """Iterates of torch's own L-BFGS after each step, and its counters."""
    x = torch.as_tensor(start, dtype=torch.float64).clone().requires_grad_()
    optimizer = torch.optim.LBFGS([x], line_search_fn="strong_wolfe", **options)

    def closure():
        optimizer.zero_grad()
        loss = function(x)
        loss.backward()
        return loss
    path = []
    for _ in range(steps):
        optimizer.step(closure)
        state = optimizer.state[x]
        path.append((x.detach().clone(), state["n_iter"], state["func_evals"]))
    return path


def rosenbrock(x):
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def quadratic(x):
    return 0.5 * (torch.logspace(0, 3, len(x), dtype=x.dtype) * (x - 1) ** 2).sum()


def wavy(x):
    return (x**2 / 20 + 1 - torch.cos(2 * x)).sum() + x.roll(1) @ x / 5


PROBLEMS = [(rosenbrock, [-1.2, 1.0, 0.7, -0.3]), (quadratic, [3.0] * 12), (wavy, [2.5, -1.0, 4.0, 0.3])]


@pytest.mark.parametrize(("function", "start"), PROBLEMS)
@pytest.mark.parametrize("history", [3, 100])
def test_iterates_are_those_of_torch(function, start, history):
    options = dict(lr=1, max_iter=4, history_size=history, tolerance_grad=1e-9, tolerance_change=1e-14)
    x, optimizer, closure = stacked([function], [start], **options)
    for expected, iterations, evaluations in by_torch(function, start, 5, **options):
        optimizer.step(closure)
        torch.testing.assert_close(x[0], expected, rtol=1e-7, atol=1e-8)
        assert optimizer.run_state["n_iter"].item() == iterations
        assert optimizer.run_state["evaluations"].item() == evaluations


@pytest.mark.parametrize("lr", [0.05, 3.0])
def test_first_trial_steps_are_those_of_torch(lr):
    options = dict(lr=lr, max_iter=3, tolerance_change=1e-14)
    x, optimizer, closure = stacked([rosenbrock], [[-1.2, 1.0]], **options)
    optimizer.step(closure)
    torch.testing.assert_close(x[0], by_torch(rosenbrock, [-1.2, 1.0], 1, **options)[0][0], rtol=1e-9, atol=1e-10)


def pinn(betas, seeds, dtype=torch.float64, n=80):
    system = SYSTEMS["convection"]
    objective = Objective(system, betas, {}, n, [0] * len(seeds), Grid(system.x_range, 65, 21), dtype=dtype)
    params = list(MLP(seeds, [20, 20, 20], dtype).parameters())
    return objective, params


def minimise(objective, params, steps, **options):
    optimizer = LBFGS(params, **options)
    for _ in range(steps):
        optimizer.step(lambda: objective.backward(params, optimizer.active.nonzero().flatten()))
    return optimizer


def test_a_network_follows_torch_for_twenty_iterations():
    objective, params = pinn([30.0], [0])
    reference = torch.nn.ParameterList(p.detach().clone() for p in params)
    other = torch.optim.LBFGS(reference.parameters(), lr=1, max_iter=20, history_size=100, tolerance_grad=1e-7,
                              tolerance_change=1e-9, line_search_fn="strong_wolfe")
    optimizer = minimise(objective, params, 1)

    def closure():
        return objective.backward(list(reference), torch.arange(1)).sum()
    other.step(closure)
    for p, q in zip(params, reference, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-7, atol=1e-9)
    assert optimizer.run_state["n_iter"].item() == other.state[other._params[0]]["n_iter"] == 20


@pytest.mark.parametrize("group_size", [None, 1, 2])
def test_runs_together_equal_runs_alone(group_size):
    betas, seeds = [1.0, 30.0, 5.0, 50.0], [0, 1, 2, 0]
    objective, params = pinn(betas, seeds)
    together = minimise(objective, params, 1, group_size=group_size)
    for r in range(4):
        alone_objective, alone = pinn(betas[r:r + 1], seeds[r:r + 1])
        optimizer = minimise(alone_objective, alone, 1)
        for p, q in zip(params, alone, strict=True):
            torch.testing.assert_close(p[r], q[0], rtol=1e-6, atol=1e-8)  # 20 iterations amplify rounding
        for name in ("n_iter", "evaluations", "stop"):
            assert together.run_state[name][r] == optimizer.run_state[name][0], name


@pytest.mark.parametrize("group_size", [None, 4])
def test_many_different_runs_together_equal_each_alone(group_size):
    """Their line searches differ in length, so the runs wait for evaluations in ever changing order."""
    problems = [(f, [v + 0.1 * k for v in start[:4]]) for k in range(4) for f, start in PROBLEMS]
    functions, starts = zip(*problems, strict=True)
    options = dict(lr=0.1, max_iter=15, tolerance_change=1e-12)
    x, optimizer, closure = stacked(functions, starts, group_size=group_size, **options)
    for _ in range(2):
        optimizer.step(closure)
    for r, (function, start) in enumerate(problems):
        alone, single, single_closure = stacked([function], [start], **options)
        for _ in range(2):
            single.step(single_closure)
        torch.testing.assert_close(x[r], alone[0], rtol=1e-6, atol=1e-7)


def test_only_neighbours_in_order_become_a_slice():
    assert _rows([2, 3, 4]) == slice(2, 5) and _rows([1]) == slice(1, 2)
    assert _rows([0, 2, 1, 3]).tolist() == [0, 2, 1, 3] and _rows([0, 2]).tolist() == [0, 2]


def test_runs_end_for_their_own_reasons():
    minimum = [1.0] * 4
    functions = [quadratic, lambda x: ((x - 1) ** 2).sum(), lambda x: x.sum() * math.nan, rosenbrock]
    x, optimizer, closure = stacked(functions, [minimum, [2.0] * 4, [1.0] * 4, [-1.2, 1.0, 0.7, -0.3]], max_iter=10)
    losses = optimizer.step(closure)
    reasons = [optimizer.stop_reason(r) for r in range(4)]
    assert reasons[0] == "tolerance_grad" and reasons[2] == "non_finite" and reasons[3] in ("max_iter", "max_eval")
    assert reasons[1] in ("tolerance_grad", "tolerance_change")
    assert torch.equal(x[0], torch.tensor(minimum, dtype=torch.float64)) and losses[0] == 0
    torch.testing.assert_close(x[1], torch.ones(4, dtype=torch.float64), rtol=1e-4, atol=1e-4)
    assert x[2].tolist() == [1.0] * 4 and losses[2].isnan()
    assert optimizer.run_state["moved"].tolist() == [False, True, False, True]
    assert optimizer.run_state["n_iter"].tolist()[0] == 0


def test_a_non_finite_trial_steps_back():
    """log is not defined left of 0, where the first full step lands; the minimum is at 0.01."""
    def barrier(x):
        return (x - 0.01 * torch.log(x)).sum()
    x, optimizer, closure = stacked([barrier, quadratic], [[0.5, 0.8], [2.0, 2.0]], max_iter=60, max_eval=500,
                                    tolerance_change=1e-15)
    losses = optimizer.step(closure)
    assert losses.isfinite().all()
    torch.testing.assert_close(x[0], torch.full((2,), 0.01, dtype=torch.float64), rtol=1e-3, atol=0)


def test_without_any_finite_trial_the_run_stays_and_says_so():
    x, optimizer, closure = stacked([lambda x: x.sum() + (0 if x.item() == 1 else math.inf)], [[1.0]])
    loss = optimizer.step(closure)
    assert x.item() == 1 and loss.item() == 1
    assert optimizer.stop_reason(0) == "line_search" and not optimizer.run_state["moved"][0]


def test_a_line_search_without_a_step_may_restart_from_steepest_descent(monkeypatch):
    """Run 0 finds no step once: it ends there, or forgets its curvature and goes on; run 1 does not notice."""
    starts = [[-1.2, 1.0, 0.7, -0.3], [2.5, -1.0, 4.0, 0.3]]

    def scenario(restarts, failures):
        searches = 0

        def fails(start, t, scale, tolerance):
            nonlocal searches
            searches += 1
            if searches in failures:
                yield t
                return start
            return (yield from strong_wolfe(start, t, scale, tolerance))
        monkeypatch.setattr("pinn.optimizers.lbfgs.strong_wolfe", fails)
        x, optimizer, closure = stacked([rosenbrock, wavy], starts, max_iter=5, restarts=restarts, group_size=1)
        optimizer.step(closure)
        return x, optimizer, closure

    _, optimizer, _ = scenario(False, {3})
    assert optimizer.stop_reason(0) == "line_search" and optimizer.run_state["pairs"].tolist() == [2, 3]

    x, optimizer, closure = scenario(True, {3})
    state, other = optimizer.run_state, optimizer.run_state["history"][1].clone()
    assert optimizer.stop_reason(0) == "line_search" and optimizer.ended(0) == ""
    assert state["pairs"].tolist() == [0, 3] and not state["history"][0].any() and not state["yy"][0].any()
    assert torch.equal(state["sy"][0], torch.eye(100, dtype=torch.float64)) and state["gamma"][0] == 1
    assert torch.equal(state["history"][1], other) and other.any()
    optimizer.active, optimizer.limit = torch.tensor([True, False]), state["n_iter"] + 1
    closure()
    grad = x.grad[0].clone()
    optimizer.step(closure)
    assert torch.allclose(state["direction"][0], -grad, rtol=1e-12) and state["moved"][0]
    optimizer.active, optimizer.limit = torch.tensor([True, False]), None
    for _ in range(20):
        optimizer.step(closure)
    closure()
    assert x.grad[0].abs().max() < 1e-3 and grad.abs().max() > 1  # a minimum; rosenbrock has two

    _, optimizer, closure = scenario(True, {1})  # from steepest descent: nothing is left to try
    assert optimizer.ended(0) == "line_search"


def test_inactive_runs_are_untouched_and_limits_hold():
    x, optimizer, closure = stacked([rosenbrock] * 3, [[-1.2, 1.0]] * 3, max_iter=10)
    optimizer.active = torch.tensor([True, False, True])
    optimizer.limit = torch.tensor([4, 9, 7])
    losses = optimizer.step(closure)
    assert losses[1].isnan() and x[1].tolist() == [-1.2, 1.0]
    assert optimizer.run_state["n_iter"].tolist() == [4, 0, 7]
    assert optimizer.active.tolist() == [True, False, True]
    assert optimizer.run_state["evaluations"][1] == 0


def test_the_length_of_a_call_does_not_change_the_iterates():
    ends = []
    for calls, max_iter in [(1, 24), (2, 12), (6, 4)]:
        x, optimizer, closure = stacked([rosenbrock], [[-1.2, 1.0, 0.3]], max_iter=max_iter, max_eval=1000)
        for _ in range(calls):
            optimizer.step(closure)
        ends.append(x.detach().clone())
    assert torch.equal(ends[0], ends[1]) and torch.equal(ends[0], ends[2])


def two_loop(s, y, g):
    """-H g by the textbook recursion; pairs from the oldest to the newest."""
    q, alpha = g, [0.0] * len(s)
    for i in reversed(range(len(s))):
        alpha[i] = (s[i] @ q) / (s[i] @ y[i])
        q = q - alpha[i] * y[i]
    r = q * (s[-1] @ y[-1]) / (y[-1] @ y[-1])
    for i in range(len(s)):
        r = r + s[i] * (alpha[i] - (y[i] @ r) / (s[i] @ y[i]))
    return -r


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-7), (torch.float32, 2e-3)])
def test_direction_equals_the_two_loop_recursion(dtype, tolerance):
    """In float32 against the recursion in float64 on the same pairs: the error of the representation."""
    objective, params = pinn([10.0], [0], dtype)
    start = objective.terms(params)["loss"].item()
    optimizer = minimise(objective, params, 6, history_size=30, max_iter=20, max_eval=1000)
    state = optimizer.run_state
    count = int(state["pairs"][0])
    assert count > 60  # the ring has gone round more than once
    order = [(count + j) % 30 for j in range(30)]
    s, y = (state["history"][0, k][order].double() for k in (0, 1))
    exact = two_loop(s, y, state["previous_grad"][0].double())
    assert (state["direction"][0] - exact).norm() < tolerance * exact.norm()
    assert objective.terms(params)["loss"].item() < start / 3


def test_strong_wolfe_conditions_hold():
    def phi(t):
        return math.cos(3 * t) - t + 0.1 * t**2, -3 * math.sin(3 * t) - 1 + 0.2 * t
    for first in (0.01, 0.5, 3.0, 40.0):
        value, slope = phi(0.0)
        search = strong_wolfe(Point(0.0, value, slope, torch.zeros(1)), first, 1.0, 1e-9)
        t = next(search)
        while True:
            try:
                t = search.send(Point(t, *phi(t), torch.zeros(1)))
            except StopIteration as end:
                point = end.value
                break
        assert point.loss <= value + 1e-4 * point.t * slope and abs(point.slope) <= 0.9 * abs(slope)


def test_cubic_minimum():
    def cubic(t):
        return t**3 - 3 * t, 3 * t**2 - 3
    a, b = (Point(t, *cubic(t), torch.zeros(1)) for t in (0.2, 2.0))
    assert cubic_minimum(a, b, 0.2, 2.0) == pytest.approx(1.0)
    assert cubic_minimum(b, a, 0.2, 2.0) == pytest.approx(1.0)
    assert cubic_minimum(a, b, 1.5, 2.0) == 1.5
    line = [Point(t, -t, -1.0, torch.zeros(1)) for t in (0.0, 1.0)]
    assert cubic_minimum(*line, 1.01, 10.0) == pytest.approx(5.505)


def test_bad_options():
    with pytest.raises(ValueError, match="positive"):
        LBFGS([torch.zeros(1, 1, requires_grad=True)], lr=0)
