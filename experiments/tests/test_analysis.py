"""Regime maps against hand-made grids and run folders with known answers."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from analysis import boundaries, labels, maps, panels, thresholds
from analysis.collect import (
    Grid,
    axis_order,
    axis_value,
    build_grid,
    collect,
    groups,
    parse_run,
    read_csv,
    write_csv,
)


def grid(values: object, metric: str = "train_loss", diverged: object = None) -> Grid:
    """Return a one-seed grid; NaN is a missing cell, inf a diverged one."""
    values = np.array(values, float)
    shown = np.where(np.isfinite(values), values, np.nan)
    rows, columns = values.shape
    return Grid(
        "PINN", "convection", "lbfgs", metric, "beta", "n",
        [float(j) for j in range(columns)], [float(i) for i in range(rows)],
        values, shown, (~np.isnan(values)).astype(int), np.isinf(values).astype(int),
    )  # fmt: skip


def metrics(**changes: object) -> dict:
    """Return the content of a metrics.json."""
    content: dict = {
        "schema": 1, "module": "PINN", "model": "PINN", "system": "convection",
        "strategy": "lbfgs", "physical": {"name": "beta", "value": 5},
        "data": {"name": "n", "value": 1000}, "seed": 0, "train_loss": 1e-4, "test_error": 0.5,
        "metrics": {"lambda_max": 12.5, "loss": {"residual": 0.25}, "note": "a,b", "ok": True},
        "status": "finished", "stop_reason": "tolerance", "iterations": 10, "evaluations": 12,
        "seconds": 1.5, "config": {}, "environment": {},
    }  # fmt: skip
    return content | changes


def put(root: Path, name: str, content: dict | str | None) -> None:
    """Write one run folder; None leaves it unfinished."""
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    if content is not None:
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / "metrics.json").write_text(text)


def at(beta: float, n: float, seed: int = 0, **changes: object) -> dict:
    """Return a metrics.json at a cell."""
    cell = {"physical": {"name": "beta", "value": beta}, "data": {"name": "n", "value": n}}
    return metrics(**cell, seed=seed, **changes)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Return a folder with finished, diverged, unfinished and corrupt runs; 1 to 3 seeds a cell."""
    root = tmp_path / "results"
    put(root, "a/seed_0", at(5, 1000, 0, train_loss=1.0, test_error=0.1))
    put(root, "a/seed_1", at(5, 1000, 1, train_loss=2.0, test_error=0.2))
    put(root, "a/seed_2", at(5, 1000, 2, train_loss=6.0, test_error=0.6, status="diverged"))
    put(root, "b/seed_0", at(30, 1000, 0, train_loss=3.0, test_error=0.9))
    lost = {"train_loss": None, "test_error": None, "status": "diverged"}
    put(root, "b/seed_1", at(30, 1000, 1, **lost))
    put(root, "c/seed_0", at(5, 100, 0, train_loss=0.5, test_error=2.0))
    put(root, "d/seed_0", None)
    put(root, "e/seed_0", json.dumps(at(30, 100)).replace("0.0001", "NaN"))
    put(root, "f/seed_0", '{"schema": 1, "mod')
    return root


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


# maps


def test_colours_follow_equation_22() -> None:
    cells = grid([[*range(21)]])  # 5th percentile 1, 95th 19
    assert panels.color_limits(cells.shown) == pytest.approx((1.0, 19.0))
    colors = panels.cell_colors(cells)[0]
    base = matplotlib.colormaps["viridis_r"]
    np.testing.assert_array_equal(colors[0], colors[1])  # clamped below
    np.testing.assert_array_equal(colors[20], colors[19])  # clamped above
    np.testing.assert_allclose(colors[0], base(0.0))
    np.testing.assert_allclose(colors[19], base(0.8))
    np.testing.assert_allclose(colors[10], base(0.4), atol=0.01)
    red, green, blue = colors[0, :3]
    assert red > 0.9 and green > 0.8 and blue < 0.3  # yellow is low
    red, green, blue = colors[8, :3]
    assert green > red and green > blue  # green is higher


def test_missing_cells_are_transparent_and_diverged_ones_highest() -> None:
    colors = panels.cell_colors(grid([[1.0, 2.0, np.nan, np.inf]]))[0]
    assert colors[2, 3] == 0
    np.testing.assert_allclose(colors[3], matplotlib.colormaps["viridis_r"](0.8))
    constant = panels.cell_colors(grid([[3.0, 3.0]]))[0]
    np.testing.assert_allclose(constant[0], matplotlib.colormaps["viridis_r"](0.0))


def test_figure_says_what_it_must() -> None:
    train = grid([[1e-4, 1e-4, 1.0], [1e-4, 1.0, np.inf], [1e-4, 1.0, np.nan]])
    test = grid([[0.01, 0.9, 0.9], [0.01, 0.01, np.inf], [0.01, 0.01, np.nan]], "test_error")
    figure = maps.regime_map(train, test, thresholds.fixed(1e-2, 0.5))
    left, right = figure.axes[:2]
    assert [text.get_text() for text in left.texts][:2] == ["I", "1.0e-4"]
    written = {text.get_text() for text in left.texts}
    assert written == {"I", "II", "III", "1.0e-4", "1.00", "diverged", "×1"}
    assert left.get_xlabel() == "convection coefficient β"
    assert left.get_ylabel() == r"collocation points $N_f$"
    key = [text.get_text() for text in figure.legends[0].get_texts()]
    assert r"$T_{\mathrm{train}}$ = 0.0100 (fixed values)" in key
    assert r"$T_{\mathrm{test}}$ ±20 %: 0.400, 0.600" in key
    assert "no finished run" in key and "×k: k seeds diverged" in key
    for axes in (left, right):
        styles = {line.get_linestyle() for line in axes.lines if line.get_linewidth() == 2.2}
        assert styles == {"-", "--"}


def test_map_of_the_pendulum_says_what_is_measured() -> None:
    names = {"model": "NODE", "system": "pendulum", "strategy": "sphere_adam", "physical_name": "inv_b"}
    train, test = (replace(grid([[1e-6, 1e-4]], metric), **names) for metric in labels.METRICS)
    figure = maps.regime_map(train, test, thresholds.fixed(1e-5, 1.0))
    left, right = figure.axes[:2]
    assert left.get_title() == "Training loss (data term)"
    assert right.get_title() == "Test error (relative L2 of the rollout)"
    assert left.get_xlabel() == "inverse damping 1/b"
    assert left.get_ylabel() == r"training samples $T/\Delta t$"
    assert figure.get_suptitle() == "NODE, pendulum, Adam, on the sphere: 1 seed per cell"


@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (4, 1), (9, 3)])
@pytest.mark.parametrize("fill", [1.0, np.inf, np.nan])
def test_degenerate_maps_are_drawn(shape: tuple[int, int], fill: float, tmp_path: Path) -> None:
    values = np.full(shape, fill)
    values[0, 0] = np.inf if np.isnan(fill) else fill
    train, test = grid(values), grid(values, "test_error")
    limits = thresholds.from_percentiles(train, test)
    maps.regime_map(train, test, limits).savefig(tmp_path / "map.png", dpi=40)
    assert labels.format_table(train, test, limits).isascii()


def test_table_is_aligned_and_narrow(results: Path) -> None:
    wide = grid(10.0 ** -np.arange(28).reshape(2, 14))
    text = labels.format_table(wide, wide, thresholds.fixed(1e-3, 1e-3))
    assert text.isascii() and max(map(len, text.splitlines())) <= 100
    runs = collect(results).runs
    train, test = (
        build_grid(runs, m, system="convection", strategy="lbfgs") for m in labels.METRICS
    )
    lines = labels.format_table(train, test, thresholds.fixed(2.0, 1.0)).splitlines()
    start = lines.index("training loss, n (rows) by beta (columns)")
    assert lines[start + 1 : start + 4] == [
        "              5        30",
        " 1000  3.00e+00* 3.00e+00*",
        "  100  5.00e-01         .",
    ]
    start = lines.index("seeds, n (rows) by beta (columns)")
    assert [line.split() for line in lines[start + 2 : start + 4]] == [
        ["1000", "3", "2"], ["100", "1", "0"],
    ]  # fmt: skip
    assert "cells   I 0   II 2   III 1   without a finished run 1" in lines
    assert (
        "of II   1 with high test error (the paper's II), 1 with low test error (unnamed)" in lines
    )
    assert lines[-1] == "*       with diverged runs (2 in all): the mean of the finite values"
    lost = labels.format_table(grid([[1.0, 1.0]]), grid([[1.0, np.inf]], "test_error"), thresholds.fixed(2.0, 2.0))
    assert "diverged*" in lost and "with diverged runs (1 in all)" in lost


def command(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run maps.py as a script."""
    call = [sys.executable, str(Path(maps.__file__)), *map(str, arguments)]
    return subprocess.run(call, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


def test_command_line_from_another_directory(results: Path, tmp_path: Path) -> None:
    done = command("results", "--out", "out/regime_map.png", "--dpi", 40, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/regime_map.png").read_bytes().startswith(b"\x89PNG")
    assert len(read_csv(tmp_path / "out/results.csv")) == 6
    assert "6 runs done (2 diverged), 1 unfinished, 2 unreadable" in done.stdout
    assert "unfinished: d/seed_0" in done.stdout and "e/seed_0" in done.stderr
    assert "T_train = 2.125e+00" in done.stdout  # 65 % of the way from 0.5 to 3.0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "regime_map.pdf", "regime_map.png", "results.csv",
    ]  # fmt: skip


def test_command_line_draws_a_picture_each(results: Path, tmp_path: Path) -> None:
    put(results, "g/seed_0", metrics(strategy="alm"))
    put(results, "h/seed_0", metrics(system="pendulum", model="NODE", strategy="adam"))
    put(results, "i/seed_0", metrics(system="pendulum", model="PINODE", strategy="adam"))
    put(results, "j/seed_0", metrics(system="pendulum", model="PINODE", strategy="alm_data"))
    done = command(results, "--thresholds", "table5", "--dpi", 40, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in results.glob("*.png")) == [
        "regime_map_NODE_pendulum_adam.png", "regime_map_PINODE_pendulum_adam.png",
        "regime_map_PINODE_pendulum_alm_data.png",
        "regime_map_convection_alm.png", "regime_map_convection_lbfgs.png",
    ]  # fmt: skip
    assert "T_train = 3.800e-03, T_test = 4.340e-01 (Table 5 of the paper)" in done.stdout
    again = command(results / "results.csv", "--model", "NODE", "--thresholds", "1,2", cwd=tmp_path)
    assert again.returncode == 0 and (results / "regime_map.png").is_file(), again.stderr


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["nowhere"], "RESULTS: no such folder"),
        (["empty"], "RESULTS: no finished run (metrics.json) below empty (1 unfinished"),
        (
            ["results", "--system", "wave"],
            "--system: no finished run with 'wave' (found: convection",
        ),
        (["results", "--strategy", "alm"], "--strategy: no finished run with 'alm' (found: lbfgs"),
        (["results", "--thresholds", "high"], "--thresholds: 'high' is not one of percentile"),
        (["results", "--thresholds", "1,2,3"], "T_TRAIN,T_TEST"),
        (["results", "--thresholds", "nan,1"], "T_TRAIN,T_TEST"),
        (["results", "--thresholds", "1,2", "--perturbation", "percentile"], "--perturbation"),
        (["results", "--train-percentile", "165"], "--train-percentile: '165'"),
        (["results", "--out", "map.txt"], "--out: 'map.txt' must end in .png"),
        (["results", "--dpi", "0"], "--dpi: '0' is not a number from 30"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_two(
    arguments: list[str],
    named: str,
    results: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    put(tmp_path / "empty", "seed_0", None)
    monkeypatch.chdir(results.parent)
    with pytest.raises(SystemExit) as stop:
        maps.main(arguments)
    said = capsys.readouterr()
    assert stop.value.code == 2 and said.out == ""
    assert named in said.err and said.err.count("\n") == 1
    assert not list(tmp_path.rglob("*.png")) and not list(tmp_path.rglob("results.csv"))


def test_missing_table5_row_names_the_flag(tmp_path: Path) -> None:
    put(tmp_path / "results", "seed_0", metrics(system="wave", strategy="cl"))
    done = command("results", "--thresholds", "table5", cwd=tmp_path)
    assert done.returncode == 2
    assert "--thresholds: Table 5 has no row for PINN wave cl (it has lbfgs, alm" in done.stderr
