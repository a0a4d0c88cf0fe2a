"""Regime maps as pictures and tables, and the command that draws them."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from analysis import labels, maps, panels, thresholds
from analysis.collect import (
    build_grid,
    collect,
    read_csv,
)
from hand_made import grid, metrics, put, results_folder


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return results_folder(tmp_path / "results")


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
