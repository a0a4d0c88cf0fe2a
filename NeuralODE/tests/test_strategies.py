"""What each strategy does, against closed forms, plain loops and published figures."""

import itertools
import json

import numpy as np
import pytest
import torch
from node.arguments import parse
from node.data import defect
from node.files import UsageError
from node.model import MLP
from node.objective import Objective, Problem
from node.optimizers.lbfgs import LBFGS
from node.record import RunKey
from node.strategies import STRATEGIES
from node.strategies.alm import Options as Augmented
from node.strategies.base import Row, flatten, set_option
from node.strategies.batches import Region
from node.strategies.curriculum import Options as Chain
from node.strategies.curriculum import Schedule
from node.train import train
from torch import nn

DT = 0.05


def key(inv_b, seed=0, n=40):
    return RunKey("NeuralODE", "PINODE", "pendulum", "any", "inv_b", inv_b, "n", n, seed)


def rows(count):
    return [Row(key(8.0, seed), [(seed, -1)]) for seed in range(count)]


def sweep(path, *flags):
    return parse([*flags, "--out-dir", str(path), "--device", "cpu"])


def run(path, *flags):
    """Train a command in this process; the results in the order of the paths."""
    found = sweep(path, *flags)
    assert train(found.settings, [found.settings.run(*cell) for cell in found.cells]) == 0
    return [json.loads(p.read_text()) for p in sorted(path.rglob("metrics.json"))]


def options_of(path, *flags):
    return sweep(path, *flags).settings.options


# ---- Adam and SGD --------------------------------------------------------------------------------------------------


def plain(optimizer, inv_b, horizon, seed, epochs, updates, mode="pinn"):
    """The published loop by torch's own parts, float64: batches of 32 in order, from batch 0 in every epoch."""
    objective = Objective(Problem(mode=mode, state="raw" if mode == "pinn" else "embedded"), [inv_b], [horizon])
    pairs = objective.pairs[0]
    x, target = torch.tensor(np.array(pairs.x)), torch.tensor(np.array(pairs.target))
    torch.manual_seed(seed)
    d = x.shape[1]
    layers = [nn.Linear(d, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, d)]
    net = nn.Sequential(*layers).double()
    stepper = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[optimizer](net.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.ExponentialLR(stepper, 0.995)
    batches = list(zip(x.split(32), target.split(32), strict=True))
    for _ in range(epochs):
        for state, after in itertools.islice(itertools.cycle(batches), updates):
            f = net(state)
            loss = (state + DT * f - after).square().mean()
            if mode == "pinn":
                field = torch.stack([state[:, 1], -state[:, 1] / inv_b - state[:, 0].sin()], 1)
                loss = loss + DT**2 * (f - field).square().mean()
            stepper.zero_grad()
            loss.backward()
            stepper.step()
        schedule.step()
    return (x + DT * net(x) - target).square().mean().item()


@pytest.mark.parametrize("scale", ["unit", "paper"])
@pytest.mark.parametrize("optimizer", ["Adam", "SGD"])
def test_first_order_is_the_published_loop(tmp_path, optimizer, scale):
    """13 updates an epoch whatever the horizon, in either scale; runs of different lengths side by side."""
    found = run(tmp_path, "--optimizer", optimizer, "--physics-mode", "pinn", "--inv-b-values", "8", "--horizon-values",
                "2,5", "--seeds", "0", "1", "--epochs", "6", "--precision", "float64", "--loss-scale", scale)
    for result in found:
        expected = plain(optimizer.lower(), 8.0, result["config"]["horizon"], result["seed"], 6, 13)
        assert result["train_loss"] == pytest.approx(expected, rel=1e-9)
        assert result["iterations"] == result["evaluations"] == 78


def test_updates_of_an_epoch(tmp_path):
    """The default does not depend on the other cells; T = 40 has 25 mini-batches of its own."""
    def epochs(*flags):
        found = sweep(tmp_path, "--optimizer", "Adam", "--physics-mode", "none", *flags)
        return {found.settings.horizons[n]: found.settings.epoch(n) for _, n, _ in found.cells}
    grid = ("--horizon-values", "0.5", "2", "20", "40")
    assert epochs(*grid) == {0.5: 13, 2: 13, 20: 13, 40: 25}
    assert epochs(*grid, "--updates-per-epoch", "own") == {0.5: 1, 2: 2, 20: 13, 40: 25}
    assert set(epochs(*grid, "--updates-per-epoch", "grid").values()) == {25}
    assert set(epochs(*grid, "--updates-per-epoch", "0").values()) == {25}
    assert set(epochs(*grid, "--updates-per-epoch", "7").values()) == {7}
    assert epochs("--horizon-values", "2", "--updates-per-epoch", "0") == {2: 2}
    assert set(epochs(*grid, "--training", "rollout").values()) == {1}
    assert epochs(*grid, "--batch-size", "1000") == {0.5: 1, 2: 1, 20: 1, 40: 1}


def test_every_pair_of_a_long_horizon_is_used(tmp_path):
    (result,) = run(tmp_path, "--optimizer", "Adam", "--physics-mode", "pinn", "--inv-b-values", "4",
                    "--horizon-values", "40", "--seeds", "0", "--epochs", "2", "--precision", "float64")
    assert result["train_loss"] == pytest.approx(plain("adam", 4.0, 40.0, 0, 2, 25), rel=1e-9)


# ---- L-BFGS --------------------------------------------------------------------------------------------------------


def test_published_lbfgs_and_a_converged_one(tmp_path):
    """On the paper's loss it stops after some 40 iterations, on the unit loss it gets near D/2.

    Cells at which the published stop does not hang on rounding; figures of a plain float32 loop by torch.
    """
    grid = ("--optimizer", "LBFGS", "--physics-mode", "pinn", "--seeds", "0")
    for inv_b, horizon, loss, error in ((8, 2, 3.32e-7, 4.66), (4, 5, 2.39e-7, 0.863)):
        cell = ("--inv-b-values", str(inv_b), "--horizon-values", str(horizon))
        (paper,) = run(tmp_path / f"paper{horizon}", *grid, *cell, "--loss-scale", "paper")
        assert paper["train_loss"] == pytest.approx(loss, rel=0.02) and paper["iterations"] < 60
        assert paper["test_error"] == pytest.approx(error, rel=0.03)
        assert paper["stop_reason"] in ("tolerance_change", "no_descent")
        (unit,) = run(tmp_path / f"unit{horizon}", *grid, *cell)
        floor = unit["metrics"]["defect"] / 2
        assert floor < unit["metrics"]["loss_total"] < 1.02 * floor
        assert unit["train_loss"] == pytest.approx(floor / 2, rel=0.03)
        assert unit["iterations"] > 2 * paper["iterations"]


def test_small_changes_end_a_call_on_the_papers_loss_only(tmp_path):
    """A tolerance that every step meets: one iteration as published, all of them on the unit loss."""
    flags = ("--optimizer", "LBFGS", "--physics-mode", "pinn", "--inv-b-values", "8", "--horizon-values", "1",
             "--seeds", "0", "--lbfgs-max-iter", "7", "--lbfgs-tolerance-change", "1e-3")
    (paper,) = run(tmp_path / "paper", *flags, "--loss-scale", "paper")
    (unit,) = run(tmp_path / "unit", *flags)
    assert paper["iterations"] == 1 and unit["iterations"] == 7


# ---- augmented Lagrangian ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["physics", "data"])
@pytest.mark.parametrize("scale", ["unit", "paper"])
def test_alm_follows_its_recursion(monkeypatch, target, scale):
    """A network that can take any value at any state: each exact solve is known, and so is where it all ends.

    With f = soft + s (hard - soft) and m the multiplier in units of the gap: m += mu s', mu *= 1.05,
    s' = (2 w - m) / (2 w + mu), s' = 1 - s the way to go, from s' = 1/2 on the penalty loss.
    """
    problem = Problem(mode="pinn_alm", scale=scale)
    objective = Objective(problem, [8.0, 4.0], [1.0, 0.5], torch.float64)
    monkeypatch.setattr("node.objective.propagate", lambda params, x: params[0][:, :x.shape[1]])
    monkeypatch.setattr(Objective, "is_regression", False)  # whose gradient is written out for a network
    f = torch.zeros_like(objective.data.x).requires_grad_()
    options = Augmented(target=target, outer=8, bootstrap=100)
    options.lbfgs.tolerance_change = options.lbfgs.tolerance_grad = 1e-16
    strategy = STRATEGIES["alm"](options, objective, [f], rows(2), [1, 1])
    assert [s.name for s in strategy.stages] == ["bootstrap", *(f"alm_{k + 1}" for k in range(8))]
    way, multiplier, mu = 0.5, 0.0, 1.0
    for stage, spec in enumerate(strategy.stages):
        strategy.advance(stage)
        strategy.enter(stage)
        if stage:
            multiplier, mu = multiplier + mu * way, mu * 1.05
            way = (2 * 10 - multiplier) / (2 * 10 + mu)
        optimizer = spec.build([f])
        assert isinstance(optimizer, LBFGS) and not optimizer.run_state["pairs"].any()  # fresh curvature
        for _ in range(3):
            optimizer.step(lambda o=optimizer: objective.backward([f], o.active.nonzero().flatten()))
        hard, soft = ("physics", "data") if target == "physics" else ("data", "physics")
        terms = objective.terms([f])
        for r in range(2):
            gap = defect(objective.pairs[r], DT)
            assert terms[hard][r].item() == pytest.approx(way**2 * gap, rel=1e-5)
            assert terms[soft][r].item() == pytest.approx((1 - way) ** 2 * gap, rel=1e-5)
    assert strategy.state["mu"].tolist() == pytest.approx([1.05**8] * 2)


def test_alm_reaches_its_fixed_points(tmp_path):
    """Physics hard: L_data = D, L_physics = 0. Data hard: the reverse."""
    flags = ("--optimizer", "LBFGS", "--physics-mode", "pinn_alm", "--inv-b-values", "4", "--horizon-values", "1",
             "--seeds", "0", "--lbfgs-max-iter", "100", "--alm-uncon-weight", "1", "--alm-outer-iters", "15")
    (physics,) = run(tmp_path / "physics", *flags)
    gap = physics["metrics"]["defect"]
    assert physics["train_loss"] == pytest.approx(gap, rel=0.02) and physics["metrics"]["loss_physics"] < 0.01 * gap
    (data,) = run(tmp_path / "data", *flags, "--alm-target", "data")
    assert data["train_loss"] < 0.01 * gap and data["metrics"]["loss_physics"] == pytest.approx(gap, rel=0.02)
    assert (physics["strategy"], data["strategy"]) == ("alm", "alm_data")


def test_alm_starts_from_another_run(tmp_path):
    flags = ("--optimizer", "LBFGS", "--inv-b-values", "4", "2", "--horizon-values", "1", "--seeds", "0", "1",
             "--budget", "smoke")
    first = run(tmp_path / "bank", *flags, "--physics-mode", "pinn")
    starts = sweep(tmp_path / "alm", *flags, "--physics-mode", "pinn_alm", "--alm-init-ckpt", str(tmp_path / "bank"))
    settings = starts.settings
    params, strategy = settings.build(settings.plan([settings.run(*cell).key for cell in starts.cells]))
    found = dict(zip([(c[0], c[2]) for c in starts.cells], strategy.objective.terms(params)["total"], strict=True))
    for result in first:
        total = found[result["physical"]["value"], result["seed"]].item()
        assert total == pytest.approx(result["metrics"]["loss_total"], rel=1e-6)
    assert strategy.stages[0].name == "alm_1"
    with pytest.raises(UsageError, match="--alm-init-ckpt .*: one model.pt of the run .* is wanted there, found 0"):
        sweep(tmp_path / "alm", *flags, "--seeds", "7", "--physics-mode", "pinn_alm", "--alm-init-ckpt",
              str(tmp_path / "bank"))


def test_the_sphere_as_a_hard_constraint(tmp_path):
    """Predictions end nearer to the sphere than with the penalty."""
    flags = ("--optimizer", "LBFGS", "--physics-mode", "sphere", "--inv-b-values", "8", "--horizon-values", "5",
             "--seeds", "0", "--lbfgs-max-iter", "60")
    (penalty,) = run(tmp_path / "a", *flags)
    (hard,) = run(tmp_path / "b", *flags, "--constraint-method", "alm", "--alm-outer-iters", "20")
    assert (penalty["model"], penalty["strategy"], hard["strategy"]) == ("NODE", "sphere_lbfgs", "sphere_alm")
    assert hard["metrics"]["loss_physics"] < penalty["metrics"]["loss_physics"]


# ---- curriculum ----------------------------------------------------------------------------------------------------


def test_the_papers_sixty_stages():
    stages = Schedule().values(15.0)
    assert len(stages) == 60 and stages[0] == 0.25 and stages[-1] == 15.0
    assert len(Schedule().values(1.0)) == 4 and len(Schedule(start=1.0).values(15.0)) == 57
    assert Schedule(start=1.0, step=2.0).values(6.0) == [1, 3, 5, 6]
    assert Schedule(start=5.0, step=2.0).values(0.5) == [5, 3, 1, 0.5]  # downwards
    assert Schedule(start=3.0).values(3.0) == [3]
    in_b = Schedule("b", 1.0, 0.25).values(4.0)
    assert in_b == pytest.approx([1, 1 / 0.75, 2, 4])
    with pytest.raises(UsageError, match="--cl-inv-delta: steps of 1e-09"):
        Schedule(step=1e-9).values(15.0)


def test_curriculum_shares_chains():
    plan = STRATEGIES["cl"].plan
    found = plan(Chain(), [key(1.0), key(15.0), key(7.3), key(1.0, 1), key(15.0, 1), key(15.0, 0, n=20)])
    by_end = {(row.physical, row.seed, row.key.data_value): dict(row.runs) for row in found}
    assert by_end == {(15.0, 0, 40): {1: 59, 0: 3}, (15.0, 1, 40): {4: 59, 3: 3}, (7.3, 0, 40): {2: 29},
                      (15.0, 0, 20): {5: 59}}
    assert [row.key.data_value for row in found] == sorted(row.key.data_value for row in found)


@pytest.mark.parametrize("inner", [["LBFGS"], ["Adam", "--cl-inner-epochs", "1"]])
def test_a_target_on_the_chain_ends_as_a_chain_of_its_own(tmp_path, inner):
    flags = ("--optimizer", *inner, "--physics-mode", "pinn", "--cl-warmup", "--cl-inv-delta", "0.5", "--budget",
             "smoke", "--horizon-values", "1", "--seeds", "0", "--precision", "float64")
    flags += ("--lbfgs-max-iter", "8") if inner == ["LBFGS"] else ()
    shared = {r["physical"]["value"]: r for r in run(tmp_path / "all", *flags, "--inv-b-values", "1", "2", "1.6")}
    for value, alone in shared.items():
        (result,) = run(tmp_path / str(value), *flags, "--inv-b-values", str(value))
        assert result["train_loss"] == pytest.approx(alone["train_loss"], rel=1e-9)
        assert result["test_error"] == pytest.approx(alone["test_error"], rel=1e-9)
        assert result["iterations"] == alone["iterations"]
        assert result["metrics"]["defect"] == alone["metrics"]["defect"]  # the data of its own 1/b


def test_curriculum_before_an_augmented_lagrangian(tmp_path):
    """The solves are at each cell's own 1/b, whatever the length of its chain; company changes nothing."""
    flags = ("--optimizer", "LBFGS", "--physics-mode", "pinn_alm", "--cl-warmup", "--cl-inv-delta", "0.5",
             "--alm-outer-iters", "3", "--lbfgs-max-iter", "6", "--horizon-values", "1", "--seeds", "0", "--precision",
             "float64")
    both = {r["physical"]["value"]: r for r in run(tmp_path / "both", *flags, "--inv-b-values", "1", "2")}
    for value, chain in ((1, 3), (2, 5)):
        (alone,) = run(tmp_path / str(value), *flags, "--inv-b-values", str(value))
        assert alone["train_loss"] == pytest.approx(both[value]["train_loss"], rel=1e-9)
        # more than the three solves alone: the chain was walked
        assert 6 * 3 < alone["iterations"] == both[value]["iterations"] <= 6 * (chain + 3)
        assert alone["strategy"] == "alm_cl"


# ---- region, NysNewton-CG, budgets ---------------------------------------------------------------------------------


def test_region_follows_the_spread_of_the_gradients():
    """Copies lie within the region; its size is that of the definition, from gradients in the paper's units."""
    for scale in ("unit", "paper"):
        objective = Objective(Problem(mode="pinn_region", scale=scale), [8.0, 4.0], [1.0, 2.0], torch.float64)
        params = list(MLP([0, 1], 2, (5, 5), torch.float64).parameters())
        options = STRATEGIES["lbfgs"].Options(region=Region(rho=0.001, samples=3, history=2))
        strategy = STRATEGIES["lbfgs"](options, objective, params, rows(2), [1, 1])
        strategy.advance(0)
        strategy.enter(0)
        active, seen, radius = torch.tensor([True, True]), [], [0.001, 0.001]
        for _ in range(3):
            strategy.before_step(active)
            offsets = objective.offsets
            assert offsets.shape == (2, 2, 39, 2)
            for r, count in enumerate((19, 39)):
                inside = offsets[:, r, :count].abs()
                assert 0.8 * radius[r] < inside.max() <= radius[r] and not offsets[:, r, count:].any()
            assert not torch.equal(offsets[:, 0, :19], offsets[:, 1, :19])
            strategy.before_evaluation(active)
            objective.backward(params, torch.arange(2))
            strategy.after_evaluation(active)
            gradient = torch.cat([p.grad.flatten(1) for p in params], 1)
            seen.append(gradient * (1 if scale == "paper" else DT**2))
            with torch.no_grad():
                params[0] -= 0.1 * params[0].grad / params[0].grad.norm()
            strategy.after_step(active)
            kept = torch.stack(seen[-2:])
            spread = (kept.std(0, correction=0) / (kept.abs().mean(0) + 1e-6)).mean(1)
            radius = [min(0.001 / (s or 1.0), 0.05) for s in spread.tolist()]
        assert strategy.state["spread"].tolist() == pytest.approx(spread.tolist())


def test_a_region_of_no_size_is_the_plain_loss(tmp_path):
    flags = ("--optimizer", "Adam", "--inv-b-values", "4", "--horizon-values", "1", "--seeds", "0", "--epochs", "3",
             "--precision", "float64")
    (region,) = run(tmp_path / "region", *flags, "--physics-mode", "pinn_region", "--region-max-radius", "0")
    (plain_loss,) = run(tmp_path / "plain", *flags, "--physics-mode", "pinn")
    (wide,) = run(tmp_path / "wide", *flags, "--physics-mode", "pinn_region")
    assert region["train_loss"] == pytest.approx(plain_loss["train_loss"], rel=1e-9)
    assert wide["train_loss"] != pytest.approx(plain_loss["train_loss"], rel=1e-6)


def test_nncg_goes_on_where_lbfgs_stopped(tmp_path):
    """As published it is an exact no-op after L-BFGS; here it lowers the loss, also on the paper's scale."""
    for scale in ("unit", "paper"):
        (found,) = run(tmp_path / scale, "--optimizer", "Adam_LBFGS_NNCG", "--physics-mode", "pinn",
                       "--inv-b-values", "8", "--horizon-values", "2", "--seeds", "0", "--lbfgs-max-iter", "20",
                       "--nncg-epochs", "15", "--loss-scale", scale, "--lbfgs-tolerance-change", "1e-9")
        floor = found["metrics"]["defect"] / 4
        assert floor < found["train_loss"] < found["metrics"]["lbfgs_train_loss"] < 1e-5
        assert found["iterations"] == 20 + 15


def test_paper_budgets(tmp_path):
    """Table 4 of the paper."""
    pinn = ("--physics-mode", "pinn")
    adam = options_of(tmp_path, "--optimizer", "Adam", *pinn)
    assert (adam.epochs, adam.adam.lr, adam.adam.beta1, adam.adam.beta2) == (600, 1e-3, 0.9, 0.999)
    lbfgs = options_of(tmp_path, "--optimizer", "LBFGS", *pinn, "--loss-scale", "paper")
    assert lbfgs.calls == 1 and flatten(lbfgs.lbfgs) == {
        "lr": 1.0, "max_iter": 1000, "history_size": 50, "tolerance_grad": 1e-7, "tolerance_change": 1e-9}
    nncg = options_of(tmp_path, "--optimizer", "Adam_LBFGS_NNCG", *pinn)
    assert (nncg.epochs, nncg.lbfgs.max_iter, nncg.iterations, nncg.nncg.rank) == (0, 1000, 500, 10)
    alm = options_of(tmp_path, "--optimizer", "LBFGS", "--physics-mode", "pinn_alm")
    assert (alm.outer, alm.lbfgs.max_iter, alm.factor, alm.target) == (50, 500, 1.05, "physics")
    cl = options_of(tmp_path, "--optimizer", "LBFGS", *pinn, "--cl-warmup")
    assert (len(cl.schedule.values(15.0)), cl.lbfgs.max_iter, cl.schedule.step) == (60, 500, 0.25)


def test_epochs_are_the_published_unit(tmp_path):
    def options(*flags):
        return options_of(tmp_path, "--physics-mode", "pinn", *flags)
    assert options("--optimizer", "Adam", "--epochs", "7").epochs == 7
    assert options("--optimizer", "LBFGS", "--epochs", "7").calls == 7
    assert options("--optimizer", "NNCG", "--epochs", "7").iterations == 7
    found = options("--optimizer", "Adam_NNCG", "--epochs", "7")
    assert (found.epochs, found.iterations) == (3, 4)
    found = options("--optimizer", "Adam_NNCG", "--epochs", "7", "--nncg-switch-epoch", "5")
    assert (found.epochs, found.iterations) == (5, 2)
    assert options("--optimizer", "Adam_NNCG", "--epochs", "7", "--nncg-switch-epoch", "-1").epochs == 3
    found = options("--optimizer", "Adam_LBFGS_NNCG", "--epochs", "7", "--nncg-epochs", "3", "--lbfgs-max-iter", "9")
    assert (found.epochs, found.iterations, found.lbfgs.max_iter) == (7, 3, 9)
    assert options("--optimizer", "LBFGS", "--cl-warmup", "--epochs", "2").schedule.calls == 2
    found = options_of(tmp_path, "--optimizer", "LBFGS", "--physics-mode", "pinn_alm", "--alm-outer-iters", "50",
                       "--alm-warmup-epochs", "500")
    assert (found.outer, found.warmup, found.bootstrap) == (50, 500, 1000)


@pytest.mark.parametrize("name", STRATEGIES)
def test_budgets_name_real_options(name):
    strategy = STRATEGIES[name]
    assert {"smoke", "laptop"} <= set(strategy.budgets)
    for budget in strategy.budgets.values():
        options = strategy.Options()
        for option, value in budget.items():
            set_option(options, option, value, strategy.main, "--budget")
            assert flatten(options)[option] == value


def test_rollout_training_learns_the_trajectory(tmp_path):
    """Its loss, that of the rollout, falls by orders of magnitude, and is what the saved weights give."""
    flags = ("--optimizer", "LBFGS", "--physics-mode", "none", "--state", "raw", "--inv-b-values", "4", "--training",
             "rollout", "--horizon-values", "1", "--seeds", "0", "--lbfgs-max-iter", "40")
    (found,) = run(tmp_path, *flags)
    objective = Objective(Problem(mode="none", state="raw", training="rollout"), [4.0], [1.0])
    start = objective.terms(list(MLP([0], 2, (16, 16, 16)).parameters()))["data"].item()
    weights = torch.load(next(tmp_path.rglob("model.pt")), weights_only=True)["params"]
    assert found["train_loss"] == pytest.approx(objective.terms([w[None] for w in weights])["data"].item(), rel=1e-5)
    assert found["train_loss"] < 1e-3 * start
    assert found["metrics"]["train_mse"] != found["train_loss"]
