"""Triangles to pixels with numpy alone: all pixels of all triangles' boxes at once, nothing compiled.

Made for meshes of thousands of triangles of a few pixels each, as heads are in camera pictures: there a loop over
triangles costs more than the pixels that lie outside of their triangle.
"""

from __future__ import annotations

import numpy as np

_EMPTY = 1e-6  # px^2, twice the area
_EDGE = 1e-3  # of a triangle's size: pixels on the edge between two belong to both, and none is left open


def rasterize(corners: np.ndarray, values: np.ndarray, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Values (H, W, C) float32, run evenly from corner to corner, and what is covered (H, W) float32, 0 or 1.

    corners (F, 3, 2) float32 px, x and y with pixel centres at integers, from the farthest triangle to the nearest:
    a later one hides those before it. values (F, 3, C) float32. shape: (H, W).
    """
    height, width = shape
    a, b, c = corners.transpose(1, 0, 2)
    low = np.maximum(np.ceil(np.minimum(np.minimum(a, b), c) - _EDGE), 0)
    high = np.minimum(np.floor(np.maximum(np.maximum(a, b), c) + _EDGE), (width - 1, height - 1))
    planes, area = _planes(a, b, c)
    kept = np.flatnonzero((high[:, 0] >= low[:, 0]) & (high[:, 1] >= low[:, 1]) & (np.abs(area) > _EMPTY))
    low, box = low.take(kept, axis=0), (high - low + 1).take(kept, axis=0)
    count = (box[:, 0] * box[:, 1]).astype(np.int32)
    owner = np.repeat(kept.astype(np.int32), count)
    # Places in each box, row by row; float32 holds them all exactly.
    place = np.arange(len(owner), dtype=np.float32) - np.repeat((np.cumsum(count) - count).astype(np.float32), count)
    across = np.repeat(box[:, 0].astype(np.float32), count)
    row = np.floor((place + 0.5) / across)
    x = place - row * across + np.repeat(low[:, 0].astype(np.float32), count)
    y = row + np.repeat(low[:, 1].astype(np.float32), count)
    plane = planes.take(owner, axis=0)
    second = plane[:, 0] * x + plane[:, 1] * y + plane[:, 2]
    third = plane[:, 3] * x + plane[:, 4] * y + plane[:, 5]
    inside = np.flatnonzero((second >= -_EDGE) & (third >= -_EDGE) & (second + third <= 1 + _EDGE))
    # numpy assigns in order, so that of several triangles on a pixel the last one, the nearest, stays.
    drawn = np.full(height * width, -1, np.int32)
    drawn[(y.take(inside) * width + x.take(inside)).astype(np.int32)] = inside
    covered = np.flatnonzero(drawn >= 0)
    source = drawn.take(covered)
    of = values.take(owner.take(source), axis=0)
    u, v = second.take(source)[:, None], third.take(source)[:, None]
    painted = np.zeros((height * width, values.shape[2]), np.float32)
    painted[covered] = of[:, 0] + u * (of[:, 1] - of[:, 0]) + v * (of[:, 2] - of[:, 0])
    return painted.reshape(height, width, -1), (drawn >= 0).reshape(height, width).astype(np.float32)


def _planes(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of triangles with corners a, b, c (F, 2) px the barycentric weights of b and c as planes over the picture (F, 6),
    slope along x, along y and value at (0, 0) of each; and twice the signed areas (F,)."""
    u, v = b - a, c - a
    area = u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]
    inverse = 1 / np.where(np.abs(area) > _EMPTY, area, 1)
    bx, by, cx, cy = v[:, 1] * inverse, -v[:, 0] * inverse, -u[:, 1] * inverse, u[:, 0] * inverse
    start = -(bx * a[:, 0] + by * a[:, 1]), -(cx * a[:, 0] + cy * a[:, 1])
    return np.stack([bx, by, start[0], cx, cy, start[1]], axis=1), area
