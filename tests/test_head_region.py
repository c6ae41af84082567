"""The border of a part of the head's surface."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from ofer_models.head.region import region_triangles

SIZE = 40
FAR = slice(10, -10)  # rows that the grid's own ends do not reach


def plane(inside: np.ndarray, **masks: np.ndarray) -> SimpleNamespace:
    """A square grid of SIZE x SIZE vertices in place of a head; masks (SIZE, SIZE) bool."""
    index = np.arange(SIZE * SIZE).reshape(SIZE, SIZE)
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]
    faces = np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)])
    named = {"face": inside, **masks}
    return SimpleNamespace(
        faces=faces, n_vertices=SIZE * SIZE, masks={name: np.flatnonzero(mask) for name, mask in named.items()}
    )


def shown(head: SimpleNamespace) -> np.ndarray:
    used = np.zeros(SIZE * SIZE, bool)
    used[region_triangles(head, "face")] = True
    return used.reshape(SIZE, SIZE)


@pytest.fixture
def half() -> np.ndarray:
    inside = np.zeros((SIZE, SIZE), bool)
    inside[:, : SIZE // 2] = True
    return inside


def test_a_straight_border_stays(half):
    np.testing.assert_array_equal(shown(plane(half))[FAR], half[FAR])


def test_a_tooth_is_cut_and_a_notch_filled(half):
    half[13, SIZE // 2 : SIZE // 2 + 3] = True
    half[24, SIZE // 2 - 3 : SIZE // 2] = False
    region = shown(plane(half))
    assert not region[13, SIZE // 2 + 1 :].any()
    assert region[24, : SIZE // 2].all()


def test_it_does_not_grow_into_openings(half):
    mouth = np.zeros((SIZE, SIZE), bool)
    mouth[8:11, 4:7] = True
    region = shown(plane(half & ~mouth, inner_mouth=mouth))
    assert not region[mouth].any()


def test_no_triangle_of_the_open_head_s_face_sticks_out(open_head):
    triangles = region_triangles(open_head, "face")
    edges = [tuple(sorted(edge)) for t in triangles.tolist() for edge in (t[:2], t[1:], t[::2])]
    uses = Counter(edges)
    borders = np.array([uses[edge] == 1 for edge in edges]).reshape(-1, 3).sum(axis=1)
    assert (borders == 2).mean() < 0.01 and not (borders == 3).any()
    vertices, mask = set(triangles.ravel().tolist()), set(open_head.masks["face"].tolist())
    assert len(vertices ^ mask) < 0.1 * len(mask)
    assert not vertices & set(open_head.masks["inner_mouth"].tolist())
