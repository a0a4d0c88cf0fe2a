"""What each strategy adds to its optimizer, against closed forms."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from pinn.arguments import parse
from pinn.data import Grid
from pinn.files import UsageError
from pinn.model import MLP
from pinn.objective import Objective
from pinn.optimizers.lbfgs import LBFGS
from pinn.pdes import SYSTEMS
from pinn.record import RunKey
from pinn.strategies import STRATEGIES
from pinn.strategies.base import Row, flatten, set_option
from pinn.strategies.curriculum import Options as Chain
from pinn.strategies.curriculum import values
from pinn.train import train


def rows(count):
    return [Row(key(1.0, seed), [(seed, -1)]) for seed in range(count)]


def key(physical, seed, system="convection"):
    return RunKey("PINN", "PINN", system, "cl", "beta", physical, "n", 30, seed)


class Constrained:
    """Two runs of: minimise mean of (x - a_r)^2, soft, subject to x_1 + x_2 = b_r, hard.

    With weight w = 1 on the soft part (mean over 2 terms) and the hard mean over its single point, the KKT point is
    x = a + s, s = (b - sum a)/2 each, with multiplier lambda = -s.
    """

    a = torch.tensor([[1.0, 2.0], [-3.0, 0.5]], dtype=torch.float64)
    b = torch.tensor([1.0, 4.0], dtype=torch.float64)
    components = [SimpleNamespace(name="pde"), SimpleNamespace(name="bc")]
    like = {"dtype": torch.float64}
    group_size, weight_decay = None, 0.0

    def soft_density(self, name, c, runs, points):
        return c.square()

    def vectors(self, params):
        (x,) = params
        return {"pde": (x - self.a).detach(), "bc": (x.sum(1) - self.b)[:, None].detach()}

    def backward(self, params):
        (x,) = params
        x.grad = None
        everything, points = slice(None), slice(None)
        losses = sum(self.density(name, c, everything, points).mean(1)
                     for name, c in (("pde", x - self.a), ("bc", (x.sum(1) - self.b)[:, None])))
        losses.sum().backward()
        return losses.detach()


@pytest.mark.parametrize("update_first", [False, True])
def test_alm_converges_to_the_kkt_point(update_first):
    objective, x = Constrained(), torch.zeros(2, 2, dtype=torch.float64, requires_grad=True)
    options = STRATEGIES["alm"].Options(outer=20, iterations=50, update_first=update_first)
    options.lbfgs.tolerance_change = 1e-16
    strategy = STRATEGIES["alm"](options, objective, [x], rows(2))
    errors = []
    for stage, spec in enumerate(strategy.stages):
        strategy.advance(stage)
        strategy.enter(stage)
        optimizer = spec.build([x])
        assert isinstance(optimizer, LBFGS) and not optimizer.run_state["pairs"].any()  # fresh curvature
        optimizer.step(lambda: objective.backward([x]))
        optimizer.step(lambda: objective.backward([x]))
        errors.append((x.sum(1) - objective.b).abs().max().item())
    shift = (objective.b - objective.a.sum(1)) / 2
    torch.testing.assert_close(x.detach(), objective.a + shift[:, None], rtol=0, atol=1e-6)
    torch.testing.assert_close(strategy.state["lambda_bc"][:, 0], -shift, rtol=0, atol=1e-3)
    assert errors[5] < errors[1] / 10
    grown = 2 * 1.2 ** (20 if update_first else 19)
    assert strategy.state["mu"].tolist() == pytest.approx([grown, grown])


def objective_of(name="convection", physical=(5.0, 5.0), n=30, **options):
    system = SYSTEMS[name]
    objective = Objective(system, physical, system.defaults, n, [0] * len(physical), Grid(system.x_range, 33, 11),
                          dtype=torch.float64, **options)
    return objective, list(MLP(range(len(physical)), [8, 8], torch.float64).parameters())


def test_alm_objective_is_the_augmented_lagrangian():
    objective, params = objective_of("wave")
    options = STRATEGIES["alm"].Options(hard="bc_upper+ic", soft_weight=0.7, mu=3.0, weight_decay=0.1, outer=2)
    strategy = STRATEGIES["alm"](options, objective, params, rows(2))
    strategy.advance(0)
    c = objective.vectors(params)
    for name in ("bc_upper", "ic"):
        strategy.state[f"lambda_{name}"] = torch.randn_like(c[name])
    strategy.enter(0)
    expected = 0.1 * sum(p.square().flatten(1).sum(1) for p in params)
    for name, value in c.items():
        if name in ("bc_upper", "ic"):
            expected = expected + (strategy.state[f"lambda_{name}"] * value).mean(1) + 1.5 * value.square().mean(1)
        else:
            expected = expected + 0.7 * value.square().mean(1)
    torch.testing.assert_close(objective.backward(params, torch.arange(2)), expected, rtol=1e-12, atol=0)
    before = strategy.state["lambda_ic"].clone()
    strategy.advance(1)
    torch.testing.assert_close(strategy.state["lambda_ic"], before + 3.0 * c["ic"], rtol=1e-12, atol=0)
    assert strategy.state["mu"].tolist() == pytest.approx([3.6, 3.6])


def test_alm_pretraining_uses_the_soft_loss():
    objective, params = objective_of()
    options = STRATEGIES["alm"].Options(pretrain=10, outer=2)
    strategy = STRATEGIES["alm"](options, objective, params, rows(2))
    assert [s.name for s in strategy.stages] == ["pretrain", "alm_1", "alm_2"]
    strategy.advance(0)
    strategy.enter(0)
    assert objective.density == objective.soft_density and not strategy.state
    strategy.advance(1)
    strategy.enter(1)
    assert objective.density == strategy.density and "lambda_ic" in strategy.state


def test_curriculum_reaches_70_in_140_stages():
    stages = values(Chain(), "convection", 70.0)
    assert len(stages) == 140 and stages[0] == 0.5 and stages[-1] == 70.0
    assert len(values(Chain(increment=0.05), "convection", 7.0)) == 140
    assert len(values(Chain(start=0.0), "convection", 70.0)) == 141
    assert values(Chain(), "convection", 1.2) == [0.5, 1.0, 1.2]
    assert values(Chain(), "convection", 0.3) == [0.3]
    for name, hardest, count in [("reaction", 12.0, 120), ("wave", 6.0, 120), ("reaction_diffusion", 30.0, 120)]:
        assert len(values(Chain(), name, hardest)) == count


def test_curriculum_shares_chains():
    plan = STRATEGIES["cl"].plan
    found = plan(Chain(), [key(5.0, 0), key(20.0, 0), key(7.3, 0), key(5.0, 1), key(20.0, 1)])
    by_end = {(row.physical, row.seed): dict(row.runs) for row in found}
    assert by_end == {(20.0, 0): {1: 39, 0: 9}, (20.0, 1): {4: 39, 3: 9}, (7.3, 0): {2: 14}}
    assert len(plan(Chain(redraw=True), [key(5.0, 0), key(20.0, 0)])) == 2


def command(tmp_path, *extra):
    return parse(["--num_neurons", "8", "--num_layers", "3", "--num_res", "30", "--num_x", "33", "--num_t", "11",
                  "--precision", "float64", "--device", "cpu", "--save_path", str(tmp_path), *extra])


def record(tmp_path, strategy, beta, seed=0, system="convection"):
    (path,) = (tmp_path / system / strategy).glob(f"*_{beta}/n_30/seed_{seed}/metrics.json")
    return json.loads(path.read_text())


def test_a_target_on_the_chain_ends_as_a_chain_of_its_own(tmp_path):
    flags = ["--opt", "cl", "--opt_params", '{"increment": 2, "iterations": 5}']
    for name, betas in [("shared", "[2, 6, 5]"), ("alone2", "[2]"), ("alone5", "[5]"), ("alone6", "[6]")]:
        settings, physical, seeds = command(tmp_path / name, "--pde_params", f'{{"beta": {betas}}}',
                                            "--initial_seed", "0", *flags)
        assert train(settings[0], settings[0].runs(physical, seeds)) == 0
    for beta in (2, 5, 6):
        shared, alone = (record(tmp_path / name, "cl", beta) for name in ("shared", f"alone{beta}"))
        assert shared["train_loss"] == pytest.approx(alone["train_loss"], rel=1e-5)
        assert shared["test_error"] == pytest.approx(alone["test_error"], rel=1e-5)
        assert shared["iterations"] == alone["iterations"] == 5 * math.ceil(beta / 2)


def test_ropinn_region_and_draws():
    objective, params = objective_of()
    options = STRATEGIES["ropinn"].Options(steps=3, region=1e-3, samples=2, window=2)
    strategy = STRATEGIES["ropinn"](options, objective, params, rows(2))
    active, base = torch.tensor([True, True]), objective.interior.repeat(1, 2, 1)
    assert strategy.region.tolist() == [1e-3, 1e-3]
    gradients = []
    for step in range(3):
        strategy.before_step(active)
        points = objective.residual_points.clone()
        moved = points - base
        assert moved.min() >= 0 and (moved <= strategy.region[:, None, None] + 1e-15).all() and moved.max() > 0
        assert not torch.equal(points[0], points[1])
        means = []
        for _ in range(2):
            strategy.before_evaluation(active)
            assert torch.equal(objective.residual_points, points)  # one function for the whole line search
            objective.backward(params, torch.arange(2))
            strategy.after_evaluation(active)
            means.append(torch.cat([p.grad.flatten(1) for p in params], 1).clone())
            with torch.no_grad():
                params[0] -= 0.01 * params[0].grad
        gradients.append(sum(means) / 2)
        strategy.after_step(active)
        kept = torch.stack(gradients[-2:])
        spread = (kept.std(0, correction=0) / (kept.abs().mean(0) + 1e-6)).mean(1)
        expected = [1.0, 1.0] if step == 0 else spread.tolist()
        assert strategy.state["sigma"].tolist() == pytest.approx(expected)
    strategy.state["sigma"] = torch.tensor([1e-9, 1.0], dtype=torch.float64)
    assert strategy.region.tolist() == pytest.approx([0.01, 1e-3])


def test_ropinn_can_draw_at_every_evaluation():
    objective, params = objective_of()
    options = STRATEGIES["ropinn"].Options(steps=1, redraw="evaluation")
    strategy = STRATEGIES["ropinn"](options, objective, params, rows(2))
    active = torch.tensor([True, True])
    strategy.before_step(active)
    first = objective.residual_points.clone()
    strategy.before_evaluation(active)
    assert not torch.equal(first, objective.residual_points)


def test_paper_budgets(tmp_path):
    """Table 2 of the paper, in inner iterations."""
    found = {name: command(tmp_path, "--opt", name)[0][0].options for name in STRATEGIES}
    assert found["lbfgs"].iterations == 2000 * 20
    assert flatten(found["lbfgs"]) | {"lbfgs_lr": 1.0, "lbfgs_history_size": 100, "lbfgs_tolerance_grad": 1e-7,
                                      "lbfgs_tolerance_change": 1e-9} == flatten(found["lbfgs"])
    nncg = found["nncg"]
    assert (nncg.adam_iterations, nncg.lbfgs_iterations, nncg.iterations, nncg.nncg.rank) == (2000, 1000 * 20, 2000, 50)
    assert nncg.adam.lr == 1e-3 and nncg.nncg.lr == 1.0
    alm = found["alm"]
    assert (alm.outer, alm.iterations, alm.mu, alm.factor) == (50, 2000, 2.0, 1.2)
    assert (found["cl"].iterations, len(values(found["cl"], "convection", 70.0))) == (2000, 140)
    ropinn = found["ropinn"]
    assert (ropinn.steps, ropinn.region, ropinn.samples, ropinn.window) == (1000, 1e-5, 1, 5)


def options_of(tmp_path, *flags):
    settings = command(tmp_path, *flags)[0][0]
    return settings.strategy, settings.options


def test_epochs_are_the_published_unit(tmp_path):
    assert options_of(tmp_path, "--opt", "adam", "--epochs", "7")[1].iterations == 7
    assert options_of(tmp_path, "--opt", "lbfgs", "--epochs", "7")[1].iterations == 140
    assert options_of(tmp_path, "--opt", "ropinn", "--epochs", "7")[1].steps == 7
    assert options_of(tmp_path, "--opt", "cl", "--epochs", "7")[1].iterations == 140
    name, options = options_of(tmp_path, "--opt", "lbfgs", "--hc", "alm", "--epochs", "7", "--alm_iter", "50")
    assert (name, options.pretrain, options.outer, options.update_first) == ("alm", 140, 50, True)
    name, options = options_of(tmp_path, "--opt", "adam", "--cl", "--epochs", "7")
    assert (name, options.inner, options.iterations) == ("cl", "adam", 7)
    _, options = options_of(tmp_path, "--opt", "adam_lbfgs", "--opt_params", '{"switch_epochs": [10, 15]}',
                            "--epochs", "30")
    assert (options.adam_iterations, options.iterations) == (10, 400)
    name, options = options_of(tmp_path, "--opt", "adam_lbfgs_nncg", "--epochs", "50", "--opt_params",
                               '{"switch_epoch_lbfgs": 20, "switch_epoch_nncg": 30, "precond_update_freq": 10}')
    assert (name, options.adam_iterations, options.lbfgs_iterations, options.iterations) == ("nncg", 20, 200, 20)
    assert options.nncg.update_freq == 10


def test_adam_lbfgs_forgets_its_history_at_each_later_switch():
    objective, params = objective_of()
    options = STRATEGIES["adam_lbfgs"].Options(adam_iterations=10, iterations=400, switch_epochs=[10, 15])
    stages = STRATEGIES["adam_lbfgs"](options, objective, params, rows(2)).stages
    assert [(s.name, s.iterations) for s in stages] == [("adam", 10), ("lbfgs", 100), ("lbfgs", 300)]


@pytest.mark.parametrize("name", STRATEGIES)
def test_budgets_name_real_options(name):
    strategy = STRATEGIES[name]
    for budget in strategy.budgets.values():
        options = strategy.Options()
        for key, value in budget.items():
            set_option(options, key, value, strategy.main, "--budget")
            assert flatten(options).get(key, value) == value


def test_options_are_checked():
    options = STRATEGIES["lbfgs"].Options()
    set_option(options, "history_size", 7, "lbfgs", "--opt_params")
    set_option(options, "lbfgs_lr", 1, "lbfgs", "--opt_params")
    assert options.lbfgs.history_size == 7 and options.lbfgs.lr == 1.0
    for key, value in [("history_size", "many"), ("history_size", 2.5), ("lr", True), ("lr", None)]:
        with pytest.raises(UsageError, match=f"--opt_params: {key} must be"):
            set_option(options, key, value, "lbfgs", "--opt_params")
    with pytest.raises(UsageError, match="unknown option 'rank'; allowed: iterations, lbfgs_lr"):
        set_option(options, "rank", 3, "lbfgs", "--opt_params")
