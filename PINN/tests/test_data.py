"""Points: the counts and the first indices of the published code."""

import math

import numpy as np
import pytest
from pinn.data import Grid, collocation_indices, relative_errors

GRID = Grid((0.0, 2 * math.pi))


def test_counts():
    assert GRID.candidates.shape == (25_500, 2)
    assert GRID.initial.shape == (257, 2) and GRID.boundary(0).shape == (101, 2)
    assert GRID.coarse().all_points().shape == (13_031, 2)
    assert GRID.all_points(GRID.candidates[:1000]).shape == (1_459, 2)


def test_candidates_are_the_interior_with_t_slow():
    points = GRID.candidates
    assert points[0] == pytest.approx([2 * math.pi / 256, 0.01])
    assert points[1] - points[0] == pytest.approx([2 * math.pi / 256, 0.0])
    assert points[255] == pytest.approx([2 * math.pi / 256, 0.02])
    assert points[-1] == pytest.approx([2 * math.pi * 255 / 256, 1.0])
    assert points[:, 0].min() > 0 and points[:, 0].max() < 2 * math.pi and points[:, 1].min() > 0


def test_test_grid_is_a_subgrid_of_the_training_grid():
    test = {tuple(p) for p in np.round(GRID.coarse().candidates, 9)}
    assert test <= {tuple(p) for p in np.round(GRID.candidates, 9)}


def test_published_indices_and_nesting():
    few, many = collocation_indices(GRID, 100, 0), collocation_indices(GRID, 500, 0)
    assert few[:5].tolist() == [20786, 23658, 24197, 23416, 8645]
    assert np.array_equal(many[:100], few)
    assert len(set(many.tolist())) == 500
    assert not np.array_equal(collocation_indices(GRID, 100, 1), few)


@pytest.mark.parametrize("n", [0, -1, 25_501])
def test_impossible_numbers_of_points(n):
    with pytest.raises(ValueError, match="from 1 to 25500"):
        collocation_indices(GRID, n, 0)


def test_relative_errors():
    l1, l2 = relative_errors(np.array([[1.0, 2.0, 5.0]]), np.array([[1.0, -2.0, 2.0]]))
    assert l1[0] == pytest.approx(7 / 5) and l2[0] == pytest.approx(5 / 3)
