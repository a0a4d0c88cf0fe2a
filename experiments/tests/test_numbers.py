"""Relative improvement, paired comparisons and win counts against numbers computed by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from analysis import improvement, labels, paired, significance, thresholds
from analysis.collect import Run, build_grid
from analysis.improvement import relative_improvement
from scipy import stats
from synthetic import WHERE, make_runs

NAN, INF = math.nan, math.inf


# relative improvement


def test_the_two_readings_by_hand() -> None:
    # Seed 0 gains 90 % of 1, seed 1 nothing of 99: (100 - 99.1) / 100 against (90 + 0) / 2.
    base = [[[1.0, 99.0], [2.0, 4.0], [1.0, 1.0]]]
    method = [[[0.1, 99.0], [1.0, 2.0], [3.0, 1.0]]]
    found = relative_improvement(make_runs("lbfgs", base) + make_runs("nncg", method), "train_loss", **WHERE)
    np.testing.assert_allclose(found.ratio_of_means, [[0.9, 50.0, -100.0]])
    np.testing.assert_allclose(found.mean_of_ratios, [[45.0, 50.0, -100.0]])
    assert found.pairs.tolist() == [[2, 2, 2]] and not found.unpaired.any()
    assert (found.base, found.method, found.physical, found.data) == ("lbfgs", "nncg", [0.0, 1.0, 2.0], [0.0])


def test_only_pairs_enter_and_failures_count() -> None:
    base = [[[4.0, 8.0, NAN], [4.0, INF, 4.0], [0.0, 4.0, 4.0], [-3.0, 1.0, 1.0], [4.0, 4.0, 4.0], [4.0, NAN, NAN]]]
    method = [[[1.0, NAN, 2.0], [4.0, 1.0, 1.0], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [1.0, INF, 1.0], [NAN, 2.0, NAN]]]
    found = relative_improvement(make_runs("lbfgs", base) + make_runs("nncg", method), "test_error", **WHERE)
    # one pair; base lost; a base of 0 in one seed; a negative one; method lost; no pair
    np.testing.assert_allclose(found.ratio_of_means, [[75.0, NAN, 62.5, NAN, -INF, NAN]])
    np.testing.assert_allclose(found.mean_of_ratios, [[75.0, NAN, NAN, NAN, -INF, NAN]])
    assert found.pairs.tolist() == [[1, 3, 3, 3, 3, 0]] and found.unpaired.tolist() == [[2, 0, 0, 0, 0, 2]]
    assert found.base_diverged.tolist() == [[0, 1, 0, 0, 0, 0]]
    assert found.method_diverged.tolist() == [[0, 0, 0, 0, 1, 0]]
    text = improvement.format_table(found)
    assert "cells: better 2, worse 1, equal 0, masked 2, without a pair 1; median +62.5" in text
    assert "cells: better 1, worse 1, equal 0, masked 3, without a pair 1" in text
    assert text.endswith("pairs 13, runs without a partner 4; diverged in a pair: 1 of the base, 1 of the method")
    assert [line.split() for line in text.splitlines()[3:5]] == [
        ["0", "1", "2", "3", "4", "5"], ["0", "+75.0", ".", "+62.5", ".", "-inf", "."],
    ]  # fmt: skip


def test_axes_are_those_of_both_and_most_data_is_on_top() -> None:
    base = make_runs("lbfgs", np.full((2, 1, 1), 2.0), physical=[5.0], data=[100.0, 300.0])
    method = make_runs("nncg", np.full((2, 1, 1), 1.0), physical=[10.0], data=[300.0, 1000.0])
    both = make_runs("nncg", np.full((1, 1, 1), 5.0), physical=[5.0], data=[300.0])
    found = relative_improvement(base + method + both, "train_loss", **WHERE)
    assert (found.physical, found.data) == ([5.0, 10.0], [100.0, 300.0, 1000.0])
    np.testing.assert_allclose(found.ratio_of_means, [[NAN, NAN], [-150.0, NAN], [NAN, NAN]])
    assert found.unpaired.tolist() == [[1, 0], [0, 1], [0, 1]]
    lines = improvement.format_table(found).splitlines()
    assert [line.split()[0] for line in lines[4:7]] == ["1000", "300", "100"]
    rows = improvement.csv_rows(found)
    assert len(rows) == 6 and [row["data_value"] for row in rows] == ["100", "100", "300", "300", "1000", "1000"]
    assert rows[2]["ratio_of_means"] == -150.0 and rows[2]["physical_value"] == "5" and rows[2]["pairs"] == 1


def test_the_switch_pairs_a_run_with_itself() -> None:
    end, error = [[[1.0, 2.0], [3.0, INF]]], [[[0.5, 0.5], [0.1, INF]]]
    stored = {"lbfgs_train_loss": [[[4.0, 2.0], [INF, 3.0]]], "lbfgs_test_error": [[[1.0, 1.0], [0.1, 0.2]]]}
    runs = make_runs("nncg", end, error, metrics=stored)
    found = relative_improvement(runs, "train_loss", **WHERE, base="switch")
    np.testing.assert_allclose(found.ratio_of_means, [[50.0, NAN]])
    np.testing.assert_allclose(found.mean_of_ratios, [[37.5, NAN]])
    assert found.base_diverged.tolist() == [[0, 1]] and found.method_diverged.tolist() == [[0, 1]]
    found = relative_improvement(runs, "test_error", **WHERE, base="switch")
    np.testing.assert_allclose(found.ratio_of_means, [[50.0, -INF]])
    assert "NNCG over its own L-BFGS stage" in improvement.format_table(found)
    bare = relative_improvement(make_runs("nncg", end), "train_loss", **WHERE, base="switch")
    assert bare.pairs.tolist() == [[0, 0]] and np.isnan(bare.ratio_of_means).all() and bare.unpaired.sum() == 4
    assert "no median" in improvement.format_table(bare)
    with pytest.raises(ValueError, match="train_loss and test_error only, not seconds"):
        relative_improvement(runs, "seconds", **WHERE, base="switch")
    with pytest.raises(ValueError, match="no finished run with system convection, strategy lbfgs"):
        relative_improvement(runs, "train_loss", **WHERE)


def test_clipping_marks_what_it_clips() -> None:
    values, marked = improvement.clipped(np.array([[50.0, -100.0, -101.0, -INF, NAN]]))
    np.testing.assert_array_equal(values, [[50.0, -100.0, -100.0, -100.0, NAN]])
    assert marked.tolist() == [[False, False, True, True, False]]
    assert improvement.clipped(np.array([50.0]), 20)[0] == 20
    with pytest.raises(ValueError, match="limit 0"):
        improvement.clipped(np.zeros(1), 0)


# significance


def test_t_test_against_closed_forms_and_scipy() -> None:
    # t_1 is Cauchy, and t_2 has F(t) = 1/2 + t / (2 sqrt(2 + t^2)).
    d = np.array([0.1, 0.4])
    t = 0.25 / (0.3 / math.sqrt(2) / math.sqrt(2))
    assert significance.t_test(d) == pytest.approx(1 - 2 / math.pi * math.atan(t), rel=1e-12)
    d = np.array([-0.3, -0.5, -0.2])
    t = d.mean() / (d.std(ddof=1) / math.sqrt(3))
    assert significance.t_test(d) == pytest.approx(1 + t / math.sqrt(2 + t * t), rel=1e-12)
    for d in np.random.default_rng(0).normal(0.5, size=(5, 7)):
        assert significance.t_test(d) == pytest.approx(stats.ttest_1samp(d, 0).pvalue, rel=1e-10)
    for d in ([], [1.0], [0.0, 0.0], [0.1 + 0.2, 0.3, 0.3]):  # equal to rounding is no spread to test against
        assert math.isnan(significance.t_test(np.array(d)))


def test_sign_flips_against_enumeration() -> None:
    assert significance.sign_flip(np.array([0.1, 0.2, 0.3])) == 0.25  # the two patterns of equal signs
    assert significance.sign_flip(np.array([-1.0, 2.0, 3.0])) == 0.5  # |sums| 6, 4, 2 and 0, two patterns each
    assert significance.sign_flip(np.array([0.0, 0.1, 0.2])) == 0.5  # a tie counts for neither side
    assert significance.sign_flip(np.array([0.0, 0.0])) == 1.0
    assert significance.sign_flip(np.full(6, 0.1)) == significance.smallest_p(6) == 2 / 64
    assert math.isnan(significance.sign_flip(np.array([]))) and math.isnan(significance.sign_flip(np.ones(21)))
    rng = np.random.default_rng(5)
    for d in rng.integers(-4, 5, size=(20, 6)):  # integers: many patterns tie exactly
        sums = [abs(sum(s * x for s, x in zip(signs, d))) for signs in itertools.product((-1, 1), repeat=6)]
        expected = sum(value >= abs(d.sum()) for value in sums) / 64
        assert significance.sign_flip(d) == significance.sign_flip(d * 0.1) == expected


def test_adjustment_against_scipy_and_by_hand() -> None:
    np.testing.assert_allclose(significance.adjust(np.array([0.01, NAN, 0.04, 0.03])), [0.03, NAN, 0.04, 0.04])
    ps = np.random.default_rng(2).uniform(size=40) ** 2
    np.testing.assert_allclose(significance.adjust(ps), stats.false_discovery_control(ps), rtol=1e-12)
    assert significance.adjust(np.array([])).size == 0 and np.isnan(significance.adjust(np.array([NAN]))).all()
    np.testing.assert_array_equal(significance.adjust(np.array([0.9, 0.8, 0.9])), [0.9, 0.9, 0.9])


# paired comparison


def pair(first: object, second: object) -> list[Run]:
    """Return runs of L-BFGS and ALM."""
    return make_runs("lbfgs", first) + make_runs("alm", second)


def compare(runs: list[Run], metric: str = "train_loss") -> list[paired.PairedCell]:
    """Compare ALM to L-BFGS."""
    return paired.compare(runs, metric, **WHERE, first="lbfgs", second="alm")


def test_compare_by_hand() -> None:
    first = [[[1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [2.0, NAN, 2.0], [1.0, 1.0, NAN]]]
    second = [[[0.1, 0.01, 0.1], [10.0, 0.1, 1.0], [1.0, 1.0, NAN], [NAN, NAN, 1.0]]]
    better, even, single, empty = compare(pair(first, second))
    t = -math.sqrt(3) * (4 / 3) / math.sqrt(1 / 3)
    assert better.mean_log_ratio == pytest.approx(-4 / 3) and better.ratio == pytest.approx(10 ** (-4 / 3))
    assert better.t_p == pytest.approx(1 + t / math.sqrt(2 + t * t)) and better.sign_flip_p == 0.25
    assert (even.mean_log_ratio, even.ratio, even.t_p, even.sign_flip_p) == pytest.approx((0, 1, 1, 1))
    assert better.t_adjusted == pytest.approx(2 * better.t_p) and even.t_adjusted == pytest.approx(1)
    assert better.sign_flip_adjusted == pytest.approx(0.75)  # three cells have a sign-flip p
    assert (single.pairs, single.ratio, single.sign_flip_p, single.smallest_p) == (1, pytest.approx(0.5), 1.0, 1.0)
    assert math.isnan(single.t_p) and math.isnan(single.t_adjusted)
    assert empty.pairs == 0 and all(map(math.isnan, (empty.ratio, empty.sign_flip_p, empty.smallest_p)))
    assert (better.physical_value, better.data_value, better.smallest_p) == (0.0, 0.0, 0.25)


def test_a_failure_is_worse_than_every_number_and_two_are_a_tie() -> None:
    #         alm lost; lbfgs lost; both; each once; an exact zero
    first = [[[1.0, 1.0, 1.0], [1.0, INF, 1.0], [INF, 1.0, 1.0], [INF, 1.0, 1.0], [1.0, 1.0, 1.0]]]
    second = [[[INF, 0.1, 0.1], [0.1, 0.1, 0.01], [INF, 0.1, 0.01], [1.0, INF, 1.0], [0.0, 0.1, 0.01]]]
    lost, gained, both, each, zero = compare(pair(first, second))
    assert (lost.first_failed, lost.second_failed, lost.both_failed) == (0, 1, 0)
    assert lost.mean_log_ratio == INF and lost.ratio == INF and math.isnan(lost.t_p)  # -1 and -1 do not spread
    # The largest finite |d| is 2, so a failure counts 3: |3 - 1 - 1| = 1 is the least of all patterns.
    assert lost.sign_flip_p == 1.0
    assert gained.mean_log_ratio == -INF and gained.ratio == 0 and gained.sign_flip_p == 0.25
    assert gained.t_p == pytest.approx(stats.ttest_1samp([-1, -2], 0).pvalue)
    assert both.mean_log_ratio == pytest.approx(-1.0) and both.both_failed == 1
    assert both.sign_flip_p == 0.5 and both.t_p == pytest.approx(stats.ttest_1samp([-1, -2], 0).pvalue)
    assert math.isnan(each.mean_log_ratio) and each.sign_flip_p == 1.0
    assert (each.first_failed, each.second_failed) == (1, 1)
    assert zero.mean_log_ratio == -INF and zero.first_failed == zero.second_failed == 0
    assert zero.t_p == gained.t_p and zero.sign_flip_p == 0.25
    text = paired.format_table([lost, gained, both, each, zero])
    assert "not finite: alm 1" in text and "not finite: lbfgs 1, alm 1" in text and "not finite: both 1" in text
    with pytest.raises(ValueError, match="train_loss is negative in places"):
        compare(pair([[[1.0]]], [[[-1.0]]]))


def test_table_of_a_comparison_says_what_the_seeds_allow() -> None:
    rng = np.random.default_rng(4)
    runs = pair(np.exp(rng.normal(size=(2, 2, 3))), np.exp(rng.normal(-9, 0.1, size=(2, 2, 3))))
    lines = paired.format_table(compare(runs)).splitlines()
    assert lines[0].startswith("PINN convection, training loss: ALM over L-BFGS") and len(lines) == 8
    assert lines[-2].startswith("of 4 cells with a t-test, ALM is better in 4 and worse in 0 at adjusted p < 0.05")
    assert lines[-1].startswith("3 seeds: the sign-flip p of a cell cannot be below 0.25, so that it can never reach")
    assert lines[-1].endswith("on the assumption that log ratios are normal, which so few seeds cannot check")
    one = compare(pair([[[1.0]]], [[[2.0]]]))
    assert "1 seed: the sign-flip p of a cell cannot be below 1, so that it can never" in paired.format_table(one)
    six = compare(pair(np.ones((1, 1, 6)), np.full((1, 1, 6), 2.0)))
    assert paired.format_table(six).endswith("6 seeds: the sign-flip p of a cell cannot be below 0.0312")
    many = compare(pair(np.ones((1, 1, 21)), np.full((1, 1, 21), 2.0)))
    assert paired.format_table(many).endswith("21 seeds: too many to enumerate for the sign-flip test")
    assert math.isnan(many[0].sign_flip_p) and math.isnan(many[0].smallest_p)
    none = compare(pair([[[1.0, NAN]]], [[[NAN, 1.0]]]))
    assert "no pairs" in paired.format_table(none) and paired.format_table([]) == "no cell to compare"
    rows = paired.csv_rows(one)
    assert len(rows) == 1 and rows[0]["ratio"] == pytest.approx(2.0) and rows[0]["physical_value"] == "0"


def test_pooled_test_has_seeds_as_its_unit() -> None:
    # d by seed over the cells: (-1 - 3) / 2, (-1 + 0) / 2, and -2 where the second cell has no pair.
    first = [[[1.0, 1.0, 1.0], [1.0, 1.0, NAN]]]
    second = [[[0.1, 0.1, 0.01], [0.001, 1.0, 1.0]]]
    whole = paired.pooled(pair(first, second), "train_loss", **WHERE, first="lbfgs", second="alm")
    assert (whole.cells, whole.seeds, whole.sign_flip_p, whole.smallest_p) == (2, 3, 0.25, 0.25)
    assert whole.mean_log_ratio == pytest.approx(-1.5)
    assert whole.t_p == pytest.approx(stats.ttest_1samp([-2, -0.5, -2], 0).pvalue)
    where = {(0.0, 1.0)}
    part = paired.pooled(pair(first, second), "train_loss", **WHERE, first="lbfgs", second="alm", cells=where)
    assert (part.cells, part.seeds, part.mean_log_ratio) == (1, 2, pytest.approx(-1.5))
    none = paired.pooled(pair(first, second), "train_loss", **WHERE, first="lbfgs", second="alm", cells=set())
    assert (none.cells, none.seeds) == (0, 0) and math.isnan(none.ratio) and math.isnan(none.sign_flip_p)
    second[0][1][1] = INF  # counts one decade beyond the largest finite |d| of the map, which is 3
    lost = paired.pooled(pair(first, second), "train_loss", **WHERE, first="lbfgs", second="alm")
    assert lost.mean_log_ratio == pytest.approx((-2 + (-1 + 4) / 2 - 2) / 3)
    lines = paired.format_pooled([("map", whole), ("III", none)]).splitlines()
    assert lines[1].split() == ["map", "training", "loss", "ALM", "over", "L-BFGS", "2", "3", "0.0316", "0.095",
                                "0.25", "0.25"]  # fmt: skip
    assert lines[2].split()[-5:] == ["0", "none", "none", "none", "none"]
    assert lines[3:] == ["p not adjusted for the number of tests"]


# win counts


def counted() -> list[Run]:
    """Return runs of three strategies in six cells of one row; three seeds, regimes I I I II III III."""
    ones = np.ones(3)
    spread = np.array([0.9, 1.0, 1.1])
    train = {
        "lbfgs": [ones, ones, ones, 9 * ones, ones, ones],
        "alm": [0.01 * spread, ones, 0.5 * spread, 5 * ones, [INF, 1, 1], [NAN, NAN, NAN]],
        "cl": [0.1 * ones, ones, 0.4 * spread[::-1], [INF, 1, 1], 0.5 * ones, ones],
    }
    low, lost = 0.1 * ones, [INF, INF, 1]
    test = {
        "lbfgs": [low, low, low, low, [5, 5, 5], [5, 5, 5]],
        "alm": [low, low, 0.2 * ones, low, low, low],
        "cl": [2 * low, low, 0.01 * spread, low, low, low],
    }
    for values in test.values():
        values[4] = lost if values is not test["lbfgs"] else [5, 5, INF]
    return [run for name in train for run in make_runs(name, [train[name]], [test[name]])]


def test_wins_by_hand() -> None:
    limits = thresholds.fixed(2.0, 1.0)
    rows = paired.win_counts(counted(), **WHERE, limits=limits)
    assert [(row.regime, row.metric) for row in rows] == [
        (regime, metric) for regime in ("I", "II", "III", "all") for metric in ("train_loss", "test_error")
    ]
    table = {(row.regime, row.metric): row for row in rows}
    loss = table["I", "train_loss"]
    # alm; all three alike; cl before alm by 0.8, which three seeds in opposite order do not show
    assert loss.wins == pytest.approx({"alm": 1 + 1 / 3, "cl": 1 + 1 / 3, "lbfgs": 1 / 3})
    assert (loss.cells, loss.tied, loss.nobody, loss.incomplete) == (3, 1, 0, 0)
    assert loss.significant == {"alm": 1, "cl": 0, "lbfgs": 0}
    error = table["I", "test_error"]
    assert error.wins == pytest.approx({"alm": 1 / 2 + 1 / 3, "cl": 1 + 1 / 3, "lbfgs": 1 / 2 + 1 / 3})
    assert (error.tied, error.significant) == (2, {"alm": 0, "cl": 1, "lbfgs": 0})
    two = table["II", "train_loss"]
    assert (two.wins, two.cells) == ({"alm": 1.0, "cl": 0.0, "lbfgs": 0.0}, 1)  # a lost seed of cl cannot win
    three, lost = table["III", "train_loss"], table["III", "test_error"]
    assert (three.wins, three.cells, three.incomplete) == ({"alm": 0.0, "cl": 1.0, "lbfgs": 0.0}, 1, 1)
    assert (lost.cells, lost.nobody, sum(lost.wins.values())) == (1, 1, 0)
    whole = table["all", "train_loss"]
    assert (whole.cells, whole.incomplete, sum(whole.wins.values())) == (5, 1, pytest.approx(5))
    assert [row.limits for row in rows] == [limits] * 8 and loss.reference == "lbfgs"


def test_win_table_says_who_leads_everywhere() -> None:
    rows = paired.win_counts(counted(), **WHERE, limits=thresholds.fixed(2.0, 1.0))
    text = paired.format_wins(rows)
    assert "training loss: most wins in every regime: none (I ALM and CL, II ALM, III CL)" in text
    assert "test error: most wins in every regime: none (I CL, II ALM and CL and L-BFGS, III none)" in text
    line = next(line for line in text.splitlines() if line.startswith("I    "))
    assert line.split() == ["I", "training", "loss", "3", "1.33", "(1)", "1.33", "(0)", "0.333", "(0)", "1", "0", "0"]
    best = make_runs("alm", np.full((1, 2, 1), 0.1)) + make_runs("lbfgs", [[[1.0], [9.0]]])
    text = paired.format_wins(paired.win_counts(best, **WHERE, limits=thresholds.fixed(2.0, 1.0)))
    assert "most wins in every regime by both metrics: ALM" in text
    assert "training loss: most wins in every regime: ALM (I ALM, II ALM)" in text
    assert paired.format_wins([]) == "no cell to compare"
    written = paired.wins_csv_rows(rows)
    assert len(written) == 24 and {row["strategy"] for row in written} == {"alm", "cl", "lbfgs"}
    first = written[0]
    assert (first["regime"], first["metric"], first["strategy"], first["significant"]) == ("I", "train_loss", "alm", 1)
    assert (first["T_train"], first["thresholds"], first["wins"]) == (2.0, "fixed values", pytest.approx(4 / 3))


def test_wins_use_shared_seeds_and_the_regimes_of_the_reference() -> None:
    # Seed 1 exists for alm alone, and would decide for it.
    runs = make_runs("lbfgs", [[[1.0, NAN]]]) + make_runs("alm", [[[1.4, 1e-9]]])
    (row,) = (r for r in paired.win_counts(runs, **WHERE, limits=thresholds.fixed(1.5, 1.0)) if r.cells and
              (r.regime, r.metric) == ("I", "train_loss"))  # fmt: skip
    assert row.wins == {"alm": 0.0, "lbfgs": 1.0} and row.significant == {"alm": 0, "lbfgs": 0}
    other = paired.win_counts(runs, **WHERE, limits=thresholds.fixed(0.5, 1.0), reference="alm")
    assert {r.regime for r in other if r.cells} == {"II", "all"} and other[0].reference == "alm"
    assert "no cell to compare" not in paired.format_wins(other)
    with pytest.raises(ValueError, match="needs two strategies of PINN convection, not lbfgs"):
        paired.win_counts(runs, **WHERE, limits=thresholds.fixed(1, 1), strategies=["lbfgs"])
    with pytest.raises(ValueError, match="'cl' is not one of alm, lbfgs"):
        paired.win_counts(runs, **WHERE, limits=thresholds.fixed(1, 1), reference="cl")
    with pytest.raises(ValueError, match="no finished run with system convection, strategy cl"):
        paired.win_counts(runs, **WHERE, limits=thresholds.fixed(1, 1), strategies=["lbfgs", "cl"])


def test_a_significant_win_is_adjusted_and_on_the_side_of_the_winner() -> None:
    many = np.ones(20)
    lucky, unlucky = np.array([5.0] * 19 + [81.0]), np.array([1.0] * 19 + [81.0])
    # alm is far below in 19 of 20 seeds and above in one: the higher mean; the same mean; then 1 % below, always.
    lbfgs, alm = [[4.9 * many, 5 * many, lucky]], [[unlucky, unlucky, 0.99 * lucky * np.linspace(0.999, 1.001, 20)]]
    limits = thresholds.fixed(100.0, 100.0)
    row = paired.win_counts(pair(lbfgs, alm), **WHERE, limits=limits)[0]
    assert (row.regime, row.wins, row.significant) == ("I", {"alm": 1.5, "lbfgs": 1.5}, {"alm": 1, "lbfgs": 0})
    # 0.03 < p < 0.05 in the first of ten cells: alone it is significant, among nine of chance it is not.
    alm = [[10.0 ** np.array([-0.1, -0.15, -0.2]), *[10.0 ** np.array([-0.5, 0.3, 0.1])] * 9]]
    first = np.ones((1, 10, 3))
    assert 0.03 < compare(pair(first, alm))[0].t_p < 0.05
    for columns, significant in ((1, 1), (10, 0)):
        runs = pair(first[:, :columns], np.array(alm)[:, :columns])
        assert paired.win_counts(runs, **WHERE, limits=limits)[0].significant["alm"] == significant


def test_cells_without_a_winner_and_ties_are_no_tests() -> None:
    # 0.03 < p < 0.05 in the first cell; in the others nobody wins, with measured pairs on either side, or two do.
    first = np.array([[[1.0, 1, 1, NAN], *[[INF, 1, 1, 1]] * 2, [1.0, 2, 3, NAN]]])
    second = np.array([[[*10.0 ** np.array([-0.1, -0.15, -0.2]), NAN], [INF, 2, 2, 2.1], [INF, 0.5, 0.6, 0.7],
                        [3.0, 1, 2, NAN]]])  # fmt: skip
    row = paired.win_counts(pair(first, second), **WHERE, limits=thresholds.fixed(9, 9))[-2]
    assert (row.regime, row.cells, row.nobody, row.tied) == ("all", 4, 2, 1)
    assert row.wins == {"alm": 1.5, "lbfgs": 0.5} and row.significant == {"alm": 1, "lbfgs": 0}


def test_wins_by_chance_alone() -> None:
    # Equal strategies: the test of the winner is no easier than others, but regimes of the reference's runs are biased.
    rng = np.random.default_rng(0)
    names = ("lbfgs", "alm", "cl", "nncg", "adam")
    limits = thresholds.fixed(1e9, 1e9)
    for count, expected in ((2, 0.045), (5, 0.025)):
        called = 0
        for cells in np.exp(rng.normal(0, 0.5, (800, count, 1, 1, 3))):  # one cell a map: nothing to adjust
            runs = [run for name, cell in zip(names, cells) for run in make_runs(name, cell)]
            called += sum(paired.win_counts(runs, **WHERE, limits=limits)[0].significant.values())
        assert called / 800 == pytest.approx(expected, abs=0.022)
    won, cells = 0.0, 0
    for _ in range(15):
        slope, rise = np.linspace(-2, 2, 9)[:, None], np.linspace(-1, 1, 8)[:, None, None]
        runs = [run for name in names[:2] for run in make_runs(
            name, np.exp(slope + rng.normal(0, 0.7, (8, 9, 3))),
            np.exp(slope / 2 - rise + rng.normal(0, 0.7, (8, 9, 3))),
        )]  # fmt: skip
        maps = tuple(build_grid(runs, metric, **WHERE, strategy="lbfgs") for metric in labels.METRICS)
        rows = paired.win_counts(runs, **WHERE, limits=thresholds.from_percentiles(*maps))
        row = next(row for row in rows if (row.regime, row.metric) == ("III", "test_error"))
        won, cells = won + row.wins["lbfgs"], cells + row.cells
    assert 0.15 < won / cells < 0.35


def test_measured_pairs_that_speak_against_the_winner_are_no_significance() -> None:
    # lbfgs lost a seed, so that alm wins and is better on average, but it is 1000 times worse in the two others.
    runs = pair([[[INF, 1.0, 1.0]]], [[[1.0, 1000.0, 1001.0]]])
    (cell,) = compare(runs)
    assert cell.t_adjusted < 1e-4 and cell.ratio == 0 and cell.measured_ratio == pytest.approx(1000.5, abs=0.1)
    assert "ALM is better in 0 and worse in 0 at adjusted p" in paired.format_table([cell])
    row = paired.win_counts(runs, **WHERE, limits=thresholds.fixed(1.0, 1.0), strategies=["alm", "lbfgs", "alm"])[2]
    assert (row.regime, row.wins, row.significant) == ("II", {"alm": 1, "lbfgs": 0}, {"alm": 0, "lbfgs": 0})


def test_strategies_of_differently_named_axes_are_refused() -> None:
    renamed = [run.__class__(**{**run.__dict__, "data_name": "t"}) for run in make_runs("alm", [[[1.0]]])]
    with pytest.raises(ValueError, match="differ in data_name: n, t"):
        compare(make_runs("lbfgs", [[[1.0]]]) + renamed)
