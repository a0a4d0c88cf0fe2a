"""NNCG against exact dense answers on tiny problems, in float64 unless precision is the matter."""

import math
import sys
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pinn.optimizers import cg, nncg, nystrom
from pinn.optimizers.nncg import NNCG

DOUBLE = torch.float64


@pytest.fixture(autouse=True)
def one_thread():
    """Results to the last bit, and no fight for cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def generator(seed: int) -> torch.Generator:
    """A random stream of its own."""
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Gaussian numbers in float64."""
    return torch.randn(*shape, generator=generator(seed), dtype=DOUBLE)


def symmetric(eigenvalues: Tensor, seed: int = 0) -> Tensor:
    """Matrices (r, p, p) with these eigenvalues (r, p) and random eigenvectors."""
    q = torch.linalg.qr(normal(*eigenvalues.shape, eigenvalues.shape[-1], seed=seed)).Q
    return q @ torch.diag_embed(eigenvalues) @ q.mT


def sketch(h: Tensor, rank: int, method: str = "shifted", seed: int = 1):
    """Sketch of explicit matrices."""
    omega = normal(h.shape[0], h.shape[1], rank, seed=seed)
    return nystrom.sketch_hessian(lambda v: h @ v, omega, torch.finfo(DOUBLE).eps, method)


def apply(h: Tensor) -> Callable[[Tensor], Tensor]:
    """v (r, p) -> H v."""
    return lambda v: (h @ v[:, :, None])[:, :, 0]


def assert_orthonormal(u: Tensor) -> None:
    """U^T U = I."""
    torch.testing.assert_close(u.mT @ u, torch.eye(u.shape[-1], dtype=u.dtype).expand(len(u), -1, -1),
                               rtol=0, atol=1e-10)


# ---------------------------------------------------------------------------------------- sketch


def test_sketch_recovers_low_rank_semidefinite_matrices():
    """Rank <= s: all eigenvalues and eigenvectors, for Nystrom and for Rayleigh-Ritz."""
    spectra = torch.zeros(3, 40, dtype=DOUBLE)
    spectra[0, :8] = torch.logspace(3, -3, 8, dtype=DOUBLE)
    spectra[1, :3] = torch.tensor([5.0, 5.0, 1.0])
    spectra[2, :10] = torch.arange(10, 0, -1)
    h = symmetric(spectra)
    for method in ("shifted", "rayleigh_ritz"):
        u, values, kind, _ = sketch(h, 10, method)
        assert [nncg.SKETCH[k] for k in kind] == [method] * 3
        torch.testing.assert_close(values, spectra[:, :10], rtol=1e-9, atol=1e-8)
        torch.testing.assert_close(u @ torch.diag_embed(values) @ u.mT, h, rtol=0, atol=1e-7)
        assert_orthonormal(u)


@pytest.mark.parametrize("shift", [1e-8, 0.3, 50.0])
def test_shift_is_consistent(shift):
    """With a full basis the sketch is exact, whatever the shift; on a partial one it is Nystrom's."""
    h = symmetric(torch.linspace(0, 9, 12, dtype=DOUBLE)[None])
    nu = torch.tensor([shift], dtype=DOUBLE)
    for rank in (12, 5):
        omega = torch.linalg.qr(normal(1, 12, rank)).Q
        u, values, safe = nystrom.shifted_nystrom(omega, h @ omega, nu)
        assert safe.all()
        shifted = h + shift * torch.eye(12, dtype=DOUBLE)
        y = shifted @ omega
        exact = y @ torch.linalg.inv(omega.mT @ y) @ y.mT
        expected = (torch.linalg.eigvalsh(exact)[:, -rank:].flip(-1) - shift).clamp(min=0)
        torch.testing.assert_close(values, expected, rtol=1e-7, atol=1e-7)
        if rank == 12:
            torch.testing.assert_close(u @ torch.diag_embed(values) @ u.mT, h, rtol=0, atol=1e-6)


def test_sketch_of_indefinite_matrices_is_never_above_the_truth():
    """No spurious eigenvalue (a shift of the core alone gave 2.8e5 for a true 100)."""
    kinds = []
    for seed in range(40):
        spectra = normal(8, 50, seed=seed) * 10.0 ** (seed % 5 - 3)  # from slightly indefinite ...
        spectra[:, : 10 * (seed % 5)] = spectra[:, : 10 * (seed % 5)].abs()
        spectra[:, 0] = 100.0
        h = symmetric(spectra, seed)
        for method in ("shifted", "rayleigh_ritz"):
            u, values, kind, products = sketch(h, 10, method, seed + 100)
            top = torch.linalg.eigvalsh(h)[:, -1:]
            assert (values <= 1.11 * top).all() and (values >= 0).all()
            assert (values.diff(dim=1) <= 0).all() and u.isfinite().all()
            assert_orthonormal(u)
            ritz = (kind == 2).long()
            assert torch.equal(products, 10 + 10 * ritz + (method == "shifted"))
        kinds.append(sketch(h, 10, seed=seed + 100)[2])
    kinds = torch.cat(kinds)
    assert (kinds == 1).sum() > 20 and (kinds == 2).sum() > 20  # both branches were tried


def test_certificate_refuses_a_positive_core_with_a_spurious_eigenvalue():
    """omega^T H omega barely positive, H omega large: Nystrom alone would say 1e6."""
    h = torch.tensor([[[1e-4, 10.0], [10.0, 0.0]]], dtype=DOUBLE)  # eigenvalues about +-10
    omega = torch.tensor([[[1.0], [0.0]]], dtype=DOUBLE)
    _, wrong, safe = nystrom.shifted_nystrom(omega, h @ omega, torch.zeros(1, dtype=DOUBLE))
    assert safe.all() and wrong.max() > 9e5
    _, values, kind, _ = nystrom.sketch_hessian(lambda v: h @ v, omega, 2e-16)
    assert nncg.SKETCH[kind] == "rayleigh_ritz" and values.max() <= 10.01


def test_sketch_without_a_finite_product_is_the_identity_preconditioner():
    """One bad run neither raises nor harms its neighbour; H = 0 is fine."""
    h = symmetric(torch.linspace(1, 9, 6, dtype=DOUBLE).expand(3, -1)).clone()
    h[0], h[2] = math.nan, 0.0
    u, values, kind, _ = sketch(h, 3)
    assert [nncg.SKETCH[k] for k in kind[:2]] == ["none", "shifted"]
    assert values[0].eq(0).all() and values[2].eq(0).all() and values[1, 0] > 5
    v = normal(3, 6)
    out = nystrom.precondition(v, u, values, torch.full((3,), 0.1, dtype=DOUBLE))
    torch.testing.assert_close(out[[0, 2]], v[[0, 2]])


# -------------------------------------------------------------------- preconditioner and solver


def test_preconditioner_equals_its_dense_formula():
    """P^-1 = (lambda_s + mu) U (Lambda + mu)^-1 U^T + I - U U^T."""
    h = symmetric(torch.logspace(4, -4, 30, dtype=DOUBLE).expand(2, -1))
    u, values, _, _ = sketch(h, 6)
    mu = torch.tensor([1e-3, 2.0], dtype=DOUBLE)
    scale = (values[:, -1:] + mu[:, None]) / (values + mu[:, None])
    dense = u @ torch.diag_embed(scale) @ u.mT + torch.eye(30, dtype=DOUBLE) - u @ u.mT
    v = normal(2, 30)
    torch.testing.assert_close(nystrom.precondition(v, u, values, mu), apply(dense)(v))


def test_pcg_solves_and_the_preconditioner_saves_iterations():
    """Against a dense solve, on a spectrum with large outliers; each system has its own count."""
    tail = torch.linspace(1, 2, 50, dtype=DOUBLE)
    spectra = torch.stack([torch.cat([torch.logspace(2, 6, 10, dtype=DOUBLE), tail]),
                           torch.ones(60, dtype=DOUBLE)])
    h, g, mu = symmetric(spectra), normal(2, 60, seed=3), torch.full((2,), 1e-2, dtype=DOUBLE)
    u, values, _, _ = sketch(h, 20)
    a = h + 1e-2 * torch.eye(60, dtype=DOUBLE)
    exact = torch.linalg.solve(a, g[:, :, None])[:, :, 0]
    zero = torch.zeros_like(g)
    plain = cg.pcg(apply(a), lambda v: v, g, zero, 1e-10, 1000)
    found = cg.pcg(apply(a), lambda v: nystrom.precondition(v, u, values, mu), g, zero, 1e-10, 1000)
    for solution in (plain, found):
        torch.testing.assert_close(solution.x, exact, rtol=1e-6, atol=1e-8)
        assert [cg.CG_EXIT[k] for k in solution.exit] == ["tolerance"] * 2
        assert (solution.residual <= 1e-10).all()
    assert found.iterations[0] * 4 < plain.iterations[0]
    assert found.iterations[1] <= 2 and plain.iterations[1] == 1  # the other system does not matter
    assert torch.equal(found.products, found.iterations + 1)


def test_pcg_start_tolerance_and_cap():
    """A good start costs nothing, a bad one is dropped, the tolerance is relative, the cap holds."""
    a = symmetric(torch.logspace(0, 5, 30, dtype=DOUBLE)[None])
    g = normal(1, 30)
    exact = torch.linalg.solve(a, g[:, :, None])[:, :, 0]
    zero = torch.zeros_like(g)

    def solve(g: Tensor, x0: Tensor, tol: float = 1e-6, limit: int = 500) -> nncg.Solution:
        return cg.pcg(apply(a), lambda v: v, g, x0, tol, limit)

    assert solve(g, exact).iterations == 0
    cold = solve(g, zero)
    for bad in (1e6 * exact, torch.full_like(g, math.nan)):
        assert torch.equal(solve(g, bad).x, cold.x)
    # Relative: a tiny gradient (a power of two: same digits) takes as long. An absolute one takes nothing.
    assert cold.iterations > 20 and solve(2.0**-30 * g, zero).iterations == cold.iterations
    short = solve(g, zero, limit=3)
    assert short.iterations == 3 and cg.CG_EXIT[short.exit] == "max_iter"


def test_negative_curvature_exit_gives_descent():
    """CG stops with its iterate; the direction taken falls, also when the first product is negative."""
    spectra = torch.linspace(0.5, 5, 20, dtype=DOUBLE).repeat(3, 1)
    spectra[0, :3] = -1.0
    spectra[1] *= -1
    a, g = symmetric(spectra), normal(3, 20, seed=2)
    a[2] = math.nan
    mu = torch.full((3,), 1e-2, dtype=DOUBLE)
    u, values, _, _ = sketch(a, 5)
    found = cg.pcg(apply(a), lambda v: v, g, torch.zeros_like(g), 1e-12, 100)
    exits = [cg.CG_EXIT[k] for k in found.exit]
    assert exits == ["negative_curvature", "negative_curvature", "breakdown"]
    assert found.iterations[0] > 0 and found.iterations[1:].eq(0).all() and found.x.isfinite().all()
    newton = nystrom.precondition(g, u, values, mu)
    d, slope, kind = nncg.descent(g, found, newton)
    assert [nncg.DIRECTION[k] for k in kind] == ["cg", "sketch", "sketch"]
    assert torch.equal(d[0], found.x[0]) and torch.equal(d[1:], newton[1:])
    assert (slope > 0).all()
    torch.testing.assert_close(slope, (g * d).sum(1))
    warm = cg.pcg(apply(a), lambda v: v, g, found.x, 1e-12, 100)._replace(x=g)  # even where the start points down
    assert warm.iterations[1] == 0 and nncg.DIRECTION[nncg.descent(g, warm, newton)[2][1]] == "sketch"
    d, _, kind = nncg.descent(g, found._replace(x=-g), newton=torch.full_like(g, math.inf))
    assert torch.equal(d, g) and [nncg.DIRECTION[k] for k in kind] == ["gradient"] * 3


# ---------------------------------------------------------------------------------- line search


def test_armijo_backtracks_each_run_alone():
    """First t in 1, 1/2, 1/4, ... with enough decrease; NaN backtracks; hopeless runs do not move."""
    theta, d = torch.zeros(4, 1, dtype=DOUBLE), torch.ones(4, 1, dtype=DOUBLE)
    curvature = torch.tensor([1.0, 10.0, 1.0, 1.0], dtype=DOUBLE)
    asked = []

    def evaluate(points: Tensor, pending: Tensor) -> Tensor:
        asked.append(pending.clone())
        x = points[:, 0]
        loss = x + curvature * x * x / 2  # along -d from 0: slope 1
        loss[2] = math.nan if x[2] < -0.2 else loss[2]
        loss[3] = 1.0
        return loss

    zero, slope = torch.zeros(4, dtype=DOUBLE), torch.ones(4, dtype=DOUBLE)
    points, size, best, trials = nncg.armijo(evaluate, theta, d, zero, slope, 1.0, 12)
    assert size.tolist() == [1.0, 0.125, 0.125, 0.0]
    assert trials.tolist() == [1, 4, 4, 12]
    torch.testing.assert_close(points[:, 0], -size)
    torch.testing.assert_close(best[:2], -size[:2] + curvature[:2] * size[:2] ** 2 / 2)
    assert torch.equal(points[3], theta[3]) and best[3] == 0
    assert [a.tolist() for a in asked[:2]] == [[True] * 4, [False, True, True, True]]


# ------------------------------------------------------------------------------ the whole method


class Quadratics:
    """R losses 1/2 x^T A x - b^T x with x spread over two parameters of different shapes."""

    def __init__(self, a: Tensor, b: Tensor, x0: Tensor | None = None):
        x0 = torch.zeros_like(b) if x0 is None else x0
        self.a, self.b = a, b
        self.params = [x0[:, :4].reshape(-1, 2, 2).clone().requires_grad_(),
                       x0[:, 4:].clone().requires_grad_()]

    def x(self) -> Tensor:
        """The point (R, p)."""
        return torch.cat([p.flatten(1) for p in self.params], 1)

    def __call__(self) -> Tensor:
        """Losses (R,)."""
        x = self.x()
        return (x * (apply(self.a)(x) / 2 - self.b)).sum(1)


class Networks:
    """Least squares of stacked networks 1 -> 6 -> 1, one frequency a run; run `bad` has loss NaN."""

    def __init__(self, runs: list[int], bad: int | None = None, dtype: torch.dtype = DOUBLE):
        frequency = torch.tensor([1.0, 3.0, 6.0, 2.0, 4.0], dtype=dtype)[runs]
        self.t = torch.linspace(-1, 1, 25, dtype=dtype)[None, :, None]
        self.target = torch.sin(frequency[:, None, None] * self.t)
        self.factor = torch.tensor([math.nan if r == bad else 1.0 for r in runs], dtype=dtype)
        shapes = {1: (1, 6), 2: (1, 6), 3: (6, 1), 4: (1, 1), 5: (2,)}  # the last one is not used
        self.params = [torch.stack([normal(*shape, seed=10 * k + r) for r in runs])
                       .to(dtype).requires_grad_() for k, shape in shapes.items()]

    def __call__(self) -> Tensor:
        """Losses (R,)."""
        w0, b0, w1, b1, _ = self.params
        u = torch.tanh(self.t @ w0 + b0) @ w1 + b1
        return self.factor * (u - self.target).square().mean((1, 2))


def values_of(params: list[Tensor]) -> Tensor:
    """All weights (R, p), a copy."""
    return torch.cat([p.detach().flatten(1) for p in params], 1).clone()


def test_newton_on_convex_quadratics():
    """Tiny mu: the solution in two steps, on an ill-conditioned problem."""
    spectra = torch.stack([torch.logspace(0, 6, 12, dtype=DOUBLE), torch.ones(12, dtype=DOUBLE)])
    problem = Quadratics(symmetric(spectra), normal(2, 12))
    exact = torch.linalg.solve(problem.a, problem.b[:, :, None])[:, :, 0]
    optimizer = NNCG(problem.params, rank=6, mu=1e-10, cg_tol=1e-12)
    for _ in range(2):
        losses = optimizer.step(problem)
    torch.testing.assert_close(problem.x().detach(), exact, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(losses, problem().detach())
    assert optimizer.info["step_size"].tolist() == [1.0, 1.0] or (optimizer.info["stop"] == 1).any()


def test_damping_is_part_of_the_step():
    """One step from zero is (A + mu I)^-1 b exactly."""
    problem = Quadratics(symmetric(torch.linspace(1, 5, 10, dtype=DOUBLE)[None]), normal(1, 10))
    NNCG(problem.params, rank=3, mu=0.7, cg_tol=1e-13).step(problem)
    damped = problem.a + 0.7 * torch.eye(10, dtype=DOUBLE)
    exact = torch.linalg.solve(damped, problem.b[:, :, None])[:, :, 0]
    torch.testing.assert_close(problem.x().detach(), exact)


def test_rosenbrock():
    """A curved valley with indefinite regions, from several starts."""
    starts = torch.tensor([[-1.2, 1.0], [0.0, 2.0], [2.0, -2.0], [1.0, 1.0]], dtype=DOUBLE)
    x = starts.clone().requires_grad_()
    optimizer = NNCG([x], rank=2, mu=1e-4, cg_tol=1e-10)

    def closure() -> Tensor:
        return 100 * (x[:, 1] - x[:, 0] ** 2) ** 2 + (1 - x[:, 0]) ** 2

    for _ in range(60):
        optimizer.step(closure)
        for run in range(4):
            optimizer.active[run] = not optimizer.stop_reason(run)
        if not optimizer.active.any():
            break
    assert [optimizer.stop_reason(run) for run in range(4)] == ["tolerance_grad"] * 4
    torch.testing.assert_close(x.detach(), torch.ones_like(x), rtol=0, atol=1e-5)
    assert torch.equal(x[3], starts[3]) and optimizer.info["n_iter"][3] == 0


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_networks_train_and_every_step_satisfies_armijo(dtype):
    """Recomputed from the weights; state and weights keep the precision (the published code fails)."""
    problem = Networks([0, 1, 2], dtype=dtype)
    optimizer = NNCG(problem.params, rank=5, mu=1e-4, update_freq=5)
    first = problem().detach()
    for _ in range(60):
        before, theta = problem().detach(), values_of(problem.params)
        gradient = torch.cat([g.flatten(1) for g in torch.autograd.grad(
            problem().sum(), problem.params, materialize_grads=True)], 1)
        losses = optimizer.step(problem)
        info, after = optimizer.info, problem().detach()
        assert torch.equal(after, losses) and losses.dtype == dtype
        moved = info["step_size"] > 0
        t_d = theta.double() - values_of(problem.params).double()
        decrease = (before.double() - after.double())[moved]
        slope = ((gradient.double() * t_d).sum(1))[moved]
        slack = {torch.float32: 1e-6, DOUBLE: 1e-14}[dtype]
        assert (decrease >= 0.1 * slope - slack * before[moved]).all() and (decrease > 0).all()
        torch.testing.assert_close(info["slope"][moved] * info["step_size"][moved], slope, rtol=1e-3,
                                   atol=slack)
        assert torch.equal(values_of(problem.params)[~moved], theta[~moved])
    assert (losses < 1e-3 * first).all()
    assert all(p.dtype == dtype for p in problem.params)
    assert all(optimizer.run_state[name].dtype == dtype for name in ("U", "d_prev"))


def test_first_step_sketches_and_later_ones_on_schedule():
    """By the run's own count: 9 steps at 4 renew at 0, 4 and 8."""
    problem = Networks([0, 1])
    optimizer = NNCG(problem.params, rank=3, update_freq=4)
    renewed = []
    for k in range(9):
        optimizer.active = torch.tensor([True, k >= 2])
        before = optimizer.run_state["generator"].clone()
        optimizer.step(problem)
        changed = (optimizer.run_state["generator"] != before).any(1)
        assert optimizer.info["step_size"][changed].gt(0).all()
        renewed.append(changed.tolist())
    assert [k for k in range(9) if renewed[k][0]] == [0, 4, 8]
    assert [k for k in range(9) if renewed[k][1]] == [2, 6]


def test_runs_together_equal_runs_alone():
    """Different curvature, one that stops early, one with loss NaN from the start."""
    seeds = [7, 3, 11, 5, 2]
    options = dict(rank=4, mu=1e-3, update_freq=3, cg_tol=1e-8, tolerance_grad=3e-2)

    def train(runs: list[int]) -> tuple[Tensor, dict[str, Tensor], list[str]]:
        problem = Networks(runs, bad=3)
        optimizer = NNCG(problem.params, seeds=[seeds[r] for r in runs], **options)
        for _ in range(8):
            optimizer.step(problem)
            for k in range(len(runs)):
                optimizer.active[k] = optimizer.active[k] and not optimizer.stop_reason(k)
        stops = [optimizer.stop_reason(k) for k in range(len(runs))]
        return values_of(problem.params), optimizer.info, stops

    together, info, stops = train([0, 1, 2, 3, 4])
    assert stops[3] == "non_finite" and "tolerance_grad" in stops and "" in stops
    assert torch.equal(together[3], values_of(Networks([3]).params)[0])
    for run in range(5):
        alone, alone_info, alone_stop = train([run])
        torch.testing.assert_close(together[run], alone[0], rtol=1e-9, atol=1e-9)
        assert alone_stop[0] == stops[run]
        for name in ("cg_iterations", "hvps", "loss_evaluations", "n_iter", "mu", "step_size"):
            assert info[name][run] == alone_info[name][0], name


def test_inactive_rows_are_untouched_and_may_be_anything():
    """Bits of weights and state stay; the closure may leave NaN there; none active: no evaluation."""
    problem = Networks([0, 1, 2])
    optimizer = NNCG(problem.params, rank=3)
    optimizer.step(problem)
    optimizer.active = torch.tensor([True, False, True])
    asked = []

    def closure() -> Tensor:
        asked.append(optimizer.active.clone())
        return torch.where(optimizer.active, problem(), math.nan)

    weights = values_of(problem.params)
    state = {name: value.clone() for name, value in optimizer.run_state.items()}
    losses = optimizer.step(closure)
    assert torch.equal(values_of(problem.params)[1], weights[1])
    for name, value in optimizer.run_state.items():
        torch.testing.assert_close(value[1], state[name][1], rtol=0, atol=0, equal_nan=True)
    assert (values_of(problem.params)[[0, 2]] != weights[[0, 2]]).any(1).all()
    assert losses.isnan().tolist() == [False, True, False]
    assert optimizer.active.tolist() == [True, False, True] and not torch.stack(asked)[:, 1].any()
    optimizer.active = torch.zeros(3, dtype=torch.bool)
    asked.clear()
    assert optimizer.step(closure).isnan().all() and not asked


@pytest.mark.parametrize("before", [4, 7])
def test_resumed_run_is_bit_equal(before):
    """Rows of the state sliced, stored a run, stacked again, in a new optimizer; mid-sketch too."""
    def make() -> tuple[Networks, NNCG]:
        problem = Networks([0, 1, 2])
        return problem, NNCG(problem.params, rank=4, update_freq=4, mu=1e-3, seeds=[5, 6, 7])

    problem, optimizer = make()
    for _ in range(before):
        optimizer.step(problem)
    rows = [{name: value[r].clone() for name, value in optimizer.run_state.items()} for r in range(3)]
    weights = [p.detach().clone() for p in problem.params]
    for _ in range(before):
        optimizer.step(problem)

    again, resumed = make()
    with torch.no_grad():
        for p, w in zip(again.params, weights, strict=True):
            p.copy_(w)
    stacked = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    resumed.state[resumed.param_groups[0]["params"][0]] = stacked
    for _ in range(before):
        resumed.step(again)
    assert torch.equal(values_of(problem.params), values_of(again.params))
    for name, value in optimizer.run_state.items():
        torch.testing.assert_close(value, resumed.run_state[name], rtol=0, atol=0, equal_nan=True)


def test_sketch_depends_on_the_seed_alone():
    """Same seed, same draws, anywhere in the stack; other seeds others; not the initial weights'."""
    def draw(seeds: list[int], runs: list[int]) -> Tensor:
        problem = Networks(runs)
        optimizer = NNCG(problem.params, rank=3, seeds=seeds)
        optimizer.step(problem)
        return optimizer.run_state["U"]

    pair, alone = draw([8, 9], [1, 1]), draw([9], [1])
    torch.testing.assert_close(pair[1], alone[0], rtol=0, atol=1e-9)
    assert (pair[0] - pair[1]).abs().max() > 1e-3
    stream = NNCG([torch.zeros(1, 3, requires_grad=True)], seeds=[4]).run_state["generator"][0]
    assert not torch.equal(stream, generator(4).get_state())


def test_failed_steps_raise_the_damping_then_stop_the_run():
    """No trial is better: weights unchanged, mu tenfold up to max_mu, a new sketch, then a reason."""
    x = normal(1, 6).requires_grad_()
    floor = float(x.detach().square().sum() / 2)

    def closure() -> Tensor:  # the gradient says down, the loss never is
        return x.square().sum(1) / 2 if torch.is_grad_enabled() else torch.full((1,), floor, dtype=DOUBLE)

    optimizer = NNCG([x], rank=2, mu=0.5, max_mu=20.0, max_trials=4, patience=2)
    start, mus, reasons = x.detach().clone(), [], []
    for _ in range(4):
        optimizer.step(closure)
        mus.append(float(optimizer.info["mu"]))
        reasons.append(optimizer.stop_reason(0))
    assert torch.equal(x.detach(), start)
    assert mus == [5.0, 20.0, 20.0, 20.0] and reasons == ["", "", "", "line_search"]
    assert optimizer.info["loss_evaluations"] == 4 * (1 + 4) and optimizer.info["step_size"] == 0
    assert optimizer.info["hvps"] > 4 * 3  # a sketch a step
    optimizer.step(lambda: x.square().sum(1) / 2)  # and it may go on when it can
    assert optimizer.info["mu"] == 10.0 and optimizer.info["failures"] == 0
    assert optimizer.stop_reason(0) == ""


def test_warm_start_is_the_last_direction():
    """It is kept, and a perfect one needs no iteration."""
    problem = Quadratics(symmetric(torch.logspace(0, 3, 10, dtype=DOUBLE)[None]), normal(1, 10))
    optimizer = NNCG(problem.params, rank=2, mu=1.0, lr=0.5)
    optimizer.step(problem)
    moved = -problem.x().detach()
    torch.testing.assert_close(optimizer.run_state["d_prev"] * 0.5, moved)
    a, g = problem.a + torch.eye(10, dtype=DOUBLE), apply(problem.a)(problem.x().detach()) - problem.b
    optimizer.run_state["d_prev"].copy_(torch.linalg.solve(a, g[:, :, None])[:, :, 0])
    optimizer.step(problem)
    assert optimizer.info["cg_iterations"] == 0 and optimizer.info["step_size"] == 0.5


def test_line_search_asks_for_the_waiting_runs_only():
    """`active` shrinks as runs accept, and is the caller's again afterwards."""
    x = torch.tensor([[0.5], [3.0]], dtype=DOUBLE, requires_grad=True)
    optimizer, asked = NNCG([x], rank=1, mu=1e-6), []

    def closure() -> Tensor:  # Newton overshoots far from zero
        asked.append(optimizer.active.tolist())
        return torch.log(torch.cosh(x[:, 0]))

    optimizer.step(closure)
    assert asked[:3] == [[True, True], [True, True], [False, True]]
    assert len(asked) == 1 + optimizer.info["loss_evaluations"][1] - 1 and optimizer.active.all()


def test_constant_damping_while_steps_succeed():
    """The paper's method."""
    problem = Quadratics(symmetric(torch.linspace(1, 99, 10, dtype=DOUBLE)[None]), normal(1, 10))
    optimizer = NNCG(problem.params, rank=3, mu=0.5)
    for _ in range(5):
        optimizer.step(problem)
        assert optimizer.info["mu"] == 0.5


def test_non_finite_trials_backtrack():
    """A loss that is NaN beyond a wall: shorter steps, never across it."""
    x = torch.tensor([[1.0]], dtype=DOUBLE, requires_grad=True)
    optimizer = NNCG([x], rank=1, mu=1e-6)
    for _ in range(20):
        losses = optimizer.step(lambda: (x - torch.log(x))[:, 0] + torch.where(x[:, 0] < 0.1, math.nan, 0.0)
                                + 4 * (x[:, 0] - 0.05).abs())
        assert losses.isfinite().all() and x.isfinite().all() and (x >= 0.1).all()
    assert x.item() < 0.4


@pytest.mark.parametrize("chunk_size", [3, 100])
def test_chunks_change_nothing(chunk_size):
    """Sketch products by vmap equal those one by one, for some of the runs too."""
    results = []
    for size in (1, chunk_size):
        problem = Networks([0, 1, 2])
        optimizer = NNCG(problem.params, rank=5, chunk_size=size)
        optimizer.active = torch.tensor([True, False, True])
        optimizer.step(problem)
        results.append(values_of(problem.params))
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("chunk_size", [1, 3])
def test_loss_in_parts(chunk_size):
    """A loss that comes in parts gives the steps of the whole, to rounding, with the graph of one part at a time."""
    whole, split = Networks([0, 1, 2], bad=1), Networks([0, 1, 2], bad=1)
    alive, most = set(), 0

    class Parts:
        """Terms of 25 squares in blocks; counts the graphs that are alive."""

        def __iter__(self):
            nonlocal most
            w0, b0, w1, b1, _ = split.params
            for block in torch.arange(25).split(7):
                u = torch.tanh(split.t[:, block] @ w0 + b0) @ w1 + b1
                part = split.factor * (u - split.target[:, block]).square().sum((1, 2)) / 25
                alive.add(key := object())
                weakref.finalize(part, alive.discard, key)
                most = max(most, len(alive))
                del u
                yield part
                del part

    results = []
    for problem, closure in ((whole, whole), (split, Parts)):
        optimizer = NNCG(problem.params, rank=5, chunk_size=chunk_size)
        losses = [optimizer.step(closure) for _ in range(3)]
        results.append((values_of(problem.params), torch.stack(losses), optimizer.info["hvps"],
                        optimizer.info["loss_evaluations"]))
    torch.testing.assert_close(*results, rtol=1e-7, atol=1e-9, equal_nan=True)
    assert most == 1


def test_rank_above_size_and_linear_loss():
    """The rank is cut to p; a loss without curvature takes damped gradient steps."""
    x = torch.zeros(2, 3, dtype=DOUBLE, requires_grad=True)
    optimizer = NNCG([x], rank=50, mu=2.0)
    optimizer.step(lambda: x.sum(1))
    assert optimizer.run_state["U"].shape == (2, 3, 3)
    torch.testing.assert_close(x.detach(), torch.full_like(x, -0.5))


@pytest.mark.parametrize("options, message", [
    ({"rank": 0}, "rank"), ({"mu": 0.0}, "mu"), ({"mu": 1e3}, "max_mu"), ({"lr": -1.0}, "lr"),
    ({"sketch": "exact"}, "sketch"), ({"seeds": [1]}, "seeds"), ({"update_freq": 0}, "update_freq")])
def test_bad_arguments(options, message):
    """One clear line."""
    with pytest.raises(ValueError, match=message):
        NNCG([torch.zeros(2, 3, requires_grad=True)], **options)


def test_bad_parameters_and_closure():
    """Stacked alike, real, one loss a run."""
    def leaf(*shape: int, dtype: torch.dtype = DOUBLE) -> Tensor:
        return torch.zeros(*shape, dtype=dtype, requires_grad=True)

    for params in ([leaf(2, 3), leaf(3, 3)], [leaf(2), leaf(2, dtype=torch.float32)],
                   [leaf(2, 3, dtype=torch.complex64)]):
        with pytest.raises(ValueError, match="leading axis"):
            NNCG(params)
    x = leaf(2, 3)
    optimizer = NNCG([x])
    with pytest.raises(ValueError, match="losses"):
        optimizer.step(lambda: x.square().sum())
    assert optimizer.active.tolist() == [True, True]
