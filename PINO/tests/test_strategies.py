"""What each strategy does to the loss, the rate and the samples; and that real training lowers the loss."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import small
import torch
from pino.arguments import parse
from pino.generate import resolve
from pino.optimizers.adam import Adam as StackedAdam
from pino.record import RunKey
from pino.strategies import ALM, STRATEGIES, ALMData, Curriculum
from pino.strategies.alm import HeldCosine
from pino.strategies.base import Row
from pino.strategies.batches import MiniBatches


def key(contrast: float = 4.0, n: int = 5, seed: int = 0) -> RunKey:
    """A run of these values."""
    return RunKey("PINO", "PINO", "darcy", "any", "r", contrast, "n", n, seed)


def make(name: str, n: int = 5, batch_size: int = 32, contrast: float = 4.0, seed: int = 0, **changes):
    """A strategy on a small objective, and what it was made of."""
    objective, params = small.objective(n, contrast)
    options = replace(STRATEGIES[name].Options(), **changes)
    row = Row(key(contrast, n, seed), [(0, -1)])
    return STRATEGIES[name](options, objective, params, [row], batch_size, lambda *_: None), objective, params


def stage_names(strategy) -> list[str]:
    """In order."""
    return [stage.name for stage in strategy.stages]


def test_stages_are_those_of_the_papers_table():
    """Iterations of Table 3, and 15,000 + 40 x 500 for the augmented Lagrangian."""
    lengths = {name: [(stage.name, stage.length(0)) for stage in make(name)[0].stages] for name in STRATEGIES
               if name != "cl"}
    solves = [(f"alm_{k}", 500) for k in range(1, 41)]
    assert lengths == {
        "adam": [("adam", 10_000)], "lbfgs": [("lbfgs", 10_000)], "adam_lbfgs": [("adam", 10_000), ("lbfgs", 10_000)],
        "nncg": [("adam", 10_000), ("lbfgs", 1_000), ("nncg", 100)],
        "alm": [("adam", 15_000), *solves], "alm_data": [("adam", 15_000), *solves]}
    nncg = make("nncg")[0]
    optimizer = nncg.stages[2].build(nncg.params)
    assert optimizer.param_groups[0]["rank"] == 4
    assert nncg.stages[1].build(nncg.params).param_groups[0]["history_size"] == 100


@pytest.mark.parametrize("iterations", [1, 10, 15_000])
def test_learning_rate_is_halved_at_each_fifth(iterations):
    """As torch's MultiStepLR with milestones at 20, 40, 60 and 80 %; a single iteration has the full rate."""
    strategy, _, params = make("adam", iterations=iterations)
    optimizer = strategy.stages[0].build(params)
    counts = torch.arange(1, iterations + 1)
    rates = torch.cat([optimizer.rate(torch.tensor([0]), c[None]) for c in counts])
    expected = [1e-3 * 0.5 ** sum(k >= part * iterations for part in (0.2, 0.4, 0.6, 0.8)) for k in range(iterations)]
    torch.testing.assert_close(rates, torch.tensor(expected, dtype=torch.float64))


def test_batches_walk_all_samples_in_a_new_order_every_epoch():
    strategy, objective, _ = make("adam", n=11, batch_size=4)
    strategy.advance(0)
    strategy.enter(0)
    seen = []
    for _ in range(6):
        strategy.before_evaluation(torch.tensor([True]))
        strategy.after_evaluation(torch.tensor([True]))
        seen.append(objective.batch.tolist())
    assert [len(batch) for batch in seen] == [4, 4, 3] * 2
    first, second = sum(seen[:3], []), sum(seen[3:], [])
    assert sorted(first) == sorted(second) == list(range(11)) and first != second
    again = make("adam", n=11, batch_size=4)[0]
    again.enter(0)
    assert [again.rows_of(k).tolist() for k in (4, 0, 5)] == [seen[4], seen[0], seen[5]], "of the number alone"
    orders = []
    for steps, first in ((0, 0), (7, 1)):  # the same solve, with weights from elsewhere and after a stage of Adam
        solve = make("alm", n=11, batch_size=4, steps=steps)[0]
        solve.enter(first)
        orders.append([solve.rows_of(k).tolist() for k in range(3)])
    assert orders[0] == orders[1]
    other = make("adam", n=11, batch_size=4, seed=1)[0]
    other.enter(0)
    assert other.rows_of(0).tolist() != seen[0]


def test_trace_and_published_averages():
    """The mean over all batches, and mean and least of the last 50."""
    strategy, objective, params = make("adam", n=5, batch_size=2)
    strategy.enter(0)
    losses = []
    for _ in range(60):
        strategy.before_evaluation(torch.tensor([True]))
        loss = objective.backward(params, torch.tensor([0]))
        strategy.after_evaluation(torch.tensor([True]))
        found = strategy.trace(loss)
        assert found["batch_loss"] == pytest.approx(found["objective"], rel=1e-12)
        assert 5 * found["batch_data_loss"][0] + found["batch_pde_loss"][0] == pytest.approx(loss.item(), rel=1e-12)
        losses.append(loss.item())
    results = strategy.batch_results()
    assert results == pytest.approx({"batch_loss_mean": np.mean(losses), "batch_loss_last50_mean": np.mean(losses[10:]),
                                     "batch_loss_last50_min": min(losses[10:])}, rel=1e-12)
    assert make("lbfgs")[0].batch_results() == {}


# ---- augmented Lagrangian ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "term"), [("alm", 1), ("alm_data", 0)])
def test_multipliers(name, term):
    """With weights that stay: lambda = mu h after one solve, mu h (1 + rho) after two; each of its own sample."""
    strategy, objective, params = make(name, n=5, steps=0, outer=3)
    value = objective.all_terms(params)[term]
    slack = 0.05 if name == "alm" else 0.0
    h = (1 - slack) * value
    strategy.advance(0)
    strategy.enter(0)
    assert strategy.state["lambda"].tolist() == [[0.0] * 5] and strategy.state["mu"].tolist() == [2.0]
    strategy.advance(1)
    torch.testing.assert_close(strategy.state["lambda"][0], 2 * h)
    strategy.advance(2)
    torch.testing.assert_close(strategy.state["lambda"][0], (2 + 2 * 1.05) * h)
    assert strategy.state["mu"].item() == pytest.approx(2 * 1.05**2)
    strategy.enter(2)
    d, p = objective.all_terms(params)
    multiplier, mu = strategy.state["lambda"][0], strategy.state["mu"].item()
    soft = 5 * d if name == "alm" else 200 * p
    expected = soft + multiplier * h + mu / 2 * h**2
    for batch in (torch.tensor([4, 1, 2]), None):
        objective.batch = batch
        mean = expected.mean() if batch is None else expected[batch].mean()
        assert objective.backward(params, torch.tensor([0])).item() == pytest.approx(mean.item(), rel=1e-12)


def test_penalty_grows_as_the_sheet_says():
    """2 x 1.05^39 in the last solve, 241.6 in all."""
    strategy, _, _ = make("alm", n=2, steps=0)
    mus = []
    for stage in range(len(strategy.stages)):
        strategy.advance(stage)
        mus.append(strategy.state["mu"].item())
    assert mus[-1] == pytest.approx(13.4, abs=0.05) and sum(mus) == pytest.approx(241.6, abs=0.05)


def test_rate_of_the_solves_is_held_and_falls_by_a_cosine():
    optimizer = HeldCosine([torch.zeros(1, 3, requires_grad=True)], 500, 0.2, lr=1e-4)
    counts = torch.tensor([1, 100, 101, 301, 500, 501])
    rates = torch.cat([optimizer.rate(torch.tensor([0]), c[None]) for c in counts])
    half = [0.0, 0.0, 0.0, 0.5, 399 / 400, 1.0]
    expected = [1e-4 * (1 + math.cos(math.pi * s)) / 2 for s in half]
    torch.testing.assert_close(rates, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-18)
    strategy, _, params = make("alm", n=2, steps=0, cosine=False)
    assert type(strategy.stages[0].build(params)) is StackedAdam


def test_the_best_solve_is_kept_when_asked_for():
    """The weights of the solve with the lowest test error are those of the end, whatever came after."""
    strategy, objective, params = make("alm", n=3, steps=0, outer=3, save_best=True)
    assert stage_names(strategy) == ["alm_1", "alm_2", "alm_3", "best"] and strategy.stages[3].length(0) == 0
    errors, weights = [], []
    strategy.advance(0)
    for stage in range(1, 4):
        with torch.no_grad():  # a solve that does something else every time
            for p in params:
                p += (-1) ** stage * 0.3 * stage * torch.randn(p.shape, generator=torch.Generator().manual_seed(stage),
                                                               dtype=p.dtype)
        errors.append(objective.test_errors(params).mean().item())
        weights.append([p.detach().clone() for p in params])
        strategy.advance(stage)
    best = int(np.argmin(errors))
    assert len(set(errors)) == 3 and best != 2, errors
    torch.testing.assert_close([p.detach() for p in params], weights[best], rtol=0, atol=0)


def test_inner_lbfgs_and_variants():
    strategy, _, params = make("alm", n=2, steps=7, outer=2, inner="lbfgs", inner_steps=9)
    assert [(s.name, s.length(0)) for s in strategy.stages] == [("adam", 7), ("alm_1", 9), ("alm_2", 9)]
    assert isinstance(strategy.stages[0], MiniBatches) and not isinstance(strategy.stages[1], MiniBatches)
    assert (ALMData.Options().weight, ALMData.Options().slack, ALM.Options().weight) == (200.0, 0.0, 1.0)


# ---- curriculum -----------------------------------------------------------------------------------------------


def test_chain_of_contrasts():
    """1, 1.1, ..., r; targets on one another's way share it; the last stage is always the target itself."""
    options = Curriculum.Options()
    chain = options.values(10.0)
    assert len(chain) == 91 and chain[0] == 1 and chain[-1] == 10 and np.diff(chain) == pytest.approx(0.1)
    assert {float(r) for r in (2, 3, 4, 5, 6, 8)} < {*chain}, "to the last bit: they name data files"
    assert options.values(1.0) == [1.0] and options.values(1.25) == pytest.approx([1, 1.1, 1.2, 1.25])
    assert replace(options, start=4.0, step=1.5).values(2.0) == [4.0, 2.5, 2.0], "downwards as well"
    keys = [key(r, n, seed) for r in (1, 4, 2.05, 10) for n in (5, 20) for seed in (0, 1)]
    rows = Curriculum.plan(options, keys)
    assert sorted(len(row.runs) for row in rows) == [1] * 4 + [3] * 4
    for row in rows:
        for k, stage in row.runs:
            found = keys[k]
            assert (found.seed, found.data_value) == (row.key.seed, row.key.data_value)
            assert options.values(row.key.physical_value)[stage] == pytest.approx(found.physical_value)
    assert len(Curriculum.plan(replace(options, tail=3), keys)) == len(keys), "iterations at the end are not shared"


def test_published_ramp_of_the_right_hand_side(tmp_path: Path):
    """Both terms are relative and u is linear in f: the loss of a network scaled by f is the same in every stage."""
    strategy, _, _ = make("cl", ramp="f", start=0.25, step=0.25, target=1.0, iterations=3)
    assert stage_names(strategy) == ["f=0.25", "f=0.5", "f=0.75", "f=1"]
    arguments = [*small.TINY, "--optimizer", "cl", "--n_samples", "3", "--r", "4", "--cl_ramp", "f",
                 "--data_dir", str(tmp_path)]
    sweep = parse(arguments)
    settings = sweep.settings[0]
    settings.source.prepare(sweep.contrasts, 3, 3, settings.device)
    whole, half = settings.samples(4.0, None, 4.0), settings.samples(4.0, 0.5, 4.0)
    rows = torch.arange(3)

    def network(a: torch.Tensor) -> torch.Tensor:
        line = torch.linspace(0, 1, a.shape[1])
        return 0.01 * torch.outer((math.pi * line).sin(), (math.pi * line).sin()).expand_as(a)

    for one, other in zip(whole[0].terms(network, rows), half[0].terms(lambda a: 0.5 * network(a), rows)):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(whole[1].errors(network, rows), half[1].errors(lambda a: 0.5 * network(a), rows))


def test_solutions_of_the_stages():
    """Solved anew for the same geometry: those of a target are those of its data file."""
    four, ten = small.fields(3, 4.0), small.fields(3, 10.0)
    found = resolve(four, 10.0, torch.device("cpu"), 1e-11)
    assert (found.low, found.high, found.contrast) == (3.0, 30.0, 10.0)
    np.testing.assert_array_equal(found.bits, ten.bits)
    np.testing.assert_allclose(found.u, ten.u, rtol=1e-6)


# ---- training -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_train_and_test_samples_are_disjoint(seed, tmp_path):
    """Whatever seed, of weights or data, in all stages: the published curriculum trained on its test fields."""
    for flags in (["--data_seed", str(seed)], ["--seed", str(seed), "--optimizer", "cl"]):
        sweep = parse([*small.TINY, "--n_samples", "6", "--r", "4", "--data_dir", str(tmp_path), *flags])
        settings = sweep.settings[0]
        stages = settings.stage_contrasts([4.0])
        settings.source.prepare([4.0], 6, 6, settings.device, stages)
        for contrast in (*stages, 4.0):
            train, test, _, _ = settings.samples(contrast, None, 4.0)
            found = [{(a > 3).numpy().tobytes() for a in samples.a} for samples in (train, test)]
            if contrast > 1:
                assert [len(patterns) for patterns in found] == [6, 4] and not found[0] & found[1]
