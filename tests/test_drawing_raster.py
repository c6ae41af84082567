"""Triangles to pixels: what is covered, what hides what, and how values run."""

from __future__ import annotations

import numpy as np
import pytest

from ofer_models.drawing.raster import rasterize

TRIANGLE = np.array([[[1, 1], [9, 1], [1, 9]]], np.float32)


def test_values_run_evenly_and_only_inside():
    values = np.array([[[0, 0], [8, 0], [0, 8]]], np.float32)
    painted, covered = rasterize(TRIANGLE, values, (12, 14))
    rows, columns = np.mgrid[:12, :14]
    inside = (rows >= 1) & (columns >= 1) & (rows + columns <= 10)
    np.testing.assert_array_equal(covered, inside)
    np.testing.assert_allclose(painted[inside], np.stack([columns - 1, rows - 1], axis=-1)[inside], atol=1e-4)
    assert not painted[~inside].any()


def test_later_triangles_hide_those_before():
    both = np.concatenate([TRIANGLE, TRIANGLE + np.float32([2, 0])])
    values = np.repeat(np.float32([[[1]], [[2]]]), 3, axis=1)
    painted, _ = rasterize(both, values, (12, 14))
    assert painted[3, 2] == 1 and painted[3, 4] == 2
    assert rasterize(both[::-1], values[::-1], (12, 14))[0][3, 4] == 1


def test_a_surface_of_many_triangles_has_no_holes():
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(np.arange(0, 41, 2.5), np.arange(0, 31, 2.5)), axis=-1)
    grid[1:-1, 1:-1] += rng.uniform(-0.8, 0.8, grid[1:-1, 1:-1].shape)
    a, b, c, d = grid[:-1, :-1], grid[:-1, 1:], grid[1:, 1:], grid[1:, :-1]
    corners = np.concatenate([np.stack([a, b, c], -2).reshape(-1, 3, 2), np.stack([a, c, d], -2).reshape(-1, 3, 2)])
    _, covered = rasterize(corners.astype(np.float32), np.ones((len(corners), 3, 1), np.float32), (31, 41))
    assert covered.all()


@pytest.mark.parametrize("corners", [
    TRIANGLE + np.float32([100, 0]), TRIANGLE - np.float32([0, 100]), np.full((1, 3, 2), 5.0, np.float32),
    np.array([[[1, 1], [5, 5], [9, 9]]], np.float32),
])
def test_what_is_outside_or_empty_paints_nothing(corners):
    assert not rasterize(corners, np.ones((1, 3, 1), np.float32), (12, 14))[1].any()


def test_a_triangle_over_the_edge_is_cut_there():
    _, covered = rasterize(TRIANGLE - np.float32([5, 0]), np.ones((1, 3, 1), np.float32), (12, 14))
    assert covered.sum() == sum(max(0, 10 - row - 5 + 1) for row in range(1, 10))
