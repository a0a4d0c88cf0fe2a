"""Run folders, thresholds, boundaries and labels against hand-made grids with known answers."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
from analysis import boundaries, labels, thresholds
from analysis.collect import (
    axis_order,
    axis_value,
    build_grid,
    collect,
    groups,
    parse_run,
    read_csv,
    write_csv,
)
from hand_made import grid, metrics, put, results_folder


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return results_folder(tmp_path / "results")


# collect


def test_collect_sorts_runs_into_finished_unfinished_and_corrupt(
    results: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(results, "g/seed_0", "[" * 100_000)
    found = collect(results)
    assert [run.path for run in found.runs] == [
        "a/seed_0", "a/seed_1", "a/seed_2", "b/seed_0", "b/seed_1", "c/seed_0",
    ]  # fmt: skip
    assert found.unfinished == ["d/seed_0"]
    assert [path for path, _ in found.corrupt] == [f"{name}/seed_0/metrics.json" for name in "efg"]
    assert "NaN" in found.corrupt[0][1]
    assert "e/seed_0" in caplog.text and "f/seed_0" in caplog.text
    assert found.runs[4].status == "diverged" and math.isnan(found.runs[4].train_loss)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "schema"),
        ({"train_loss": "low"}, "not a number"),
        ({"physical": 5}, "wrong type"),
        ({"metrics": [1]}, "wrong type"),
        ({"train_loss": 10**400}, "too large"),
        ({"data": {"name": "n"}}, "'value' is missing"),
    ],
)
def test_parse_run_names_what_is_wrong(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_run(json.dumps(metrics(**change)), "here")


def test_metrics_are_flattened() -> None:
    run = parse_run(json.dumps(metrics()), "here")
    assert run.metrics == {"lambda_max": 12.5, "loss.residual": 0.25, "note": "a,b", "ok": 1.0}
    assert run.value("metrics.loss.residual") == 0.25
    assert run.value("metrics.note") is None and run.value("metrics.absent") is None


def test_csv_keeps_every_digit_and_leaves_no_temporary_file(results: Path, tmp_path: Path) -> None:
    runs = collect(results).runs
    odd = parse_run(json.dumps(metrics(train_loss=0.1 + 0.2, seed=9)), "odd, path")
    write_csv([*runs, odd], tmp_path / "out" / "results.csv")
    back = read_csv(tmp_path / "out" / "results.csv")
    assert repr(back) == repr([*runs, odd])  # repr, as NaN differs from itself
    with (tmp_path / "out" / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows[4]["train_loss"] == "nan" and rows[0]["physical_value"] == "5"
    assert rows[-1]["train_loss"] == "0.30000000000000004"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["results.csv"]
    heading, first, *_ = (tmp_path / "out" / "results.csv").read_text().splitlines()
    for line, message in (("PINN,PINN", "cells"), (first + ",1", "cells"), ("x" * 200_000, "field"),
                          (first.replace("5", "five", 1).replace(",0,", ",zero,", 1), "zero")):  # fmt: skip
        (tmp_path / "bad.csv").write_text("\n".join([heading, first, line]))
        with pytest.raises(ValueError, match=f"^line [23]: .*{message}"):
            read_csv(tmp_path / "bad.csv")


def test_axis_values_sort_by_their_numbers() -> None:
    ranges = ["100-200", "2.5-5", "1-2.5"]
    assert sorted(ranges, key=axis_order) == ["1-2.5", "2.5-5", "100-200"]
    assert sorted([20.0, 3.0, -1.0], key=axis_order) == [-1.0, 3.0, 20.0]
    assert axis_value([1.0, 2.5]) == "1-2.5" and axis_value("30") == 30.0
    with pytest.raises(ValueError, match="a swept value is nan"):  # it would be a column beside the numbers
        axis_value(math.nan)


def test_grid_averages_all_seeds_and_shows_divergence(results: Path) -> None:
    runs = collect(results).runs
    train = build_grid(runs, "train_loss", system="convection", strategy="lbfgs")
    assert (train.physical, train.data) == ([5.0, 30.0], [100.0, 1000.0])
    np.testing.assert_array_equal(train.count, [[1, 0], [3, 2]])
    np.testing.assert_array_equal(train.diverged, [[0, 0], [1, 1]])
    # A diverged run with a finite value is averaged; one without makes the average infinite.
    np.testing.assert_allclose(train.values, [[0.5, np.nan], [3.0, np.inf]])
    np.testing.assert_allclose(train.shown, [[0.5, np.nan], [3.0, 3.0]])
    curvature = build_grid(runs, "metrics.lambda_max", system="convection", strategy="lbfgs")
    np.testing.assert_allclose(curvature.values, [[12.5, np.nan], [12.5, 12.5]])


def test_grid_refuses_what_is_not_one_sweep(results: Path) -> None:
    runs = collect(results).runs
    with pytest.raises(ValueError, match="no finished run with system wave"):
        build_grid(runs, "train_loss", system="wave", strategy="lbfgs")
    with pytest.raises(ValueError, match=r"twice: a/seed_0 and a/seed_0"):
        build_grid([*runs, runs[0]], "train_loss", system="convection", strategy="lbfgs")
    other = parse_run(json.dumps(metrics(model="PINO", seed=7)), "x")
    with pytest.raises(ValueError, match="mix model PINN, PINO"):
        build_grid([*runs, other], "train_loss", system="convection", strategy="lbfgs")
    assert groups([*runs, other]) == [
        ("PINN", "convection", "lbfgs"), ("PINO", "convection", "lbfgs"),
    ]  # fmt: skip


# thresholds


def test_percentile_by_hand() -> None:
    # 11 cells 0, 1, ..., 10: the q-th percentile is q / 10. Missing and diverged do not count.
    values = [[*range(10, -1, -1), np.nan, np.inf]]
    assert thresholds.percentile(grid(values)) == pytest.approx(6.5)
    assert thresholds.percentile(grid(values, "test_error")) == pytest.approx(7.5)
    assert thresholds.percentile(grid(values), 12) == pytest.approx(1.2)
    assert math.isnan(thresholds.percentile(grid([[np.nan, np.inf]])))
    limits = thresholds.from_percentiles(grid(values), grid(values, "test_error"), 50)
    assert (limits.train, limits.test) == pytest.approx((5.0, 7.5))
    assert (limits.train_percentile, limits.test_percentile) == (50, 75)
    with pytest.raises(ValueError, match="outside"):
        thresholds.percentile(grid(values), 101)
    with pytest.raises(ValueError, match="default"):
        thresholds.percentile(grid(values, "metrics.lambda_max"))


def test_table5_is_complete() -> None:
    table = dict(thresholds.TABLE5)
    assert table.pop(("PINODE", "pendulum", "alm_data")) == table["PINODE", "pendulum", "alm"]
    assert len(table) == 28
    # Sums of log10 over the two columns, computed from the paper's text and not from the code.
    train, test = np.log10(list(table.values())).sum(axis=0)
    assert train == pytest.approx(-77.95575098, abs=1e-6)
    assert test == pytest.approx(-9.95361168, abs=1e-6)
    limits = thresholds.table5("PINODE", "pendulum", "alm")
    assert (limits.train, limits.test) == (6.88e-9, 1.31)
    with pytest.raises(ValueError, match="lbfgs, alm, ropinn"):
        thresholds.table5("PINN", "wave", "cl")
    with pytest.raises(ValueError, match="finite"):
        thresholds.fixed(math.nan, 1.0)


# boundaries


def test_plane_has_the_straight_line_it_should() -> None:
    i, j = np.mgrid[0:5, 0:7]
    (line,) = boundaries.level_set(2.0 * j + i, 5.5, log=False, extend=False)
    np.testing.assert_allclose(2 * line[:, 0] + line[:, 1], 5.5, atol=1e-12)
    assert line[:, 1].min() == 0 and line[:, 1].max() == 4


def test_log_interpolation_meets_decades_half_way() -> None:
    values = np.array([[1e-6, 1e-2], [1e-6, 1e-2]])
    (line,) = boundaries.level_set(values, 1e-4)
    np.testing.assert_allclose(line[:, 0], 0.5)
    np.testing.assert_allclose(sorted({-0.5, 1.5}), [line[:, 1].min(), line[:, 1].max()])
    (line,) = boundaries.level_set(values, 1e-4, log=False)
    np.testing.assert_allclose(line[:, 0], (1e-4 - 1e-6) / (1e-2 - 1e-6))
    (line,) = boundaries.level_set(values - 1e-6, 1e-4)  # a zero: linear
    np.testing.assert_allclose(line[:, 0], 1e-4 / (1e-2 - 1e-6))


def test_every_component_is_kept_and_nothing_is_smoothed() -> None:
    values = np.zeros((7, 9))
    values[2, 2] = values[4, 6] = 1.0
    lines = boundaries.level_set(values, 0.25)
    assert sorted(tuple(line[:-1].mean(axis=0)) for line in lines) == [(2, 2), (6, 4)]
    for line in lines:  # a single cell is reached at distance 0.75 along the axes
        assert np.ptp(line, axis=0) == pytest.approx((1.5, 1.5))


def test_boundary_separates_cells_as_the_labels_do() -> None:
    # Equality counts as low: the curve passes on the far side of the equal cell.
    (line,) = boundaries.level_set(np.array([[1.0, 2.0, 4.0]]), 2.0)
    np.testing.assert_allclose(line[:, 0], 1.0)
    assert boundaries.level_set(np.array([[1.0, 2.0]]), 2.0) == []


def test_missing_cells_are_masked_and_diverged_cells_are_high() -> None:
    values = np.tile([0.0, 0.0, 1.0, 1.0, 1.0], (5, 1))
    values[2, 2] = np.nan
    lines = boundaries.level_set(values, 0.5, extend=False)
    assert len(lines) == 2
    assert all((line[:, 1] <= 1.5).all() or (line[:, 1] >= 2.5).all() for line in lines)
    # inf stands one data range above everything: 0, 1, 2 at the level 0.5, or 0, 1, 3 at 1.5.
    (line,) = boundaries.level_set(np.array([[0.0, 0.0, np.inf], [0.0, 0.0, 1.0]]), 0.5)
    assert sorted(line[[0, -1], 0]) == pytest.approx([1.25, 1.5])
    (line,) = boundaries.level_set(np.array([[0.0, 1.0, np.inf]]), 1.5)
    np.testing.assert_allclose(line[:, 0], 1 + 0.5 / 2.0)


@pytest.mark.parametrize(
    ("values", "curves"),
    [
        ([[1.0, 3.0, 1.0]], 2), ([[1.0], [3.0]], 1), ([[1.0]], 0), (np.full((3, 3), 5.0), 0),
        (np.full((3, 3), np.nan), 0), (np.full((2, 2), np.inf), 0), ([[np.nan, 1.0, 3.0]], 1),
    ],
)  # fmt: skip
def test_degenerate_grids(values: object, curves: int) -> None:
    assert len(boundaries.level_set(np.array(values), 2.0)) == curves
    assert boundaries.level_set(np.array(values), math.nan) == []


def test_both_readings_of_twenty_percent() -> None:
    cells = grid([[*range(11)]])
    value = boundaries.perturbed_levels(cells, 6.5, reading="value")
    assert value == pytest.approx((5.2, 7.8))
    moved = boundaries.perturbed_levels(cells, 6.5, reading="percentile", q=65)
    assert moved == pytest.approx((5.2, 7.8))
    cells = grid([[v**2 for v in range(11)]])
    moved = boundaries.perturbed_levels(cells, 81.0, reading="percentile", q=90)
    assert moved == pytest.approx((0.8 * 49 + 0.2 * 64, 100.0))  # percentiles 72 and, capped, 100
    with pytest.raises(ValueError, match="no percentile"):
        boundaries.perturbed_levels(cells, 1.0, reading="percentile")
    with pytest.raises(ValueError, match="percentile, value"):
        boundaries.perturbed_levels(cells, 1.0, reading="both")


# labels


@pytest.mark.parametrize(
    ("loss", "error", "expected"),
    [
        (0.1, 0.1, "I"), (1.0, 2.0, "I"), (1.1, 0.1, "II"), (1.1, 9.0, "II"), (1.0, 2.1, "III"),
        (math.nan, 0.1, "II"), (math.inf, 0.1, "II"), (math.nan, math.nan, "II"),
        (0.1, math.nan, "III"), (0.1, math.inf, "III"),
    ],
)  # fmt: skip
def test_truth_table(loss: float, error: float, expected: str) -> None:
    assert labels.regime(loss, error, thresholds.fixed(1.0, 2.0)) == expected


def test_strict_quadrants_and_nesting() -> None:
    train = grid([[0.1, 5.0, 5.0], [0.1, np.inf, np.nan]])
    test = grid([[0.1, 0.1, 9.0], [9.0, np.inf, np.nan]], "test_error")
    limits = thresholds.fixed(1.0, 2.0)
    assert labels.label_cells(train, test, limits).tolist() == [
        ["I", "II", "II"],
        ["III", "II", ""],
    ]
    assert labels.count_cells(train, test, limits) == labels.Counts(1, 3, 1, 2, 1, 1)
    low = [labels.label_cells(train, test, thresholds.fixed(t, 2.0)) != "II" for t in (0.05, 1, 6)]
    assert (low[0] <= low[1]).all() and (low[1] <= low[2]).all() and low[2].sum() > low[0].sum()
    with pytest.raises(ValueError, match="axes"):
        labels.label_cells(train, grid([[1.0]]), limits)
