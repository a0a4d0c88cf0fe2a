"""The drawing of figures: against maps with known boundaries, and for texts that are small or lie on others."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from analysis import (
    figure_improvement,
    figure_maps,
    figure_positions,
    figure_tables,
    labels,
    panels,
    style,
    thresholds,
)
from analysis.collect import Run
from analysis.expected import Expected
from analysis.figure_specs import FIGURES, SWEEPS, Panel, comparing
from figure_runs import PAPER, POINTS, sweep, table
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text

PINN = Panel("a", "PINN", "convection", "lbfgs", "PINN")
UNKNOWN = Expected("sweep_pinn.sh", "PDE=convection OPT=lbfgs", problem="not asked")
NUMERALS = set(labels.NAMES)


def known(strategy: str, physical: list, data: list, seeds: int = 1) -> Expected:
    keys = frozenset((x, n, k) for x in physical for n in data for k in range(seeds))
    return Expected("sweep_pinn.sh", f"PDE=convection OPT={strategy}", keys, "beta", "n")


def hatched(axes: object) -> set[tuple[float, float]]:
    patches = (patch for patch in axes.patches if isinstance(patch, Rectangle) and patch.get_hatch())
    return {(patch.get_x(), patch.get_y()) for patch in patches}


def numerals(axes: object) -> Counter:
    return Counter(text.get_text() for text in axes.texts if text.get_text() in NUMERALS)


def check_layout(figure: Figure) -> None:
    """No text is below 6 pt or outside the page, and no label, title or tick of one panel lies on another's."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    page = figure.bbox
    boxes = []
    for text in figure.findobj(Text):
        if text.get_text().strip() and text.get_visible():
            assert text.get_fontsize() >= 6, text.get_text()
            box = text.get_window_extent(renderer)
            if box.width and not re.fullmatch(r"I+|.*no (finished run|pair).*", text.get_text(), re.DOTALL):
                assert page.x0 <= box.x0 and box.x1 <= page.x1, text.get_text()
                assert page.y0 <= box.y0 and box.y1 <= page.y1, text.get_text()
                boxes.append((text.get_text(), box.padded(-1)))
    for k, (name, box) in enumerate(boxes):
        for other, second in boxes[:k]:
            assert not box.overlaps(second), f"{name!r} lies on {other!r}"


# panels


@pytest.mark.parametrize(
    ("rows", "cell", "expected_cell"),
    [
        (["#####", "#####", "#####"], (1, 1), (1, 2)),
        (["....", ".###", ".###", ".###"], (1, 1), (2, 2)),
        (["#....", "#....", "#####"], (1, 1), (2, 1)),  # all at depth 1: the one closest to the centre
        (["##.####", "#######", "##.####"], (1, 1), (1, 4)),
        (["#"], (1, 1), (0, 0)),
        (["#.#"], (1, 1), (0, 0)),
        (["########", "########"], (3, 1), (0, 3)),
    ],
)
def test_innermost_cell(rows: list[str], cell: tuple[float, float], expected_cell: tuple[int, int]) -> None:
    mask = np.array([[mark == "#" for mark in row] for row in rows])
    assert panels.innermost(mask, cell) == expected_cell
    with pytest.raises(ValueError, match="empty region"):
        panels.innermost(mask & False)


def test_printed_panel_says_each_region_once_and_marks_what_is_special() -> None:
    high, nan = 1.0, math.nan
    losses = [[1e-4] * 4 + [high] * 4 + [1e-4] * 4] * 3 + [[1e-4] * 4 + [high] * 4 + [1e-4] * 3 + [None]]
    losses[2] = losses[2][:5] + [nan] + losses[2][6:]
    errors = [[0.01 if loss is None or loss == 1e-4 else loss for loss in row] for row in losses]
    one = figure_maps.prepare(PINN, table("lbfgs", losses, errors), UNKNOWN, thresholds.fixed(1e-2, 0.1))
    figure = figure_maps.draw(replace(FIGURES[2], columns=1, panels=(PINN,)), [one])
    train, test = figure.axes[:2]
    for axes in (train, test):
        assert numerals(axes) == {"I": 2, "II": 1}
        assert hatched(axes) == {(10.5, 2.5)}  # the cell without a run, and only it
        assert [tuple(line.get_xydata()[0]) for line in axes.lines if line.get_marker() == "x"] == [(5.3, 2.3)]
        by_width = Counter(line.get_linewidth() for line in axes.lines if line.get_marker() == "None")
        assert by_width == {1.2: 4, 0.5: 4}  # both boundaries have two components, and so do the own ones at +-20 %
    assert "the panel's own, threshold ±20 %" in [text.get_text() for text in figure.legends[0].texts]
    # Losses are 1e-4 or 1: in log, T (1 -+ 0.2) lies at these places between the centres of columns 3 and 4.
    thin = sorted(line.get_xdata()[0] for line in train.lines if line.get_linewidth() == 0.5)
    np.testing.assert_allclose(thin[:2], [3 + (math.log10(t) + 4) / 4 for t in (0.8e-2, 1.2e-2)])


def test_scale_marks_the_threshold_and_names_both_ends() -> None:
    figure = Figure(figsize=(3, 9))
    bar = panels.draw_scale(figure.add_subplot(), 2.0, 6.0, [(3.0, {"color": "red"}), (7.0, {"color": "blue"})])
    figure.draw_without_rendering()
    assert bar.get_window_extent().height * 72 / figure.dpi == pytest.approx(4.0)  # however high the panel
    assert [text.get_text() for text in bar.texts] == ["2.00", "6.00"]
    assert [line.get_xdata()[0] for line in bar.lines] == [0.25]


@pytest.mark.parametrize("losses", [[[1.0]], [[math.nan]], [[1.0, 2.0]], [[1.0], [math.nan]], [[5.0] * 3] * 3])
def test_degenerate_maps_are_drawn_in_print(losses: list[list[float]], tmp_path: Path) -> None:
    for choice in ("percentile", "common", thresholds.fixed(1.0, 1.0)):
        one = figure_maps.prepare(PINN, table("lbfgs", losses), UNKNOWN, choice)
        figure = figure_maps.draw(replace(FIGURES[2], columns=1, panels=(PINN,)), [one])
        assert len(figure_tables.cells([one])) == 2 * np.size(losses)
        assert not one.empty and not hatched(figure.axes[0])
    style.save(figure, tmp_path / "map", dpi=40, endings=(".png",))


# the numbers behind a figure


def test_maps_stand_on_the_axes_found_and_expected() -> None:
    runs = table("lbfgs", [[1.0, None, 3.0], [4.0, 5.0, math.nan]])
    one = figure_maps.prepare(PINN, runs, known("lbfgs", [10.0, 25.0], [100.0, 50.0], 2), "percentile")
    assert (one.train.physical, one.train.data) == ([10.0, 20.0, 25.0, 30.0], [50.0, 100.0, 200.0])
    nan, inf = math.nan, math.inf
    np.testing.assert_array_equal(one.train.values, [[nan] * 4, [1, nan, nan, 3], [4, 5, nan, inf]])
    np.testing.assert_array_equal(one.train.count, [[0] * 4, [1, 0, 0, 1], [1, 1, 0, 1]])
    rows = figure_tables.cells([one])
    cell = next(row for row in rows if row["data_value"] == "100" and row["physical_value"] == "10")
    assert (cell["seeds"], cell["expected_seeds"], cell["mean"], cell["regime"]) == (1, 2, 1.0, "I")
    cell = next(row for row in rows if row["data_value"] == "200" and row["physical_value"] == "30")
    assert (cell["mean"], cell["diverged"], cell["expected_seeds"], cell["regime"]) == (inf, 1, 0, "II")
    assert math.isnan(cell["mean_of_finite"])
    absent = figure_maps.prepare(PINN, [], known("lbfgs", [10.0, 25.0], [100.0]), "percentile")
    assert absent.empty and absent.train.values.shape == (1, 2)
    with pytest.raises(ValueError, match="same cell and seed twice"):
        figure_maps.prepare(PINN, [*runs, runs[0]], UNKNOWN, "percentile")


def test_thresholds_of_a_panel() -> None:
    runs = table("lbfgs", [[1.0, 2.0, 3.0]]) + table("alm", [[10.0, 20.0, 30.0]]) + table("adam", [[7.0, 8.0, 9.0]])
    alm = Panel("c", "PINN", "convection", "alm", "ALM")

    def limits(panel: Panel, runs: list[Run], choice: object) -> tuple[float, float]:
        found = figure_maps.prepare(panel, runs, UNKNOWN, choice).limits
        return found.train, found.test

    assert limits(alm, runs, "percentile") == pytest.approx((23.0, 25.0))
    assert limits(alm, runs, "common") == limits(PINN, runs, "common") == pytest.approx((2.3, 2.5))
    # A reference without a finite cell is no yardstick: then the next.
    lost = [replace(r, train_loss=math.nan) if r.strategy == "lbfgs" else r for r in runs]
    assert limits(alm, lost, "common") == pytest.approx((8.3, 8.5))
    assert limits(alm, runs, "table5") == (3.34e-2, 0.278)
    assert limits(alm, runs, "common table5") == (3.80e-3, 0.434)
    # Table 5 has no Adam of PINNs: the first that it has.
    assert limits(alm, [r for r in runs if r.strategy != "lbfgs"], "common table5") == (3.34e-2, 0.278)
    assert limits(alm, runs, thresholds.fixed(1.0, 2.0)) == (1.0, 2.0)
    assert np.isnan(limits(alm, [replace(r, test_error=math.inf) for r in runs], "common")).all()


def test_vertices_of_a_known_boundary() -> None:
    # log10 loss = physical / 10 - 5: at T = 10^-2.5 the boundary is at 25, whatever the data.
    losses = [[10.0 ** (j - 4) for j in range(5)]] * 3
    one = figure_maps.prepare(PINN, table("lbfgs", losses), UNKNOWN, thresholds.fixed(10**-2.5, 1e9))
    rows = figure_tables.vertices([one])
    assert {row["boundary"] for row in rows} == {"train"}
    for shift, factor in (("", 1.0), ("-20 %", 0.8), ("+20 %", 1.2)):
        found = [row for row in rows if row["shift"] == shift]
        assert {row["component"] for row in found} == {0} and {row["percentile"] for row in found} == {""}
        np.testing.assert_allclose([row["level"] for row in found], factor * 10**-2.5)
        np.testing.assert_allclose([row["physical_value"] for row in found], 25 + 10 * math.log10(factor), atol=1e-9)
        assert sorted(row["y_index"] for row in found) == [-0.5, 0, 1, 2, 2.5]
        assert [row["data_value"] for row in sorted(found, key=lambda row: row["y_index"])] == ["", 100, 200, 300, ""]
    longer = [[10.0**j for j in range(11)]] * 3  # so that the 90th percentile is below the largest value
    own = figure_maps.prepare(PINN, table("lbfgs", longer), UNKNOWN, "percentile")
    found = {(row["boundary"], row["shift"]): row["percentile"] for row in figure_tables.vertices([own])}
    assert found == {
        ("train", ""): 65, ("train", "-20 %"): 52, ("train", "+20 %"): 78,
        ("test", ""): 75, ("test", "-20 %"): 60, ("test", "+20 %"): 90,
    }  # fmt: skip
    moved = {row["percentile"] for row in figure_tables.vertices([own], "value") if row["shift"]}
    assert moved == {""}
    runs = table("lbfgs", losses)
    ranges = [replace(r, physical_value=f"{r.physical_value:g}-{r.physical_value + 5:g}") for r in runs]
    one = figure_maps.prepare(PINN, ranges, UNKNOWN, thresholds.fixed(10**-2.5, 1e9))
    assert {row["physical_value"] for row in figure_tables.vertices([one])} == {""}


# the other pictures


def test_improvement_writes_clips_and_hatches() -> None:
    runs = table("lbfgs", [[4.0, 4.0, 4.0, math.nan, 4.0]])
    runs += table("nncg", [[1.0, 3.99, 12.5, 1.0, None]], lbfgs_train_loss=2.0, lbfgs_test_error=2.0)
    runs = [run for run in runs if (run.strategy, run.physical_value) != ("nncg", 50.0)]
    both = PINN, Panel("", "PINN", "convection", "nncg", "")
    asked = known("lbfgs", [10.0, 60.0], [100.0]), known("nncg", [10.0, 60.0], [100.0])
    pair = figure_improvement.prepare_pair(both, runs, asked, thresholds.fixed(3.0, 3.0), "lbfgs")
    with style.in_print():
        figure = figure_improvement.draw([pair, pair], "ratio_of_means")
        check_layout(figure)
    left = figure.axes[0]
    assert [text.get_text() for text in left.texts] == ["75", "0"]
    assert hatched(left) == {(2.5, -0.5), (3.5, -0.5), (4.5, -0.5)}  # no ratio, no partner, not run
    assert [line.get_xydata()[0].tolist() for line in left.lines if line.get_marker() == "v"] == [[2.0, 0.0]]
    colors = left.images[0].get_array()
    assert colors[0, 0, 2] > colors[0, 0, 0] and colors[0, 2, 0] > colors[0, 2, 2]  # better is blue, worse is red
    rows = figure_tables.improvements([pair])
    assert [row["regime_of_base_map"] for row in rows[:5]] == ["II"] * 5
    switch = figure_improvement.prepare_pair(both, runs, asked, "percentile", "switch")
    np.testing.assert_allclose(switch.improvements["train_loss"].ratio_of_means[0, :3], [50, -99.5, -525])
    empty = figure_improvement.prepare_pair(both, runs[:5], asked, "percentile", "lbfgs")
    assert empty.improvements == {} and figure_improvement.draw([empty], "mean_of_ratios").axes
    with pytest.raises(ValueError, match="ratio_of_means, mean_of_ratios"):
        figure_improvement.draw([pair], "mean")


def test_positions_mark_what_lies_beyond_the_grid() -> None:
    losses = [[1e-4, 1e-4, 1e-4], [1e-4, 1e-4, 1.0], [1.0, 1.0, 1.0], [1e-4, 1.0, 1e-4]]
    runs = table("lbfgs", losses, [[0.1] * 3] * 4)
    one = figure_maps.prepare(PINN, runs, UNKNOWN, thresholds.fixed(1e-2, 0.5))
    found = figure_positions.find([one], runs)
    left, right = (axes for axes in figure_positions.draw([found]).axes)
    markers = [(line.get_marker(), line.get_ydata()[0]) for line in left.lines if line.get_marker() in "^vo"]
    assert [marker for marker, _ in markers] == ["^", "o", "v", "o"]
    assert [line.get_markerfacecolor() == "white" for line in left.lines if line.get_marker() in "^vo"] == [0, 0, 0, 1]
    assert markers[0][1] > 30 and markers[1][1] == pytest.approx(25) and markers[2][1] < 10
    # A triangle stands past the last value that was run, not past the last that is expected.
    grid = known("lbfgs", [1.0, 2.0, 90.0], [100.0])
    part = figure_maps.prepare(PINN, runs, grid, thresholds.fixed(1e-2, 0.5))
    wider = figure_positions.draw([figure_positions.find([part], runs)]).axes[0]
    tops = [line.get_ydata()[0] for line in wider.lines if line.get_marker() == "^"]
    assert len(tops) == 1 and 30 < tops[0] < 40
    assert wider.get_yticks().tolist() == [90.0, 30.0, 20.0, 10.0, 1.0]  # 2 would lie on 1
    assert [line.get_marker() for line in right.lines if line.get_marker() in "^vo"] == ["^"] * 4
    # On an axis of ranges, an index counts the figure's columns, not only those that the strategy has run.
    texts = {10.0: "1-2", 20.0: "4-8", 30.0: "8-16"}
    ranges = [replace(run, physical_value=texts[run.physical_value]) for run in runs]
    asked = replace(known("lbfgs", ["1-2", "2-4", "4-8", "8-16"], [100.0]), problem="")
    wide = figure_maps.prepare(PINN, ranges, asked, thresholds.fixed(1e-2, 0.5))
    index = figure_positions.find([wide], ranges).found["train_loss"]["lbfgs"]
    assert [p.position for p in index] == [math.inf, pytest.approx(2.5), -math.inf, pytest.approx(1.0)]
    other = replace(one, limits=thresholds.fixed(1.0, 1.0))
    with pytest.raises(ValueError, match="common thresholds"):
        figure_positions.find([one, other], runs)


@pytest.mark.parametrize("number", [1, 2, 3, 10])
def test_texts_of_full_figures_are_large_enough_and_apart(number: int) -> None:
    runs = [r for system in PAPER for r in sweep(system, ["lbfgs", "alm"], seeds=(0, 1))]
    spec = FIGURES[number]

    def asked(panel: Panel) -> Expected:
        if panel.model != "PINN":
            return Expected("sweep_fno.sh", "", problem="not yet", exists=False)
        return known(panel.strategy, PAPER[panel.system][1], POINTS)

    maps = [figure_maps.prepare(panel, runs, asked(panel), "percentile") for panel in spec.panels]
    with style.in_print():
        figure = figure_maps.draw(spec, maps)
        check_layout(figure)
        if number == 3:
            common = [figure_maps.prepare(panel, runs, asked(panel), "common") for panel in spec.panels]
            bands = [figure_positions.find(common[k : k + 5], runs) for k in (0, 5, 10)]
            check_layout(figure_positions.draw(bands))
    assert figure.get_figwidth() <= style.WIDTH
    titles = [text.get_text() for axes in figure.axes for text in axes.texts if text.get_text().startswith("(")]
    assert titles == [f"({panel.letter}) {panel.title}" for panel in spec.panels]
    empty = [one for one in maps if one.empty]
    says = [text.get_text() for axes in figure.axes for text in axes.texts if "no finished run" in text.get_text()]
    assert len(says) == 2 * len(empty)
    for one, text in zip(empty, says[::2]):
        assert one.panel.name in text.replace("-\n", "-").replace("\n", " ")


@pytest.mark.parametrize("columns", [1, 2, 4, 7])
def test_figure_three_has_room_for_other_columns(columns: int) -> None:
    names = ["lbfgs", "alm", "nncg", "cl", "ropinn", "region_lbfgs", "mine"][:columns]
    spec = comparing(["PINN"], names)
    assert [(p.letter, p.strategy) for p in spec.panels] == list(zip("abcdefg", names))
    runs = sweep("convection", names[:5], seeds=(0, 1))
    grid = [known(panel.strategy, PAPER["convection"][1], POINTS) for panel in spec.panels]
    for choice in ("percentile", "common"):
        maps = [figure_maps.prepare(panel, runs, asked, choice) for panel, asked in zip(spec.panels, grid)]
        with style.in_print():
            check_layout(figure_maps.draw(spec, maps))
            if choice == "common":
                check_layout(figure_positions.draw([figure_positions.find(maps, runs)]))


def test_figures_are_those_of_the_captions() -> None:
    assert {n: len(spec.panels) for n, spec in FIGURES.items()} == {1: 5, 2: 4, 3: 15, 4: 4, 8: 4, 9: 4, 10: 2}
    three = [(p.letter, p.model, p.strategy) for p in FIGURES[3].panels]
    assert three[0] == ("a", "PINN", "ropinn") and three[5:7] == [("f", "PINO", "adam"), ("g", "PINO", "lbfgs")]
    assert three[14] == ("o", "PINODE", "cl")
    for spec in FIGURES.values():
        for panel in spec.panels:  # every map of the paper has a row in its Table 5, and a sweep
            assert (panel.model, panel.system, panel.strategy) in thresholds.TABLE5 and panel.model in SWEEPS


def test_files_are_the_same_again_and_fonts_are_truetype(tmp_path: Path) -> None:
    one = figure_maps.prepare(PINN, table("lbfgs", [[1.0, 2.0]]), UNKNOWN, "percentile")
    contents = []
    for name in ("a", "b"):
        with style.in_print():
            figure = figure_maps.draw(replace(FIGURES[2], columns=1, panels=(PINN,)), [one])
            png, pdf = style.save(figure, tmp_path / f"{name}.x", dpi=50)
        assert (png.name, pdf.name) == (f"{name}.x.png", f"{name}.x.pdf")
        contents.append((png.read_bytes(), pdf.read_bytes()))
    assert contents[0] == contents[1]
    assert b"/FontFile2" in contents[0][1] and b"/Type3" not in contents[0][1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.x.pdf", "a.x.png", "b.x.pdf", "b.x.png"]
