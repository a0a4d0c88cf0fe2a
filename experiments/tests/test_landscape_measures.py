"""What the figures of landscapes compute, against closed forms: densities, splits, minima, verdicts of parts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from analysis import checks, figure_sharpening, figure_tails, measures
from analysis.figure_landscape import Surface
from landscape_runs import NAN
from scipy import integrate, stats


def test_density_is_the_sum_of_gaussians() -> None:
    nodes, weights = np.array([[-3.0, 0.0, 40.0], [1.0, 2.0, NAN]]), np.array([[0.5, 0.25, 0.25], [0.5, 0.5, 0.0]])
    grid, density = measures.density(np.nan_to_num(nodes), weights)
    width = math.sqrt(5e-5 * 43)
    seen = weights > 0
    exact = sum(w * stats.norm.pdf(grid, x, width) for x, w in zip(nodes[seen], weights[seen])) / 2
    assert integrate.trapezoid(density, grid) == pytest.approx(1, abs=1e-9)
    assert np.abs(density - exact).max() < 0.01 * exact.max()
    far = (grid > 39) & (exact > 1e-9)
    assert np.allclose(np.log(density[far]), np.log(exact[far]), atol=0.5)  # down to the lowest density shown
    single = measures.density(np.array([[7.0]]), np.array([[1.0]]))
    assert integrate.trapezoid(single[1], single[0]) == pytest.approx(1)


def test_split_is_where_the_plateau_is_reached_for_good() -> None:
    rise = np.log(np.array([1, 1, 2, 4, 8, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10.0]))
    assert figure_sharpening.split(rise) == 5
    spike = rise.copy()
    spike[1] = math.log(20)  # one point is no plateau
    assert figure_sharpening.split(spike) == 5
    dip = rise.copy()
    dip[8:12] = math.log(3)
    assert figure_sharpening.split(dip) == 12
    grows = np.linspace(0, 9, 10)
    assert figure_sharpening.split(grows) >= 7
    assert figure_sharpening.split(np.log([270.0] + [900.0] * 8)) == 1  # a fast rise is one, too
    assert figure_sharpening.split(np.zeros(5)) == 0 and figure_sharpening.split(np.zeros(4)) is None


def test_shape_of_surfaces() -> None:
    a = np.linspace(-0.5, 0.5, 11)
    x, y = np.meshgrid(a, a, indexing="ij")
    bowl = Surface(None, a, a, 1e-2 + 0.01 * (x**2 + y**2), "")
    valley = Surface(None, a, a, 1e-6 + 10 * x**2, "")
    assert bowl.floor == 1.0 and bowl.depth == pytest.approx(0.12, abs=0.03)
    assert valley.floor == pytest.approx(1 / 11) and valley.depth > 5
    loss = bowl.loss.copy()
    loss[0, 0] = math.inf
    broken = Surface(None, a, a, loss, "")
    assert np.isfinite(broken.z).all() and broken.z[0, 0] == bowl.z[0, 1:].max()
    assert [one.minima for one in (bowl, valley, broken)] == [1, 1, 1]


def test_minima_are_those_of_the_loss_and_not_of_the_grid() -> None:
    a = np.linspace(-0.5, 0.5, 31)
    x, y = np.meshgrid(a, a, indexing="ij")
    for degrees in (0, 10, 25, 40):
        c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        u, v = c * x + s * y, c * y - s * x
        quadratic, wells = 1e-4 + 500 * u**2 + 0.5 * v**2, 1e-4 + 10 * u**2 + (v**2 - 0.04) ** 2
        assert [measures.count_minima(loss, 0.3) for loss in (quadratic, wells)] == [1, 2], degrees
    assert measures.count_minima(wells, 1.5) == 1  # the saddle is 1.2 decades above the wells
    waves = 1 + 0.8 * np.cos(15 * x) * np.cos(15 * y)
    assert measures.count_minima(waves, 0.3) == 12 and measures.count_minima(waves, 1.0) < 2
    assert measures.count_minima(np.exp(x + y), 0.3) == 0  # it only falls
    noise = 1 + 1e-7 * np.random.default_rng(0).standard_normal(x.shape)
    assert measures.count_minima((1 + x**2 + y**2) * noise, 0.3) == 1


def test_rank_correlation_of_few_or_equal_cells_is_not_there() -> None:
    rank, p = checks.rank_correlation([1, 2, 3, 4, math.inf, NAN], [8, 6, 4, 2, 0, 0])
    assert rank == pytest.approx(-1) and p < 0.05
    assert checks.rank_correlation([1, 2, 3, 4, 5], [2, 1, 5, 3, 4])[1] > 0.05
    assert math.isnan(checks.rank_correlation([1, 2, 3, 4], [1, 2, 3, 4])[0])
    assert math.isnan(checks.rank_correlation([1] * 5, [1, 2, 3, 4, 5])[0])


def test_verdicts_of_parts_and_of_what_is_close() -> None:
    for parts, missing, holds in (([True, True], "", True), ([True, None], "", None), ([True, True], "one", None),
                                  ([False, None], "one", False), ([], "", None)):  # fmt: skip
        assert checks.all_of(parts, missing) is holds
    assert [checks.above(*pair, 1.1) for pair in ((2, 1), (1, 2), (1.05, 1), (math.inf, 1), (0, 1), (0, 0))] == [
        True, False, None, True, False, None]  # fmt: skip
    assert [checks.beyond_noise(gap, 0.1) for gap in (0.3, -0.3, 0.1)] == [True, False, None]
    assert [checks.beyond_noise(gap, NAN, 0.5) for gap in (0.6, -0.6, 0.4)] == [True, False, None]


def test_drop_of_exponents_is_for_good_and_beyond_noise() -> None:
    def drops(*alphas: float, error: float = 0.1) -> bool | None:
        return figure_tails.drops([(alpha, error) for alpha in alphas])

    assert drops(3, 3, 2, 2.1) is True and drops(3, 2.6, 2.5) is True
    assert drops(2.16, 2.26, 1.93, 2.29, 2.19, 2.12, 2.26, 2.31) is False  # published: it recovers
    assert drops(3, 3, 2.9) is None and drops(3, 3, 2, error=1.0) is None and drops(3) is None
    tails = [type("Tail", (), {"alpha": alpha, "error": 0.1}) for alpha in (1.0, 2.0, 3.0)]
    assert figure_tails.estimate(tails) == pytest.approx((2, 1 / math.sqrt(3)))  # over the runs
    assert figure_tails.estimate(tails[:1]) == pytest.approx((1, 0.1))
