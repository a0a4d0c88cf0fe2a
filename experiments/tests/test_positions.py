"""Boundary positions against boundaries with known places, common thresholds, and the strict quadrants."""

from __future__ import annotations

import math

import numpy as np
import pytest
from analysis import boundaries, labels, positions, thresholds
from analysis.collect import Run, build_grid
from analysis.positions import Position, boundary_positions
from synthetic import WHERE, make_runs

LBFGS = {**WHERE, "strategy": "lbfgs"}
NAN, INF = math.nan, math.inf


def find(runs: list[Run], threshold: float = 1.0, **options: object) -> list[Position]:
    """Return the positions of the training loss of L-BFGS."""
    return boundary_positions(runs, "train_loss", threshold, **LBFGS, **options)


def row_crossings(values: np.ndarray, level: float, row: int) -> list[float]:
    """Return the column indices where the curves of `level_set` cross the centre line of a row."""
    points = np.concatenate(boundaries.level_set(values, level, extend=False))
    on_row = points[np.abs(points[:, 1] - row) < 1e-12, 0]
    return list(np.unique(on_row.round(13)))  # a closed curve ends where it begins


# known boundaries


def test_known_boundary_is_recovered_by_positions_and_by_level_sets() -> None:
    # log v = 0.3 (beta - b(n)) is straight, so that the boundary b(n) is met to rounding.
    beta, amounts = np.arange(5.0, 55.0, 5.0), np.array([100.0, 300.0, 1000.0, 3000.0])
    truth = 7.0 + 4.321 * np.log10(amounts)
    values = 1e-3 * np.exp(0.3 * (beta - truth[:, None]))
    found = find(make_runs("lbfgs", values[..., None], physical=list(beta), data=list(amounts)), 1e-3)
    np.testing.assert_allclose([one.position for one in found], truth, rtol=0, atol=1e-12)
    curves = [row_crossings(values, 1e-3, i) for i in range(4)]
    np.testing.assert_allclose(5 + 5 * np.ravel(curves), truth, rtol=0, atol=1e-12)
    assert [one.data_value for one in found] == list(amounts)
    assert [one.between for one in found[:2]] == [(15.0, 20.0), (15.0, 20.0)]
    uneven = [5.0, 12.0, 13.0, 40.0, 50.0]  # physical values, not cells, are the scale
    values = 1e-3 * np.exp(0.3 * (np.array(uneven) - truth[:, None]))
    found = find(make_runs("lbfgs", values[..., None], physical=uneven, data=list(amounts)), 1e-3)
    np.testing.assert_allclose([one.position for one in found], truth, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shift", [0.0, 2.0])  # with values that are not positive, both are linear
def test_positions_lie_on_the_level_set_of_a_rough_map_with_diverged_runs(shift: float) -> None:
    rng = np.random.default_rng(1)
    values = np.exp(rng.normal(np.linspace(-2, 2, 9)[:, None], 2.0, (6, 9, 3))) - shift
    values[1, 6, 1] = values[2, 4, :] = values[3, 5, 0] = INF
    runs = make_runs("lbfgs", values)
    grid = build_grid(runs, "train_loss", **LBFGS)
    found = find(runs, 1.5)
    for i, one in enumerate(found):
        curves = row_crossings(grid.values, 1.5, i)
        assert one.crossings == len(curves)
        assert one.position == INF or min(abs(one.position - x) for x in curves) < 1e-12
    assert {1, 3} <= {one.crossings for one in found}  # the case is rough enough to have several
    assert any(one.between and np.isinf(grid.values[i, int(one.between[1])]) for i, one in enumerate(found))


def test_two_components_are_both_contoured_and_counted() -> None:
    values = np.full((5, 9), 0.01)
    values[2, 2] = 100.0  # an island: in its row the boundary is its near shore
    values[:, 7:] = 100.0
    lines = boundaries.level_set(values, 1.0)
    spans = sorted((line[:, 0].min(), line[:, 0].max()) for line in lines)
    np.testing.assert_allclose(spans, [(1.5, 2.5), (6.5, 6.5)])
    found = find(make_runs("lbfgs", values[..., None]))
    assert [one.crossings for one in found] == [1, 1, 3, 1, 1]
    np.testing.assert_allclose([one.position for one in found], [6.5, 6.5, 1.5, 6.5, 6.5])


@pytest.mark.parametrize(
    ("row", "position", "censored", "crossings", "between", "skipped"),
    [
        ([0.1, 0.1, 0.1], INF, "above", 0, None, 0),
        ([10.0, INF, 10.0], -INF, "below", 0, None, 0),
        ([10.0, 0.1, 0.1], INF, "above", 1, None, 0),
        ([10.0, 0.1, 10.0], 3.5, "", 2, (2.0, 5.0), 0),
        ([0.1, 10.0, 0.1], 1.5, "", 2, (1.0, 2.0), 0),
        ([0.1, NAN, 10.0], 3.0, "", 1, (1.0, 5.0), 1),
        ([NAN, 0.1, 10.0], 3.5, "", 1, (2.0, 5.0), 0),
        ([NAN, 0.1, NAN], INF, "above", 0, None, 0),
        ([NAN, 10.0, NAN], -INF, "below", 0, None, 0),
        ([0.1, 1.0, 10.0], 2.0, "", 1, (2.0, 5.0), 0),  # equality is low
    ],
)
def test_censored_rough_and_missing_rows(
    row: list[float], position: float, censored: str, crossings: int, between: object, skipped: int
) -> None:
    # The other rows keep the range of values (an inf stands beyond) and the axis; they are not looked at.
    values = np.array([row, [0.1, 0.1, 10.0]])[..., None]
    one = find(make_runs("lbfgs", values, physical=[1.0, 2.0, 5.0]))[0]
    assert one.position == pytest.approx(position)
    assert (one.censored, one.crossings, one.between, one.skipped) == (censored, crossings, between, skipped)
    assert math.isnan(one.low) and math.isnan(one.high) and math.isnan(one.share_above) and one.seeds == 1


def test_ranges_are_placed_by_column_and_a_row_without_the_metric_is_empty() -> None:
    ranges = ["1-2.5", "2.5-5", "10-20"]
    found = find(make_runs("lbfgs", np.array([[[0.01], [0.01], [1.0]]]), physical=ranges), 0.1)
    assert (found[0].unit, found[0].between) == ("index", ("2.5-5", "10-20"))
    assert found[0].position == pytest.approx(1.5)
    values = [[[0.1], [10.0]], [[0.1], [10.0]]]
    runs = make_runs("lbfgs", values, metrics={"other": values})
    runs = [run for run in runs if run.data_value == 0.0 or run.metrics.clear() is None]
    here, empty = boundary_positions(runs, "metrics.other", 1.0, **LBFGS)
    assert here.position == pytest.approx(0.5)
    assert math.isnan(empty.position) and (empty.censored, empty.seeds, empty.between) == ("", 0, None)


def test_a_larger_threshold_moves_no_boundary_back_and_keeps_every_low_cell() -> None:
    rng = np.random.default_rng(3)
    values = np.exp(rng.normal(np.linspace(-3, 3, 8)[:, None], 1.0, (5, 8, 2)))
    values[4, 3, 0] = INF
    runs = make_runs("lbfgs", np.sort(values, axis=1))
    train, test = (build_grid(runs, metric, **LBFGS) for metric in labels.METRICS)
    last, low = np.full(5, -INF), np.zeros((5, 8), bool)
    for level in (0.01, 0.1, 0.5, 1.0, 3.0, 3000.0):
        now = labels.label_cells(train, test, thresholds.fixed(level, 1.0)) != "II"
        moved = np.array([one.position for one in find(runs, level)])
        assert (low <= now).all() and (last <= moved).all()
        last, low = moved, now
    assert low.sum() == 5 * 8 - np.isinf(train.values).sum() and last[0] == INF


# bootstrap


def test_bootstrap_of_two_seeds_has_the_distribution_it_must() -> None:
    # Seed 0 crosses at a, seed 1 at b, their mean at c: a resample is (0, 0), (0, 1), (1, 0) or (1, 1).
    values = np.array([[[0.1, 0.01], [1000.0, 100.0]]])
    a, b = 1 / 4, 2 / 4
    c = -math.log10(0.055) / math.log10(550 / 0.055)
    runs = make_runs("lbfgs", values)

    def interval(confidence: float) -> tuple[float, float]:
        (one,) = find(runs, resamples=40_000, confidence=confidence)
        assert one.position == pytest.approx(c) and (one.share_below, one.share_above) == (0.0, 0.0)
        return one.low, one.high

    assert interval(0.9) == pytest.approx((a, b))
    assert interval(0.52) == pytest.approx((a, b))  # tails of 0.24, below 1/4
    assert interval(0.48) == pytest.approx((c, c))  # and of 0.26, above
    assert interval(0.9) == interval(0.9)


def test_censored_resamples_are_counted() -> None:
    # Seed 0 never crosses and seed 1 is high throughout; together they cross once.
    values = np.array([[[0.1, 1.9], [0.1, 100.0]], [[0.1, INF], [0.1, INF]]])
    one, lost = find(make_runs("lbfgs", values), resamples=40_000)
    assert one.position == pytest.approx(0.0) and one.censored == ""  # mean 1.0 is low
    assert (one.share_below, one.share_above) == pytest.approx((0.25, 0.25), abs=0.01)
    assert (one.low, one.high) == (-INF, INF)
    assert (lost.position, lost.low, lost.high) == (-INF, -INF, INF)
    assert (lost.share_below, lost.share_above) == pytest.approx((0.75, 0.25), abs=0.01)


def test_seeds_of_a_row_are_drawn_together_and_a_cell_takes_those_that_it_has() -> None:
    # log10: seed 0 has (-1, 1), seed 1 (-3, 3): all draws cross in the middle. Where the second cell has the pair of
    # seeds 1 and 2 instead, one draw can be seed 0 in the first and seed 2 in the second: from 1/4 to 3/4.
    values = np.array([[[0.1, 0.001, NAN], [10.0, 1000.0, NAN]], [[0.1, 0.001, NAN], [NAN, 10.0, 1000.0]]])
    together, apart = find(make_runs("lbfgs", values), confidence=0.99)
    means = [[math.log10(np.mean([x, y])) for x, y in pairs] for pairs in [
        [(0.1, 0.1), (0.1, 0.001), (0.001, 0.001)], [(10, 10), (10, 1000), (1000, 1000)],
    ]]  # fmt: skip
    where = np.array([[-low / (high - low) for high in means[1]] for low in means[0]])
    assert (together.low, together.high) == pytest.approx((np.diag(where).min(), np.diag(where).max()))
    assert (apart.low, apart.high) == pytest.approx((1 / 4, 3 / 4))
    assert (where.min(), where.max()) == pytest.approx((1 / 4, 3 / 4))
    assert (together.seeds, apart.seeds) == (2, 2)


def test_a_missing_run_elsewhere_in_the_row_leaves_an_interval_as_it_is() -> None:
    rng = np.random.default_rng(6)
    values = np.exp(rng.normal(np.array([-4, -1, 1, 4, 4])[:, None], 0.5, (1, 5, 3)))
    holed = values.copy()
    holed[0, 4, 2] = NAN
    whole, part = (find(make_runs("lbfgs", cells))[0] for cells in (values, holed))
    assert (part.low, part.high) == (whole.low, whole.high) and whole.low < whole.position < whole.high
    assert (whole.seeds, part.seeds) == (3, 2)


def test_coverage_on_a_gaussian_model() -> None:
    # v = x - 5 - e with e ~ N(0, 1) by seed: the boundary of the mean is 5 + mean e, that of all seeds 5.
    x = np.array([0.0, 4.0, 10.0])

    def coverage(seeds: int) -> float:
        e = np.random.default_rng(7).normal(size=(500, 1, seeds))
        found = find(make_runs("lbfgs", x[None, :, None] - 5 - e, physical=list(x)), 0.0, resamples=400)
        np.testing.assert_allclose([one.position for one in found], 5 + e.mean(axis=(1, 2)), atol=1e-12)
        width = np.mean([one.high - one.low for one in found])
        assert seeds == 3 or width == pytest.approx(2 * 1.645 / math.sqrt(seeds), rel=0.08)
        return float(np.mean([one.low <= 5 <= one.high for one in found]))

    # Student's t: 20 seeds cover P(|t_19| < 1.645 sqrt(19 / 20)) = 0.875; 500 rows estimate that to 0.015.
    assert coverage(20) == pytest.approx(0.875, abs=0.045)
    assert coverage(3) == pytest.approx(0.61, abs=0.06)  # what the documentation says of three


def test_one_seed_has_no_interval_and_says_so() -> None:
    (one,) = find(make_runs("lbfgs", [[[0.1], [10.0]]]))
    assert "no interval: one seed" in positions.format_table([one])
    mixed = find(make_runs("lbfgs", [[[0.1, 0.2], [10.0, NAN]]]))[0]  # a cell of one seed is enough
    assert mixed.seeds == 1 and math.isnan(mixed.low)
    (cell,) = find(make_runs("lbfgs", [[[0.1, 0.2, 0.3]]]))
    assert (cell.censored, cell.low, cell.high, cell.share_above) == ("above", INF, INF, 1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": NAN}, "threshold must be finite"), ({"threshold": INF}, "threshold must be finite"),
        ({"confidence": 1.0}, "confidence 1"), ({"resamples": 0}, "resamples 0"),
    ],
)  # fmt: skip
def test_positions_refuse_bad_numbers(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find(make_runs("lbfgs", [[[0.1], [10.0]]]), **options)


def test_table_and_rows_of_positions() -> None:
    values = np.array([[[0.1, 0.1], [NAN, NAN], [10.0, 10.0]], [[10.0, 10.0], [0.1, 0.1], [0.1, 300.0]]])
    found = find(make_runs("lbfgs", values, physical=[5.0, 10.0, 30.0], data=[100.0, 5000.0]))
    lines = positions.format_table(found).splitlines()
    assert lines[0] == "PINN convection lbfgs: boundary training loss = 1.000e+00 along beta"
    assert lines[1].split() == ["n", "beta", "90", "%", "interval", "crossings", "seeds"]
    assert lines[2].split()[:2] == ["5000", "16.3"] and "not monotone" in lines[2]
    assert "% of resamples above" in lines[2] and "resamples" not in lines[3]
    assert "3 seeds" in lines[-1]
    assert lines[3].split()[:5] == ["100", "17.5", "17.5", "to", "17.5"]
    assert lines[3].endswith("1 missing between 5 and 30")
    rows = positions.csv_rows(found)
    assert [(row["data_value"], row["left"], row["right"]) for row in rows] == [
        ("100", "5", "30"), ("5000", "10", "30"),
    ]  # fmt: skip
    assert rows[0]["position"] == pytest.approx(17.5) and rows[0]["skipped"] == 1 and "between" not in rows[0]
    assert positions.format_table([]) == "no boundary: no finished run"
    falls = positions.format_table(find(make_runs("lbfgs", [[[10.0], [0.1], [0.1]]])))  # monotone, but downwards
    assert "begins high and ends low" in falls and "not monotone" not in falls


# thresholds and quadrants


def maps_of(**values: object) -> list:
    """Return (training loss, test error) of strategies by name."""
    runs = [run for name, train in values.items() for run in make_runs(name, train)]
    return [tuple(build_grid(runs, m, **WHERE, strategy=name) for m in labels.METRICS) for name in values]


def test_common_thresholds_are_those_of_the_reference() -> None:
    eleven = np.arange(11.0)[None, :, None]
    maps = maps_of(alm=eleven + 100, lbfgs=eleven, adam=eleven + 50)
    limits = thresholds.common(maps)
    assert (limits.train, limits.test) == pytest.approx((6.5, 7.5))
    assert limits.source == "percentiles 65 (train) and 75 (test) of the L-BFGS map, for all"
    assert limits.train_percentile is None and limits.test_percentile is None
    assert thresholds.common(maps[::2]).train == pytest.approx(56.5)  # adam before alm
    assert thresholds.common(maps[:1], train_q=50, test_q=10).test == pytest.approx(101.0)
    moved = thresholds.common(maps, reference="alm", train_q=50)
    assert (moved.train, moved.test) == pytest.approx((105.0, 107.5)) and "50 (train)" in moved.source
    table = thresholds.common(maps, source="table5", reference="alm")
    assert (table.train, table.test, table.train_percentile) == (3.34e-2, 0.278, None)
    assert table.source == "Table 5 of the paper, ALM, for all"


def test_common_thresholds_refuse_what_has_none() -> None:
    maps = maps_of(lbfgs=np.ones((1, 2, 1)), sgd=np.ones((1, 2, 1)), alm=np.full((1, 2, 1), INF))
    for options, message in (
        ({"source": "fixed"}, "percentile, table5"), ({"reference": "cl"}, "'cl' is not one of lbfgs, sgd, alm"),
        ({"reference": "alm"}, "ALM map has no finite cell"), ({"source": "table5", "reference": "sgd"}, "no row"),
        ({"train_q": 101}, "outside"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            thresholds.common(maps, **options)
    with pytest.raises(ValueError, match="no strategy"):
        thresholds.common([])
    other = [run.__class__(**{**run.__dict__, "system": "wave"}) for run in make_runs("adam", np.ones((1, 2, 1)))]
    wave = tuple(build_grid(other, metric, model="PINN", system="wave", strategy="adam") for metric in labels.METRICS)
    with pytest.raises(ValueError, match="PINN convection and PINN wave"):
        thresholds.common([*maps, wave])


@pytest.mark.parametrize("row", sorted(thresholds.TABLE5), ids="-".join)
def test_all_four_quadrants_at_the_thresholds_of_table_5(row: tuple[str, str, str]) -> None:
    limits = thresholds.table5(*row)
    up, low = np.nextafter(1.0, 2.0), 1.0  # equality is low, the next number is high
    # 4 cells in I, 3 high in both, 2 high in the loss alone, 1 high in the error alone, 1 and 1 diverged, 1 missing
    train = limits.train * np.array([[low] * 4 + [up] * 3 + [2.0, up, low, INF, 0.5, NAN]])
    test = limits.test * np.array([[low] * 3 + [0.0] + [up] * 3 + [low, 0.0, up, 0.5, INF, NAN]])
    runs = make_runs("lbfgs", train[..., None], test[..., None], physical=[float(j) for j in range(13)])
    spare = make_runs("lbfgs", train[:, :1, None], test[:, :1, None], physical=[12.0], data=[1.0])  # keeps the column
    grids = (build_grid(runs + spare, metric, **LBFGS) for metric in labels.METRICS)
    counts = labels.count_cells(*grids, limits)
    assert counts == labels.Counts(one=5, two=6, three=2, two_high_error=3, two_low_error=3, missing=13)
