"""Pictures: what is drawn is what was given, whatever is missing in it, and the web page needs nothing else."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

from pinn.density import Density  # noqa: E402
from pinn.drawing import (  # noqa: E402
    LEAST_DENSITY,
    draw_path,
    draw_similarity,
    draw_spectrum,
    draw_surface,
    interactive_surface,
    is_wide,
    log_loss,
)

AXIS = np.linspace(-1, 1, 5)
BOWL = 1e-3 + AXIS[:, None] ** 2 + 4 * AXIS**2


def test_spectrum() -> None:
    """A curve a state, its text in the legend, the extreme eigenvalues as ticks; also of none."""
    density = Density(np.array([[-3.0, 0.0, 200.0]]), np.array([[0.1, 0.6, 0.3]]), np.zeros((1, 3)))
    figure = draw_spectrum("title", {"initial": (density, [200.0, -3.0], "mass 10 %"), "final": (density, [200.0], "")})
    (axes,) = figure.axes
    assert [line.get_linestyle() for line in axes.lines[::2]] == ["-", "--"]
    drawn = axes.lines[0].get_ydata()
    assert np.isnan(drawn).any() and np.nanmin(drawn) >= LEAST_DENSITY, "gaps where there is nothing"
    assert axes.lines[1].get_xdata().tolist() == [200, -3]
    assert axes.get_legend().get_texts()[0].get_text() == "initial\nmass 10 %"
    assert (axes.get_xscale(), axes.get_yscale(), axes.get_ylim()[0]) == ("symlog", "log", LEAST_DENSITY)
    assert axes.get_xlim()[0] == -10 and axes.get_xlim()[1] > 200
    draw_spectrum("diverged", {}).canvas.draw()


def test_losses_without_a_logarithm() -> None:
    """Infinite ones are as high as the highest other; nothing is finite: flat."""
    z, count = log_loss(np.array([1e-2, np.inf, 10.0, 0.0]))
    assert z.tolist() == [-2, 1, 1, -12] and count == 1
    z, count = log_loss(np.full(3, np.inf))
    assert z.tolist() == [-12] * 3 and count == 3


def test_surface() -> None:
    """log10 of the loss over a and b as they are, colours from the 5th to the 95th percentile, the centre marked."""
    line = np.linspace(-1, 1, 7)
    figure = draw_surface("title", AXIS, AXIS, BOWL, line, 1e-3 + line**2, 1e-3 + 4 * line**2, "training loss")
    left, right = figure.axes
    (surface,) = left.collections
    assert surface.get_clim() == pytest.approx(tuple(np.percentile(np.log10(BOWL), [5, 95])))
    assert (left.elev, left.azim, left.get_xlabel(), left.get_ylabel()) == (30, 135, "$a$", "$b$")
    assert left.get_zlim()[0] <= -3 and left.get_zlim()[1] >= np.log10(5)
    np.testing.assert_allclose(right.lines[1].get_ydata(), 1e-3 + 4 * line**2)
    assert right.lines[2].get_ydata() == pytest.approx([1e-3]) and right.get_yscale() == "log"
    assert figure.get_suptitle() == "title"
    holes = np.where(BOWL > 3, np.inf, BOWL)
    figure = draw_surface("title", AXIS, AXIS, holes, line, line**2, line**2, "training loss")
    figure.canvas.draw()
    assert f"highest other: {(BOWL > 3).sum()}" in figure.get_suptitle()


def test_web_page() -> None:
    """One file that loads nothing, with x = a down the rows of the loss, and with the losses to point at."""
    asymmetric = np.where(np.arange(25).reshape(5, 5) == 3, np.inf, BOWL)
    page = interactive_surface("a title", AXIS, AXIS, asymmetric, "training loss")
    assert "Plotly.newPlot" in page and "<script src" not in page and "highest other: 1" in page
    assert '"not finite"' in page and f'"{BOWL[0, 1]:.6g}"' in page and "loss = %{text}" in page


def test_axes_of_a_path() -> None:
    """Logarithmic where the ends differ tenfold or the values span two decades, linear elsewhere; gaps are named."""
    assert is_wide([np.array([1.0, 2, 11])]) and is_wide([np.array([1.0, 300, 2])])
    assert not is_wide([np.array([1.0, 50, 2])]) and not is_wide([np.array([0.0, 50, 200])])
    assert not is_wide([np.full(3, np.nan)])
    t, flat = np.linspace(0, 1, 3), np.array([0.2, np.inf, 0.1])
    figure = draw_path("title", t, {"chord": np.array([1e-4, 3, 1]), "bezier": np.array([1e-4, 1e-2, 1])},
                       {"chord": flat, "bezier": flat}, "training loss", "test error", ("A", "B"))
    upper, lower = figure.axes
    assert (upper.get_yscale(), lower.get_yscale()) == ("log", "linear")
    assert [line.get_label() for line in upper.lines] == ["chord", "bezier"]
    assert "gaps in the curves: 2" in figure.get_suptitle() and "0 is A" in lower.get_xlabel()
    figure.canvas.draw()


@pytest.mark.parametrize("k", [2, 9])
def test_similarity(k: int) -> None:
    """A matrix a layer and kernel, numbers in those of up to 8 networks; NaN of constant features too."""
    values = np.full((3, k, k), 0.75) + 0.25 * np.eye(k)
    values[2] = np.nan
    figure = draw_similarity("title", [f"seed_{i}" for i in range(k)], ["h", "g", "output"],
                             {"linear": values, "RBF": values})
    assert [axes.get_title() for axes in figure.axes[:6:3]] == ["h, linear", "h, RBF"]
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == (["1.00", ".75", ".75", "1.00"] if k == 2 else [])
    figure.canvas.draw()
